"""The probes: every tier has them, their figures are plausible, and huge pages are reported only where they exist."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pellucid import _engine, memory
from pellucid._kernels.machine import arena_probe, topology
from pellucid.bench import limits
from pellucid.bench.limits import Limits, Prober, buffer_size, last_cache
from pellucid.errors import IsaError
from pellucid.processor import processors

SIZE = 8 << 20


@pytest.mark.parametrize("threads", [1, 2])
def test_limits_are_possible(isa: str, threads: int) -> None:
    prober = Prober(isa, threads, SIZE)
    found = prober.measure()
    huge = arena_probe(SIZE, touch=False)
    assert huge is not None and prober.huge == huge["huge"] == (found.read_2m is not None)
    assert (found.bf16 is not None) == (isa in ("avx512bf16", "amx"))
    assert (found.int8_wide is not None) == (isa == "avx2")  # others have an instruction that adds to 32 bits
    for value in (*found.values(), prober.read()):
        assert value is None or 0.05 < value < 1e5  # GB/s, Gop/s or GHz; no machine of today is outside
    assert 0.2 < found.clock < 10  # of a core, not of all


def test_the_best_of_a_session_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    prober = Prober("scalar", 1, SIZE)
    assert prober.best is None
    series = iter((20.0, 30.0, 25.0))
    now = {"read_4k": 8.0, "read_2m": 9.0}

    def best(kind: str) -> float:
        return now[kind] if kind in now else next(series) if kind == "int8" else 5.0

    monkeypatch.setattr(prober, "_best", best)
    assert [prober.measure().int8, prober.holding().int8] == [20.0, 30.0]
    now["read_4k"] = 4.0
    last = prober.holding()  # 25 by itself
    assert (last.int8, last.read_4k) == (30.0, 4.0)
    assert prober.best is not None and (prober.best.int8, prober.best.read_4k) == (30.0, 8.0)


def test_a_peak_is_per_processor_time() -> None:
    """More threads than processors wait for each other, which slows no core."""
    processors = len(os.sched_getaffinity(0))
    ratios = []
    for _ in range(5):
        one, many = (_engine.Probe(isa="scalar", threads=n, size=4096) for n in (1, 4 * processors))
        rates = [done / ns for done, ns in (one.run("clock", 500_000), many.run("clock", 500_000))]
        ratios.append(rates[1] / rates[0])
    assert max(ratios) > 2 * processors  # by the wall, it would be at most the number of processors


def test_peaks_are_those_of_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """By processor time, threads that share a processor each look as fast as one alone."""
    monkeypatch.setattr(limits, "processors", lambda: 1.5)
    for threads, share in ((1, 1.0), (3, 0.5)):
        prober = Prober("scalar", threads, SIZE)
        monkeypatch.setattr(prober, "_best", lambda kind: 6.0)
        found = prober.measure()
        assert (found.read_4k, found.int8, found.f32, found.clock) == (6.0, 6 * share, 6 * share, 6 / threads)


def test_processors() -> None:
    assert processors() == topology()["processors"] <= len(os.sched_getaffinity(0))


def test_counts(isa: str) -> None:
    probe = _engine.Probe(isa=isa, threads=2, size=SIZE)
    for rounds in (1, 3):
        done, ns = probe.run("read_4k", rounds)
        assert round(done) == SIZE * rounds and ns > 0
    for kind in (
        "int8",
        "f32",
        "clock",
        *(["int8_wide"] if probe.has("int8_wide") else []),
    ):  # as much again for as many rounds again
        assert probe.run(kind, 500)[0] * 2 == pytest.approx(probe.run(kind, 1000)[0], rel=1e-9)


def test_threads_share_what_is_read() -> None:
    for threads in (1, 2, 3):
        probe = _engine.Probe(isa="scalar", threads=threads, size=SIZE)
        assert round(probe.run("read_4k", 1)[0]) == SIZE
        one, _ = _engine.Probe(isa="scalar", threads=1, size=SIZE).run("f32", 1000)
        assert probe.run("f32", 1000)[0] == pytest.approx(one * threads)


def test_wrong_arguments() -> None:
    with pytest.raises(IsaError):
        _engine.Probe(isa="dance", threads=1, size=SIZE)
    for threads, size in ((0, SIZE), (2000, SIZE), (1, 0), (1, -1)):
        with pytest.raises(ValueError, match="out of range"):
            _engine.Probe(isa="scalar", threads=threads, size=size)
    probe = _engine.Probe(isa="scalar", threads=1, size=SIZE)
    assert not probe.has("bf16")
    for kind, rounds in (("bf16", 1), ("f32", 0), ("read_4k", -1), ("dance", 1)):
        with pytest.raises(ValueError):
            probe.run(kind, rounds)


def test_interrupted_while_buffers_are_filled() -> None:
    """Ctrl-C does not wait for the memory of several GB."""
    code = """
import signal
from pellucid import _engine
from tests.peak import peak
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.setitimer(signal.ITIMER_REAL, 0.01)
try:
    _engine.Probe(isa="scalar", threads=1, size=512 << 20)
except KeyboardInterrupt:
    print(peak() >> 10)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert int(done.stdout) < 900, done.stderr  # MB, of 1,024 and what Python takes


def test_last_cache(tmp_path: Path) -> None:
    assert last_cache(tmp_path) is None
    for i, text in enumerate(("32K\n", "512K\n", "16M\n", "nonsense\n")):
        folder = tmp_path / "sys/devices/system/cpu/cpu0/cache" / f"index{i}"
        folder.mkdir(parents=True)
        (folder / "size").write_text(text)
    assert last_cache(tmp_path) == 16 << 20
    for cpu in range(8):  # four share one, as in a processor of several dies
        folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/cache"
        for index, (size, shared) in enumerate(
            ((32, f"{cpu}"), (1024, f"{cpu}"), (32768, f"{cpu // 4 * 4}-{cpu // 4 * 4 + 3}"))
        ):
            (folder / f"index{index}").mkdir(parents=True, exist_ok=True)
            (folder / f"index{index}/size").write_text(f"{size}K\n")
            (folder / f"index{index}/shared_cpu_list").write_text(f"{shared}\n")
    assert last_cache(tmp_path) == 64 << 20


def test_buffers_leave_room_in_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "last_cache", lambda: 260 << 20)
    left: list[int | None] = [None, 1 << 40, 800 << 20, 0]
    monkeypatch.setattr(memory, "available", lambda: left[0])
    found = []
    while left:
        found.append(buffer_size())
        left.pop(0)
    assert found == [2 << 30, 2 << 30, 100 << 20, 4096]


def test_better_and_peak() -> None:
    a, b = Limits(10.0, None, 100.0, None, 50.0, 3.0), Limits(12.0, None, 90.0, None, 60.0, 2.0)
    best = Limits.better(a, b)
    assert best == Limits(12.0, None, 100.0, None, 60.0, 3.0)
    assert (best.read(True), best.read(False)) == (12.0, 12.0)
    assert b.computing(a) == Limits(12.0, None, 100.0, None, 50.0, 3.0)
    assert best.peak("bf16") == 60.0  # without an instruction it runs as float32
    assert Limits(10.0, 20.0, 100.0, 80.0, 50.0, 3.0).read(True) == 20.0
    assert Limits(10.0, 20.0, 100.0, 80.0, 50.0, 3.0).peak("bf16") == 80.0
    assert Limits(10.0, 20.0, 100.0, 80.0, 50.0, 3.0).peak("int8_wide") == 100.0
    assert Limits(10.0, 20.0, 100.0, 80.0, 50.0, 3.0, 60.0).peak("int8_wide") == 60.0


def test_products_of_a_probe() -> None:
    probe = _engine.Probe(isa=_engine.find_isa(None), threads=2, size=1 << 20, small=False)
    assert not probe.has("read_4k") and probe.has("int8")
    for format in ("Q4_0", "Q4_K", "Q8_0"):
        one = {"format": format, "k": 512, "rows": 3, "size": 1 << 19, "at": 1 << 18, "times": 2, "cold": True}
        found = probe.products([one, {"format": "Q8_0", "k": 256, "rows": 1, "size": 1 << 14}, one])
        assert len(found) == 3 and min(found) > 0
    assert probe.products([one], seconds=0.0) == probe.products([]) == []
    for wrong in (
        {"format": "F32"},
        {"format": "Q9_0"},
        {"k": 100},
        {"k": 0},
        {"rows": 0},
        {"size": 0},
        {"size": (1 << 20) + 1},
        {"size": 100},
        {"at": -64},
        {"at": 1 << 20},
        {"at": 1},
        {"times": 0},
        {"terms": 3},
    ):
        arguments: Any = {"format": "Q4_0", "k": 512, "rows": 1, "size": 1 << 19, **wrong}
        with pytest.raises(ValueError, match="product is out of range|no tile"):
            probe.products([one, arguments])
