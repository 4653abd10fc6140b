"""Forks of a process while its other threads work."""

from __future__ import annotations

import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.engine import models

ROOT = Path(__file__).resolve().parents[2]


def test_forks_while_threads_take_pages(tmp_path: Path) -> None:
    """The threads run in C, where no interpreter lock serialises their use of the pool."""
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")[0]
    sources = [ROOT / "tests/sanitizers/forks.c", *sorted((ROOT / "csrc/cache").glob("*.c")), ROOT / "csrc/cpu/arena.c"]
    program = tmp_path / "forks"
    command = [compiler, "-std=gnu11", "-O1", f"-I{ROOT / 'csrc'}", *sources, "-pthread", "-o", program]
    subprocess.run(list(map(str, command)), check=True, timeout=120)
    done = subprocess.run([program], capture_output=True, text=True, timeout=300)
    assert done.stdout == "40 of 40 children ended well\n" and done.returncode == 0


@pytest.mark.parametrize("name", ["llama_gqa", "gemma3"])
def test_a_child_uses_what_the_parents_threads_share(tmp_path: Path, name: str) -> None:
    """Threads append, fork, rewind and release; each child continues a context that it inherits."""
    code = f"""
import os, signal, threading
from pellucid import Model
model = Model.load({str(models.write(tmp_path, name))!r}, threads=2)
idle = model.context()
idle.append(list(range(70)))
options = dict(max_tokens=5, temperature=0)
expected = idle.fork().generate([1], **options).ids
over = threading.Event()
def work(seed, mine):
    while not over.is_set():
        mine.append([seed] * 60)
        other = mine.fork()
        other.append([1])
        mine.rewind(70)
threads = [threading.Thread(target=work, args=(i, idle.fork())) for i in range(3)]
for t in threads: t.start()
bad = 0
for _ in range(10):
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        ok = idle.fork().generate([1], **options).ids == expected and idle.generate([1], **options).ids == expected
        os._exit(0 if ok else 1)
    bad += os.waitpid(pid, 0)[1] != 0
over.set()
for t in threads: t.join()
print(bad, idle.generate([1], **options).ids == expected)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout == "0 True\n", done.stdout + done.stderr
