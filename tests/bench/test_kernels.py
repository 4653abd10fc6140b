"""Kernels alone: every format and number of rows runs, and its rate counts what was multiplied."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import pytest

from pellucid._kernels import weights
from pellucid.bench import kernels
from pellucid.bench.kernels import Kernels
from pellucid.bench.work import Product
from pellucid.errors import OutOfMemoryError

SIZE = 1 << 20


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "SECONDS", 0.001)
    monkeypatch.setattr(kernels, "CALL_OPERATIONS", 1e5)


@pytest.mark.parametrize("format", weights.formats())
@pytest.mark.parametrize("n", [1, 17, 100])
def test_every_format(isa: str, format: str, n: int) -> None:
    many = Kernels(isa, 2, SIZE)
    terms = [1] if weights.formats()[format]["float"] else [1, 2]
    for product in (Product(format, 40, 256, n, t) for t in terms):
        assert 1e-4 < many.rate(product) < 1e4  # bytes per nanosecond


def test_products_are_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that are not finite, or subnormal, may take another time."""
    seen = []

    def matmul(*given: Any, **forms: Any) -> None:
        seen.append(multiply(*given, **forms))

    multiply = weights.matmul
    monkeypatch.setattr(weights, "matmul", matmul)
    for format in weights.formats():
        Kernels(weights.isas()[-1], 1, SIZE).rate(Product(format, 64, 512, 4, 1))
        values = np.abs(seen[-1])
        assert np.isfinite(values).all() and 1e-35 < values.max() < 1e10, format


def test_a_rate_counts_threads_and_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that shows a call as one nanosecond, the rate is the bytes of the calls."""
    monkeypatch.setattr(kernels, "SECONDS", 0.0)
    calls = []
    monkeypatch.setattr(weights, "matmul", lambda *given, **forms: calls.append((given, forms)))
    for clock in ("perf_counter_ns", "thread_time_ns"):
        monkeypatch.setattr(f"time.{clock}", lambda: 0)
    size = weights.tile_bytes("Q8_0", 256)
    rate = Kernels("scalar", 2, SIZE).rate(Product("Q8_0", 64, 256, 32, 1))
    assert {(given[3], forms["repeat"]) for given, forms in calls} == {(32, 1)}  # half of 64 rows each
    assert rate == 2 * 2 * size and len(calls) == 2
    calls.clear()
    rate = Kernels("scalar", 1, SIZE).rate(Product("Q8_0", 64, 256, 1, 1))
    assert rate == SIZE // (4 * size) * 4 * size  # one row: all that there is


def test_the_faster_of_two_ways_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Kernels("scalar", 1, SIZE)
    seen = []

    def rate(product: Product) -> float:
        seen.append(product.n)
        return 1.0 if product.n == 512 else 10.0

    monkeypatch.setattr(found, "rate", rate)
    size = 4 * weights.tile_bytes("Q4_0", 256)
    assert found.fastest(Product("Q4_0", 64, 256, 512, 1), runs=2) == pytest.approx(size * 512 / 96 / 10)
    assert seen == [512, 512, 96, 96]
    assert found.fastest(Product("Q4_0", 64, 256, 96, 1), runs=1) == pytest.approx(size / 10)


def test_kernels_run_with_the_tuning_given(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(weights, "matmul", lambda *_, tuning, **__: seen.append(tuning))
    tuning = {"panel_bytes": 4096}
    Kernels("scalar", 1, SIZE, tuning).rate(Product("Q8_0", 64, 256, 1, 1))
    assert seen and all(given is tuning for given in seen)


def test_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(OutOfMemoryError, match="1 MB of weights"):
        Kernels("scalar", 1, SIZE)
