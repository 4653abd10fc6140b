"""A model within a larger program: worker processes, threads, event loops, other thread pools, fewer processors."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model
from pellucid.errors import ClosedError
from tests.engine import models

OPTIONS: dict[str, Any] = {"seed": 3, "max_tokens": 20, "temperature": 1.0}
PROMPTS = [[1, 2, 3], [5], [7, 8] * 20]
NO_FORK_WARNING = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

held: Model  # a worker process's


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.write(tmp_path_factory.mktemp("process"), "wide", "K")


@pytest.fixture(scope="module")
def model(path: Path) -> Any:
    with Model.load(path, threads=2, context=models.CONTEXT) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def expected(model: Model) -> list[list[int]]:
    return [model.generate(p, **OPTIONS).ids for p in PROMPTS]


def python(code: str, path: Path, **environment: str) -> Any:
    """Runs code in a separate process, which prints JSON. Defined there: path, PROMPTS, OPTIONS, Model, np, show."""
    before = f"""
import ctypes, json, os, sys, threading
import numpy as np
from pellucid import Model
path, PROMPTS, OPTIONS = {str(path)!r}, {PROMPTS!r}, {OPTIONS!r}
def show(model, **more):
    info = model.info()
    print(json.dumps(dict(ids=[model.generate(p, **OPTIONS).ids for p in PROMPTS], threads=info.threads,
                          why=info.threads_why, huge=info.huge_pages, **more)))
"""
    env = {key: value for key, value in os.environ.items() if key != "PELLUCID_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", before + code], capture_output=True, text=True, timeout=120, env={**env, **environment}
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# -- processes and threads --------------------------------------------------------------------------------------------


def load_worker(path: str) -> None:
    global held
    held = Model.load(path, threads=2, context=models.CONTEXT)


def work(i: int) -> list[int]:
    return held.generate(PROMPTS[i], **OPTIONS).ids


@NO_FORK_WARNING
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_pools_of_processes(path: Path, expected: list[list[int]], method: str) -> None:
    """Each worker loads its own model."""
    with multiprocessing.get_context(method).Pool(2, load_worker, (str(path),)) as pool:
        assert pool.map_async(work, [0, 1, 2, 2, 1, 0]).get(120) == [expected[i] for i in (0, 1, 2, 2, 1, 0)]


@NO_FORK_WARNING
def test_a_pool_that_inherits_a_model(model: Model, expected: list[list[int]]) -> None:
    """The model is loaded and used before the fork; the parent uses it at the same time as the children."""
    global held
    held = model
    with multiprocessing.get_context("fork").Pool(2) as pool:
        jobs = pool.map_async(work, [0, 1, 2])
        assert [model.generate(p, **OPTIONS).ids for p in PROMPTS] == expected
        assert jobs.get(120) == expected


def test_an_event_loop(model: Model, expected: list[list[int]]) -> None:
    """Several `asyncio.to_thread` at once: the loop keeps running; an event ends a generation."""

    async def main() -> tuple[list[list[int]], int, str | None]:
        turns, over = 0, False

        async def tick() -> None:
            nonlocal turns
            while not over:
                turns += 1
                await asyncio.sleep(0.001)

        ticking = asyncio.create_task(tick())
        generate: Any = model.generate  # overloaded: more than to_thread's types can say
        calls = [asyncio.to_thread(generate, p, **OPTIONS) for p in PROMPTS]
        done = await asyncio.gather(*calls)
        turned, cancel = turns, threading.Event()
        endless = asyncio.create_task(asyncio.to_thread(generate, [1], max_tokens=4000, temperature=0, cancel=cancel))
        await asyncio.sleep(0.01)
        cancel.set()
        ended = await endless
        over = True
        await ticking
        return [one.ids for one in done], turned, ended.finish_reason

    ids, turns, finish = asyncio.run(main())
    assert ids == expected and turns > 1 and finish == "cancelled"


def test_two_models_from_two_threads(model: Model, expected: list[list[int]], path: Path) -> None:
    """With different numbers of threads, so that the team changes between their passes."""
    other_path = models.write(path.parent, "gemma3")
    with Model.load(other_path, threads=3) as other:
        theirs = [other.generate(p, **OPTIONS).ids for p in PROMPTS]
        with ThreadPoolExecutor(2) as pool:
            for _ in range(3):
                a = pool.submit(lambda: [model.generate(p, **OPTIONS).ids for p in PROMPTS])
                b = pool.submit(lambda: [other.generate(p, **OPTIONS).ids for p in PROMPTS])
                assert (a.result(60), b.result(60)) == (expected, theirs)


def test_closing_one_of_two(model: Model, expected: list[list[int]], path: Path) -> None:
    """A thread generates with the closed model and gets ClosedError or a complete text; the other stays usable."""
    for _ in range(3):
        doomed, started = Model.load(path, threads=2, context=models.CONTEXT), threading.Event()

        def generate(doomed: Model = doomed, started: threading.Event = started) -> str:
            try:
                for _ in doomed.stream([1, 2], max_tokens=3000, temperature=0):
                    started.set()
            except ClosedError:
                return "closed"
            return "whole"

        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(generate)
            assert started.wait(60)
            doomed.close()
            del doomed
            assert [model.generate(p, **OPTIONS).ids for p in PROMPTS] == expected
            assert job.result(120) in ("closed", "whole")


class Counted:
    """An engine that counts its passes and signals when the third begins."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.max_rows, self.passes, self.third = engine, engine.max_rows, 0, threading.Event()

    def forward(self, parts: Any, **options: Any) -> Any:
        self.passes += 1
        if self.passes == 3:
            self.third.set()
        return self.engine.forward(parts, **options)


def test_cancelling_takes_no_more_than_a_chunk(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled from another thread in a prefill of 125 chunks: at most one more pass begins."""
    cancel = threading.Event()
    engine: Any = Counted(model.core.engine)
    stream = model.stream([i % 300 for i in range(4000)], cancel=cancel, chunk=32)
    monkeypatch.setattr(model.core, "open", lambda: engine)
    after: list[int] = []

    def stop() -> None:
        assert engine.third.wait(60)
        cancel.set()
        after.append(engine.passes)

    thread = threading.Thread(target=stop)
    thread.start()
    done = stream.result()
    thread.join()
    assert done.finish_reason == "cancelled" and done.ids == []
    assert 3 <= engine.passes <= after[0] + 1 < 100


# -- beside others' threads -------------------------------------------------------------------------------------------


def test_beside_numpy_s_threads(model: Model, expected: list[list[int]]) -> None:
    rng = np.random.default_rng(1)
    a = rng.standard_normal((400, 400))
    product, over, wrong = a @ a, threading.Event(), []

    def multiply() -> None:
        while not over.is_set():
            wrong.append(not np.allclose(a @ a, product))

    threads = [threading.Thread(target=multiply) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            assert [model.generate(p, **OPTIONS).ids for p in PROMPTS] == expected
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert wrong and not any(wrong)


@pytest.mark.live
@pytest.mark.parametrize("first", ["torch", "pellucid"])
def test_beside_torch_s_threads(path: Path, expected: list[list[int]], first: str) -> None:
    """torch has its own OpenMP runtime; whichever library is loaded first, both give correct results."""
    code = """
if {first}:
    import torch
model = Model.load(path, threads=2, context=4096)
model.generate([1], **OPTIONS)
import torch
torch.set_num_threads(2)
a = torch.randn(300, 300, dtype=torch.float64)
product, over, wrong = a @ a, threading.Event(), []
def multiply():
    while not over.is_set():
        wrong.append(not torch.allclose(torch.relu(a) @ a - torch.relu(-a) @ a, product))
thread = threading.Thread(target=multiply)
thread.start()
for _ in range(3):
    ids = [model.generate(p, **OPTIONS).ids for p in PROMPTS]
over.set()
thread.join()
show(model, wrong=sum(wrong), products=len(wrong), torch=torch.get_num_threads())
"""
    out = python(code.format(first=first == "torch"), path)
    assert out["ids"] == expected and out["wrong"] == 0 < out["products"] and out["torch"] == 2


# -- what the machine allows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", ["1", "3"])
def test_threads_from_the_environment(path: Path, expected: list[list[int]], threads: str) -> None:
    out = python("show(Model.load(path, context=4096))", path, PELLUCID_THREADS=threads)
    assert (out["ids"], out["threads"], out["why"]) == (expected, int(threads), "PELLUCID_THREADS")


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", " 2", "1025", "9" * 5000, "0x2"])
def test_wrong_threads_from_the_environment(path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    from pellucid.cli import main

    monkeypatch.setenv("PELLUCID_THREADS", text)
    with pytest.raises(ValueError, match="PELLUCID_THREADS=") as caught:
        Model.load(path)
    assert len(str(caught.value)) < 200
    assert main(["info", "-m", str(path)]) == 2
    with Model.load(path, threads=1) as loaded:  # what is asked for counts
        assert loaded.info().threads == 1


@pytest.mark.parametrize("threads", [None, 4])
def test_one_processor(path: Path, expected: list[list[int]], threads: int | None) -> None:
    """An affinity mask of one processor: the default is one thread; four share the processor and do not hang."""
    code = (
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        f"show(Model.load(path, threads={threads}, context=4096))"
    )
    out = python(code, path)
    assert (out["ids"], out["threads"]) == (expected, threads or 1)
    assert threads or "1" in out["why"]


def test_a_mask_that_shrinks_under_a_loaded_model(path: Path, expected: list[list[int]]) -> None:
    code = (
        "model = Model.load(path, threads=2, context=4096)\nmodel.generate([1], **OPTIONS)\n"
        "for task in os.listdir('/proc/self/task'):\n"
        "    os.sched_setaffinity(int(task), {min(os.sched_getaffinity(0))})\nshow(model)"
    )
    assert python(code, path)["ids"] == expected


def test_without_huge_pages(path: Path, expected: list[list[int]]) -> None:
    """Switched off for the process, as some launchers do: small pages, and `info` says so."""
    pr_set_thp_disable = 41
    code = (
        f"assert ctypes.CDLL(None).prctl({pr_set_thp_disable}, 1, 0, 0, 0) == 0\n"
        "model = Model.load(path, threads=2, context=4096)\n"
        "kb = [line.split()[1] for line in open('/proc/self/smaps_rollup') if line.startswith('AnonHugePages')]\n"
        "show(model, kb=int(kb[0]))"
    )
    out = python(code, path)
    assert (out["ids"], out["huge"], out["kb"]) == (expected, False, 0)
