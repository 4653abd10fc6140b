"""Memory or threads are refused: everywhere the error is OutOfMemoryError, and the model stays usable."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from tests.engine import models

ROOT = Path(__file__).resolve().parents[2]

EVERYWHERE = """
import ctypes, json, os, signal, sys, traceback
import numpy as np
from pellucid import Model, _engine
shim = ctypes.CDLL(sys.argv[1])
path, module = sys.argv[2], os.path.basename(_engine.__file__).encode()

def work():
    with Model.load(path, threads=2, context=4096) as model:
        context = model.context()
        context.append(ids)
        fork = context.fork()
        fork.rewind(60)
        done = [fork.generate([1, 2], **options), context.generate([3], **options)]
        with model.edit() as edited:
            edited.skip(1, "mlp")
            done.append(edited.generate(ids[:20], **options))
        trace = model.trace(ids[:20], ("hidden", "attention"))
        return [one.ids for one in done], trace.hidden.tobytes()

ids = [i % 90 for i in range(100)]
options = dict(max_tokens=3, seed=1, logprobs=2, repeat_penalty=1.1, dry_multiplier=0.5, logit_bias={1: 0.5})
expected = work()
assert shim.arm(module, -1)
places = {}
for n in range(10000):
    pid = os.fork()
    if pid == 0:
        signal.alarm(100)
        code = 3
        try:
            shim.arm(module, n)
            try:
                code = 0 if work() == expected else 2
            except MemoryError as e:
                code = 1
            if shim.count() <= n:
                code = 4 if code == 0 else 5
            shim.arm(module, -1)
            if code == 1 and work() != expected:
                code = 6
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    places.setdefault(str(code), []).append(n)
    if code == 4:
        break
print(json.dumps(places))
"""


def shim_in(folder: Path) -> Path:
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")[0]
    shim = folder / "memory.so"
    command = [compiler, "-O1", "-shared", "-fPIC", str(ROOT / "tests/sanitizers/memory.c"), "-o", str(shim), "-ldl"]
    subprocess.run(command, check=True, timeout=120)
    return shim


@pytest.mark.filterwarnings("ignore")
def test_at_every_allocation(tmp_path: Path) -> None:
    """Each allocation of a load, generations, a fork, a rewind, an edit and a trace fails once, in a separate process,
    which then repeats everything. (Threads that only measure how many are possible may fail without an error.)"""
    shim, path = shim_in(tmp_path), models.write(tmp_path, "gemma3")
    done = run(EVERYWHERE, str(shim), str(path), LD_PRELOAD=str(shim))
    places = json.loads(done.stdout)
    assert set(places) <= {"0", "1", "4"}, f"{places}\n{done.stderr}"
    assert len(places["1"]) > 200 and places["1"][0] == 0, places  # the first is the tokenizer's thread


SAMPLER = """
import ctypes, os, sys
import numpy as np
from pellucid import Model, _engine
from pellucid.errors import OutOfMemoryError
shim, libc = ctypes.CDLL(sys.argv[1]), ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
engine = Model.load(sys.argv[2], threads=1).core.engine
module = os.path.basename(_engine.__file__).encode()

def draw(sampler):
    return engine.forward([(_engine.Sequence(engine), [1], 0)], samplers=[sampler])[0][0]

def fill():  # takes the memory that was freed
    for n in 50 * (400, 1600, 4800):
        ctypes.memset(libc.malloc(n), 127, n)

best = draw(_engine.Sampler())
others = [id for id in range(engine.vocab) if id != best]
ids = [best, *others[:7], best] * 44 + [best, *others[:3]]  # 400; the next one repeats others[3]
for chosen in (dict(presence_penalty=100.0), dict(dry_multiplier=100.0, bias={others[3]: 50.0})):
    for n in range(3):
        sampler = _engine.Sampler(**chosen)
        sampler.extend(ids)
        expected, plain = draw(sampler), draw(_engine.Sampler(bias=chosen.get("bias")))
        fill()
        assert shim.arm(module, n)
        try:
            sampler.extend(ids * 10)
            print("no error")
        except OutOfMemoryError:
            pass
        shim.arm(module, -1)
        fill()
        print(draw(sampler) == expected != plain and sampler.length == len(ids), flush=True)
"""


def test_a_sampler_without_memory_for_more_tokens(tmp_path: Path) -> None:
    """It draws as before, from the tokens that it has."""
    shim, path = shim_in(tmp_path), models.write(tmp_path, "gemma3")
    said = run(SAMPLER, str(shim), str(path), LD_PRELOAD=str(shim)).stdout.split()
    assert said == ["True"] * 6, said


LIMITS = """
import os, resource, sys
from pellucid import Model
from pellucid.errors import OutOfMemoryError
prompt = [{"role": "user", "content": "Hi"}]
def work():
    return Model.load(sys.argv[1], threads=2, context=512).chat(prompt, max_tokens=2).ids
def size():
    return int(open("/proc/self/statm").read().split()[0]) * 4096
counts = {}
for mb in range(4, 804, 16):
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_AS, (size() + (mb << 20), resource.RLIM_INFINITY))
        try:
            code = "no result" if len(work()) != 2 else "tokens"
        except OutOfMemoryError as e:
            code = "error" if str(e) else "an error without words"
        except BaseException as e:
            code = f"{type(e).__name__}: {e}"
        os.write(1, f"{code}\\n".encode())
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        print("killed", mb, flush=True)
"""


def test_under_a_limit_of_address_space(smollm2: Path) -> None:
    """As with `ulimit -v`: OutOfMemoryError, whether weights, a thread or a module's code does not fit."""
    said = run(LIMITS, str(smollm2)).stdout.split("\n")[:-1]
    assert len(said) == 50 and set(said) == {"error", "tokens"}, said


FRESH = """
import resource, sys
import pellucid.core, tokenizers
from pellucid import Model
from pellucid.errors import OutOfMemoryError
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (int(sys.argv[2]) << 20),) * 2)
try:
    with Model.load(sys.argv[1], threads=1) as model:
        print("tokens" if model.generate("Once", max_tokens=1).ids else "no result")
except OutOfMemoryError:
    print("error")
"""


def test_a_tokenizer_without_memory(smollm2: Path) -> None:
    """The tokenizers package would end a process that runs out of memory: what it may need is checked beforehand."""
    said = [run(FRESH, str(smollm2), str(megabytes)).stdout.strip() for megabytes in range(96, 528, 16)]
    assert set(said) == {"error", "tokens"} and said[0] == "error" and said[-1] == "tokens", said


DESCRIPTORS = """
import os, resource, sys
from pellucid import Model
from pellucid.errors import ModelFileError, OutOfMemoryError
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
taken = []
try:
    while True:
        taken.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
for fd in taken[:int(sys.argv[2])]:
    os.close(fd)
try:
    with Model.load(sys.argv[1], threads=1) as model:
        print("tokens" if model.generate([1, 2], max_tokens=1).ids else "no result")
except (ModelFileError, OutOfMemoryError) as e:
    print("error" if "file" in str(e) else e)
"""


def test_when_too_many_files_are_open(smollm2: Path) -> None:
    """However many descriptors are left, the model works or the error says that it is files that are missing."""
    said = [run(DESCRIPTORS, str(smollm2), str(left)).stdout.strip() for left in range(4)]
    assert set(said) <= {"error", "tokens"} and said[0] == "error" and said[3] == "tokens", said


def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    environ: Any = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environ)
    assert done.returncode == 0, done.stderr
    return done
