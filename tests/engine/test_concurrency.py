"""Several users at once: shared models, busy contexts, closing, forks, more threads than cores, Ctrl-C."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.errors import ClosedError, ContextBusyError
from tests.engine import models
from tests.engine.models import Load, ids_for, same

OPTIONS: dict[str, Any] = {"seed": 3, "max_tokens": 30, "temperature": 1.0}


def test_users_of_one_model(load: Load) -> None:
    model = load("wide_gemma", "K")
    prompts = [ids_for(model.core.engine, n, seed=n) for n in (3, 90, 20, 1)]
    expected = [model.generate(p, **OPTIONS).ids for p in prompts]
    logits = [model.logits(p) for p in prompts]
    contexts = [model.context() for _ in prompts]

    def work(i: int) -> bool:
        ok = model.generate(prompts[i], **OPTIONS).ids == expected[i]
        ok &= same(model.logits(prompts[i], chunk=11), logits[i])
        return ok and contexts[i].generate(prompts[i], **OPTIONS).ids == expected[i]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    assert model.core.engine.info()["cache_bytes_used"] > 0
    contexts.clear()
    gc.collect()
    assert model.core.engine.info()["cache_bytes_used"] == 0


def test_more_threads_than_cores(load: Load) -> None:
    one, many = load("wide", "K", threads=1), load("wide", "K", threads=4 * (os.cpu_count() or 1))
    prompt = ids_for(one.core.engine, 100)
    start = time.monotonic()
    assert many.generate(prompt, **OPTIONS).ids == one.generate(prompt, **OPTIONS).ids
    assert same(many.logits(prompt), one.logits(prompt))
    assert time.monotonic() - start < 20  # slower, but no collapse


# ---- one user at a time ---------------------------------------------------------------------------------------


def test_an_open_stream_holds_its_context(load: Load) -> None:
    context = load("llama_gqa").context()
    stream = context.stream([1, 2], **OPTIONS)
    for _ in range(2):  # before its first token, and after
        for use in (context.generate, context.append, context.stream):
            with pytest.raises(ContextBusyError):
                use([3])
        with pytest.raises(ContextBusyError):
            context.rewind(0)
        with pytest.raises(ContextBusyError):
            context.fork()
        next(iter(stream))
    stream.close()
    assert context.length == 4  # the prompt and two tokens
    context.append([3])
    stream = context.stream([4], **OPTIONS)
    next(iter(stream))
    del stream
    gc.collect()
    context.append([5])
    unstarted = context.stream([6], **OPTIONS)
    del unstarted
    gc.collect()
    assert len(list(context.stream([7], max_tokens=3, seed=1))) == 3
    context.rewind(0)


def test_a_stream_that_two_threads_read(load: Load) -> None:
    """The second thread gets an error, and the context stays in use while the first computes."""
    context = load("gemma3").context()
    computing, told = threading.Event(), threading.Event()

    def cancel() -> bool:  # asked at the start of a pass, by the thread that reads
        computing.set()
        return not told.wait(30)

    stream = context.stream([1, 2], max_tokens=3, temperature=0, cancel=cancel)
    pieces: list[Any] = []
    reader = threading.Thread(target=lambda: pieces.extend(stream))
    reader.start()
    assert computing.wait(30)
    with pytest.raises(ContextBusyError):
        next(stream)
    with pytest.raises(ContextBusyError):
        stream.close()
    with pytest.raises(ContextBusyError):
        context.append([3])
    told.set()
    reader.join()
    assert [piece.finish_reason for piece in pieces] == [None, None, "length"]
    context.append([3])


def test_a_second_thread_gets_an_error(load: Load) -> None:
    """Of many threads that use a context at once, each has it exclusively or gets an error."""
    context = load("gemma3").context()
    outcomes: list[str] = []

    def work() -> None:
        for _ in range(20):
            try:
                done = context.generate([1], max_tokens=3, temperature=0)
                outcomes.append(f"{len(done.ids)} tokens")
            except ContextBusyError:
                outcomes.append("busy")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(outcomes) == {"3 tokens", "busy"} and len(outcomes) == 80
    assert context.length == 4 * outcomes.count("3 tokens")


@pytest.mark.parametrize("name", ["llama_gqa", "gemma3"])
def test_closing_under_a_user(folder: Path, name: str) -> None:
    model = Model.load(models.write(folder, name), threads=2)
    context, started = model.context(), threading.Event()
    ended: list[Any] = []

    def work() -> None:
        try:
            for _ in model.stream([1, 2, 3], max_tokens=10**6, temperature=0, on_full="stop"):
                started.set()
            ended.append("done")
        except BaseException as e:
            ended.append(e)

    thread = threading.Thread(target=work)
    thread.start()
    started.wait(10)
    model.close()
    thread.join(20)
    assert not thread.is_alive()
    assert ended[0] == "done" or isinstance(ended[0], ClosedError)
    model.close()
    uses: list[Any] = [model.info, model.plan, model.context, context.fork]
    uses += [lambda: model.generate([1]), lambda: model.logits([1]), lambda: context.rewind(0)]
    uses += [lambda: context.append([1]), lambda: context.generate([1])]
    for use in uses:
        with pytest.raises(ClosedError):
            use()
    assert context.length == 0


def test_closing_while_sequences_are_made(folder: Path) -> None:
    """Freed memory is overwritten, so that who still uses it crashes."""
    code = f"""
import random, sys, threading, time
from pellucid import Model
from pellucid.errors import ClosedError
sys.setswitchinterval(1e-6)

def make():
    try:
        while True:
            model.context()
    except ClosedError:
        pass

for _ in range(200):
    with Model.load({str(models.write(folder, "gemma3"))!r}, threads=1) as model:
        threads = [threading.Thread(target=make) for _ in range(4)]
        for one in threads: one.start()
        time.sleep(0.003 * random.random())
    for one in threads: one.join()
print("fine")
"""
    env = {**os.environ, "MALLOC_PERTURB_": "165"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=env)
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr


def test_cancelling_from_another_thread(load: Load) -> None:
    """A long prefill ends soon after its event is set; other users are not disturbed."""
    slow = load("wide_gemma", "K", isa="scalar", threads=1)
    other = load("llama_gqa")
    few = {**OPTIONS, "max_tokens": 4}
    expected = other.generate([1, 2], **few).ids
    ids = ids_for(slow.core.engine, 4000)
    event = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        job = pool.submit(slow.generate, ids, cancel=event, chunk=32, max_tokens=3)
        time.sleep(0.2)
        assert other.generate([1, 2], **few).ids == expected  # gets its turn between the chunks
        assert not job.done()
        event.set()
        start = time.monotonic()
        done = job.result(20)
        again, event = pool.submit(slow.generate, ids, cancel=(late := threading.Event()), max_tokens=3), late
        time.sleep(0.2)
        event.set()  # inside a chunk of 512, which takes seconds
        assert again.result(20).finish_reason == "cancelled"
    assert done.finish_reason == "cancelled" and done.ids == []
    assert time.monotonic() - start < 5


# ---- processes ------------------------------------------------------------------------------------------------


def _child(path: str, pipe: Any) -> None:
    with Model.load(path, threads=2) as model:
        pipe.send(model.generate([1, 2, 3], **OPTIONS).ids)
        pipe.close()


def test_spawned_processes(folder: Path) -> None:
    path = str(models.write(folder, "llama_gqa"))
    with Model.load(path, threads=2) as model:
        expected = model.generate([1, 2, 3], **OPTIONS).ids
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(path, theirs))
    process.start()
    assert ours.poll(60) and ours.recv() == expected
    process.join(60)
    assert process.exitcode == 0


def python(code: str, path: Path, timeout: float = 60) -> str:
    """Runs code in a separate process, with `model_path` and helpers defined -> its output."""
    before = f"""
import os, signal, sys, threading, time
import numpy as np
from pellucid import Model
path = {str(path)!r}
rng = np.random.default_rng(1)
def interrupt(after):
    def work():
        time.sleep(after)
        global at
        at = time.monotonic()
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=work, daemon=True).start()
def interrupted(fn, after=0.3):
    interrupt(after)
    try:
        fn()
    except KeyboardInterrupt:
        assert time.monotonic() - at < 3, time.monotonic() - at
    else:
        raise SystemExit("not interrupted")
"""
    done = subprocess.run([sys.executable, "-c", before + code], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_forked_child_generates(folder: Path) -> None:
    """Several threads have used the model before the fork; the parent continues to use it, too."""
    out = python(
        """
model = Model.load(path, threads=2)
context = model.context()
context.append([1, 2])
options = dict(seed=3, max_tokens=20, temperature=1.0)
expected = model.generate([1, 2, 3], **options).ids
over = threading.Event()
def work():
    while not over.is_set():
        model.logits([1, 2, 3, 4] * 10)
threads = [threading.Thread(target=work) for _ in range(2)]
for t in threads: t.start()
for i in range(6):
    pid = os.fork()
    if pid == 0:
        ok = model.generate([1, 2, 3], **options).ids == expected and context.generate([3], **options).ids == expected
        if ok and i == 0:
            inner = os.fork()
            if inner == 0:
                os._exit(0 if model.generate([1, 2, 3], **options).ids == expected else 1)
            ok = os.waitpid(inner, 0)[1] == 0
        os._exit(0 if ok else 1)
    assert model.generate([1, 2, 3], **options).ids == expected
    assert os.waitpid(pid, 0)[1] == 0, "the child failed"
over.set()
for t in threads: t.join()
assert context.generate([3], **options).ids == expected
print("fine")
""",
        models.write(folder, "wide", "K"),
    )
    assert out == "fine\n"


def test_ctrl_c(folder: Path) -> None:
    """Ctrl-C acts at once in a prefill, a long pass and between tokens of a stream; the model stays usable."""
    out = python(
        """
model = Model.load(path, threads=1, isa="scalar", context=4096)
ids = [int(i) for i in rng.integers(0, 300, 4000)]
few = model.logits(ids[:20])
context = model.context()
context.append(ids[:10])
interrupted(lambda: model.logits(ids))
interrupted(lambda: model.generate(ids, max_tokens=1))
interrupted(lambda: context.append(ids[10:]))
assert context.length == 10
interrupted(lambda: context.generate(ids[10:], max_tokens=1))
assert context.length == 10, context.length
interrupted(lambda: [model.generate(ids[:5], max_tokens=100, seed=1) for _ in range(10**6)])
interrupted(lambda: context.generate(max_tokens=4000, ignore_eos=True, cache=True))
held = context.ids
assert len(held) > 10
context.rewind(10)
assert np.array_equal(model.logits(ids[:20]), few)
a, b = context.generate(ids[10:20], max_tokens=3, seed=1).ids, model.generate(ids[:20], max_tokens=3, seed=1).ids
assert a == b
print("fine")
""",
        models.write(folder, "wide_gemma", "K"),
    )
    assert out == "fine\n"


def test_ctrl_c_while_loading(smollm2: Path) -> None:
    out = python(
        """
def once(done, total, what):
    global at
    if 0.2 < done / total:
        at = time.monotonic()
        os.kill(os.getpid(), signal.SIGINT)
caught = 0
for progress in (once, None):
    try:
        if progress is None:
            interrupted(lambda: [Model.load(path, threads=1) for _ in range(50)], 0.5)
        else:
            Model.load(path, threads=1, isa="scalar", progress=progress)
    except KeyboardInterrupt:
        assert time.monotonic() - at < 2
    else:
        assert progress is None, "not interrupted"
    caught += 1
def fails(*args):
    raise ZeroDivisionError
try:
    Model.load(path, threads=1, progress=fails)
except ZeroDivisionError:
    caught += 1
model = Model.load(path)
assert len(model.generate("Hello", max_tokens=2, temperature=0).ids) == 2
print("fine", caught)
""",
        smollm2,
    )
    assert out == "fine 3\n"


def test_ctrl_c_without_an_own_thread_of_python(folder: Path) -> None:
    """Another thread than the main one computes; the main thread, which waits for it, still receives the signal."""
    out = python(
        """
from concurrent.futures import ThreadPoolExecutor
model = Model.load(path, threads=1, isa="scalar", context=4096)
ids = [int(i) for i in rng.integers(0, 300, 4000)]
event = threading.Event()
pool = ThreadPoolExecutor(1)
job = pool.submit(model.generate, ids, cancel=event, max_tokens=1)
interrupted(lambda: job.result())
event.set()
assert job.result(10).finish_reason == "cancelled"
print("fine")
""",
        models.write(folder, "wide_gemma", "K"),
    )
    assert out == "fine\n"
