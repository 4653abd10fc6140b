"""The peak measured again and again, and what follows from its swing."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from benchmarks import peaks
from benchmarks.peaks import Round
from pellucid.bench import kernels
from pellucid.bench.limits import Prober

QUIET = Round(clock=3.0, one=256.0, all=255.0, int8=1530.0, wall=1520.0, kernel=900.0, read=30.0, steal=0.0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "nothing swings"),
        ({"wall": 760.0}, "waited for a processor"),
        ({"all": 150.0, "int8": 900.0, "wall": 895.0}, "another tenant"),
        ({"one": 150.0, "all": 150.0, "int8": 900.0, "wall": 895.0}, "another tenant"),
        ({"clock": 2.0, "int8": 1020.0, "wall": 1015.0}, "the clock varies"),
        ({"steal": 0.1}, "steal"),
    ],
)
def test_findings(changes: dict[str, float], said: str) -> None:
    (found,) = peaks.findings([QUIET, replace(QUIET, **changes), QUIET])
    assert said in found


def test_a_shared_core_is_always_slower() -> None:
    half = replace(QUIET, all=128.0, int8=768.0, wall=760.0)
    assert peaks.findings([half, half]) == [
        "all threads do less per cycle than one alone, in every round: processors share a core"
    ]


def test_a_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "ROUNDS", 1000)
    monkeypatch.setattr(kernels, "SECONDS", 0.005)
    monkeypatch.setattr(peaks, "Prober", partial(Prober, size=8 << 20))
    peaks.main(["--isa", "scalar", "--threads", "2", "--seconds", "1", "--format", "Q8_0"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["second", "clock", "one", "all", "int8", "wall", "kernel", "read", "steal"]
    least, median, most = ([float(x) for x in row.split()[1:]] for row in lines[-10:] if row.split()[0] in NAMES)
    assert all(0 <= a <= b <= c for a, b, c in zip(least, median, most, strict=True))
    assert all(x > 0 for x in least[:7])


NAMES = ("least", "median", "most")


@pytest.mark.parametrize("wrong", [["--isa", "mmx"], ["--seconds", "0"], ["--format", "Q9"]])
def test_wrong_arguments(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        peaks.main(wrong)
    assert ended.value.code == 2
    assert wrong[0] in capsys.readouterr().err
