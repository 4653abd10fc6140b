"""Fractions of the read bandwidth, grouped by the bandwidth measured at the time."""

from __future__ import annotations

from functools import partial

import pytest

from benchmarks import bandwidth
from pellucid.bench import kernels
from pellucid.bench.limits import Prober
from pellucid.bench.work import Product


def test_runs_are_told_apart_by_the_bandwidth() -> None:
    slow, fast = [(35.0, 0.9), (34.0, 1.0), (36.0, 1.1)], [(58.0, 0.7), (60.0, 0.8)]
    q4, q6 = Product("Q4_0", 2048, 2048, 1, 1), Product("Q6_K", 2048, 2048, 4, 2)
    head, one, other = bandwidth.table({q4: slow + fast, q6: fast})
    assert head.split() == ["at", "35", "GB/s", "at", "59", "GB/s"]
    assert "  1.00 (0.90..1.10) of 3  " in one and one.endswith("  0.75 (0.70..0.80) of 2")
    assert other.startswith("Q6_K  rows   4, terms 2") and " - " in other and other.endswith("0.75 (0.70..0.80) of 2")
    assert bandwidth.table({q4: slow})[0].split() == ["at", "35", "GB/s"]  # one group where all are alike
    assert "quieter" in bandwidth.table({q4: []})[0]


def test_a_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "BYTES", 8 << 20)
    monkeypatch.setattr(kernels, "SECONDS", 0.005)
    monkeypatch.setattr(bandwidth, "RUNS", 2)
    monkeypatch.setattr(bandwidth, "Prober", partial(Prober, size=8 << 20))
    bandwidth.main(["--isa", "scalar", "--rounds", "1", "--format", "Q4_0", "F16"])
    out, err = capsys.readouterr()
    assert "scalar: fraction of the bandwidth" in out
    assert err.split("\n")[:-1] == ["1/1 Q4_0 1 1", "1/1 F16 1 1", "1/1 Q4_0 1 2"]  # floats have one term


@pytest.mark.parametrize(
    ("wrong", "said"), [(["--isa", "mmx"], "--isa"), (["--rows", "0"], "--rows"), (["--threads", "x"], "--threads")]
)
def test_wrong_arguments(wrong: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bandwidth.main(wrong)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
