"""Weights in small pages that become huge ones, as on machines where huge pages are slow to come."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pellucid import Model, _engine

IDS = list(range(40, 70))
GATHERS = tuple(map(int, platform.release().split("-")[0].split(".")[:2])) >= (6, 1)  # Linux


def load(path: Path, monkeypatch: pytest.MonkeyPatch, slow: bool, threads: int = 2) -> Model:
    """slow: whether every huge page is slow to come."""
    with monkeypatch.context() as patch:
        patch.setattr(_engine, "Engine", functools.partial(_engine.Engine, slow_page_ns=1 if slow else 1 << 60))
        return Model.load(path, threads=threads)


def anonymous_huge() -> int:
    """Bytes in huge pages that this process has."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return next(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("AnonHugePages"))


def test_small_pages_become_huge_ones(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same results before and after; the engine rests meanwhile."""
    before = anonymous_huge()
    with load(smollm2, monkeypatch, True) as model:
        info, promised = model.core.engine.info(), model.info().huge_pages
        first = model.logits(IDS)
        with load(smollm2, monkeypatch, False) as other:
            assert other.core.engine.info()["pages"] == ("huge" if promised else "small")
            expected = other.logits(IDS)
        until = time.monotonic() + 60
        while (now := model.core.engine.info()["pages"]) == "gathering" and time.monotonic() < until:
            time.sleep(0.05)
        assert now == ("gathered" if promised and GATHERS else "small")
        if now == "gathered":
            assert anonymous_huge() - before > 0.9 * info["packed_bytes"]
        last = model.logits(IDS)
    assert np.array_equal(first, expected) and np.array_equal(last, expected)


def is_small(address: int) -> bool:
    """Whether the memory there is to have no huge pages."""
    here = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if "-" in first:
            start, end = (int(one, 16) for one in first.split("-"))
            here = start <= address < end
        elif here and first == "VmFlags:":
            return "nh" in rest.split()
    raise AssertionError("there is no such memory")


def test_the_buffers_of_a_pass(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They lie in small pages, and become huge ones after the weights."""
    with load(smollm2, monkeypatch, False) as other:
        assert not is_small(other.core.engine.info()["work"])
    with load(smollm2, monkeypatch, True) as model:
        work = model.core.engine.info()["work"]
        small = is_small(work)  # first of all: the weights are gathered meanwhile
        assert small == model.info().huge_pages  # which the system has
        model.logits(IDS)
        until = time.monotonic() + 60
        while model.core.engine.info()["pages"] == "gathering" and time.monotonic() < until:
            time.sleep(0.05)
        assert not is_small(work)


def test_close_ends_gathering(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wait in (0, 0.03, 0.1):
        model = load(smollm2, monkeypatch, True, threads=1)
        time.sleep(wait)
        start = time.monotonic()
        model.close()
        assert time.monotonic() - start < 10


def test_a_child_without_the_thread(smollm2: Path) -> None:
    """A process forks while pages are gathered; the child computes, closes the model and ends."""
    code = f"""
import functools, os, time
import numpy as np
from pellucid import Model, _engine
_engine.Engine = functools.partial(_engine.Engine, slow_page_ns=1)
model = Model.load({str(smollm2)!r}, threads=2)
for wait in (0.03, 0.1, 0.3):
    time.sleep(wait)
    child = os.fork()
    if not child:
        logits = model.logits([1, 2, 3])
        model.close()
        os._exit(0 if np.isfinite(logits).all() else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
    env = {**os.environ, "PYTHONWARNINGS": "ignore::DeprecationWarning"}  # of a fork with threads
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=env)
    assert (done.stdout.split(), done.returncode) == (["0"] * 3, 0), done.stderr
