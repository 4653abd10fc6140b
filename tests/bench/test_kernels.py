"""Kernels alone: every format and number of rows runs, and its rate counts what was multiplied."""

from __future__ import annotations

import errno
import mmap
import threading
from typing import Any

import numpy as np
import pytest

from pellucid._engine import Trial, pack_rows, tile_bytes
from pellucid._kernels import rows, weights
from pellucid.bench import kernels
from pellucid.bench.kernels import Kernels
from pellucid.bench.work import Product
from pellucid.errors import IsaError, OutOfMemoryError

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


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What Kernels asks of its trials: (x, tuning, tiles' bytes, times, products)."""
    made: list[tuple[Any, ...]] = []

    class Recording:
        def __init__(self, isa: str, format: str, x: Any, *, terms: int, tuning: Any) -> None:
            self.trial = Trial(isa, format, x, terms=terms, tuning=tuning)
            self.scratch_bytes, self.given = self.trial.scratch_bytes, (x, tuning)

        def run(self, packed: Any, out: Any, scratch: Any, times: int) -> None:
            self.trial.run(packed, out, scratch, times)
            made.append((*self.given, len(packed), times, out))

    monkeypatch.setattr(kernels, "Trial", Recording)
    return made


def test_products_are_finite(calls: list[tuple[Any, ...]]) -> None:
    """Numbers that are not finite, or subnormal, may take another time."""
    for format in weights.formats():
        Kernels(weights.isas()[-1], 1, SIZE).rate(Product(format, 64, 512, 4, 1))
        values = np.abs(calls[-1][-1])
        assert np.isfinite(values).all() and 1e-35 < values.max() < 1e10, format


def test_a_rate_counts_threads_and_repeats(monkeypatch: pytest.MonkeyPatch, calls: list[tuple[Any, ...]]) -> None:
    """With a clock that shows a call as one nanosecond, the rate is the bytes of the calls."""
    monkeypatch.setattr(kernels, "SECONDS", 0.0)
    for clock in ("perf_counter_ns", "thread_time_ns"):
        monkeypatch.setattr(f"time.{clock}", lambda: 0)
    monkeypatch.setattr(kernels, "processors", lambda: 2)
    size = tile_bytes("Q8_0", 256)
    rate = Kernels("scalar", 2, SIZE).rate(Product("Q8_0", 64, 256, 32, 1))
    assert {call[2:4] for call in calls} == {(2 * size, 1)}  # half of 64 rows each
    assert rate == 2 * 2 * size and len(calls) == 2
    monkeypatch.setattr(kernels, "processors", lambda: 1)  # for both threads: each seems as fast as one alone
    assert Kernels("scalar", 2, SIZE).rate(Product("Q8_0", 64, 256, 32, 1)) == 2 * size
    calls.clear()
    rate = Kernels("scalar", 1, SIZE).rate(Product("Q8_0", 64, 256, 1, 1))
    assert rate == SIZE // (4 * size) * 4 * size  # one row: all that there is


@pytest.mark.parametrize("terms", [1, 2])
def test_a_trial_computes_what_the_kernel_does(isa: str, terms: int) -> None:
    x = np.random.default_rng(3).standard_normal((5, 256), np.float32)
    for format in weights.formats():
        raw = kernels._raw(format, 40, 256)
        packed = pack_rows(format, raw, 256)
        assert packed.tobytes() == weights.pack("scalar", format, raw, 256).tobytes()
        trial = Trial(isa, format, x, terms=terms)
        memory = np.empty(trial.scratch_bytes + 64, np.uint8)
        scratch = memory[-memory.ctypes.data % 64 :][: trial.scratch_bytes]
        trial.run(packed, out := np.empty((5, 48), np.float32), scratch, 2)
        if format == "BF16":
            forms: dict[str, Any] = {"b": np.stack([rows.to_bf16(isa, row) for row in x])}
        elif weights.formats()[format]["float"]:
            forms = {"x": x}
        else:
            q, s, sums = (np.stack(a) for a in zip(*(rows.quantize(isa, row, terms) for row in x), strict=True))
            forms = {"q": q, "s": s, "sums": sums, "terms": terms}
        assert out.tobytes() == weights.matmul(isa, format, packed, 48, 256, **forms).tobytes()


def test_a_trial_refuses_what_does_not_fit() -> None:
    x = np.ones((2, 64), np.float32)
    with pytest.raises(ValueError, match="format 'Q9' is unknown; known: F32"):
        Trial("scalar", "Q9", x)
    with pytest.raises(ValueError, match="k is 64, expected a positive multiple of the block of Q4_K"):
        Trial("scalar", "Q4_K", x)
    with pytest.raises(ValueError, match="number of the product"):
        Trial("scalar", "Q8_0", x, terms=3)
    with pytest.raises(IsaError):
        Trial("nothing", "Q8_0", x)
    with pytest.raises(ValueError, match=r"raw has shape \(1, 3\), expected \(rows >= 1, 68\)"):
        pack_rows("Q8_0", np.zeros((1, 3), np.uint8), 64)
    trial, size = Trial("scalar", "Q8_0", x), tile_bytes("Q8_0", 64)
    memory = np.empty(trial.scratch_bytes + 128, np.uint8)
    scratch = memory[-memory.ctypes.data % 64 :][: trial.scratch_bytes]
    packed, out = np.zeros(2 * size, np.uint8), np.empty((2, 32), np.float32)
    trial.run(packed, out, scratch)
    with pytest.raises(ValueError, match=f"packed has {size + 1} bytes, expected a multiple of {size}"):
        trial.run(packed[: size + 1], out, scratch)
    with pytest.raises(ValueError, match=r"out has shape \(2, 32\), expected \(2, 16\)"):
        trial.run(packed[:size], out, scratch)
    with pytest.raises(ValueError, match="scratch must be"):
        trial.run(packed, out, memory)
    with pytest.raises(ValueError, match="times is 0"):
        trial.run(packed, out, scratch, 0)


def test_the_faster_of_two_ways_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Kernels("scalar", 1, SIZE)
    seen = []

    def rate(product: Product) -> float:
        seen.append(product.n)
        return 1.0 if product.n == 512 else 10.0

    monkeypatch.setattr(found, "rate", rate)
    size = 4 * tile_bytes("Q4_0", 256)
    assert found.fastest(Product("Q4_0", 64, 256, 512, 1), runs=2) == pytest.approx(size * 512 / 96 / 10)
    assert seen == [512, 512, 96, 96]
    assert found.fastest(Product("Q4_0", 64, 256, 96, 1), runs=1) == pytest.approx(size / 10)


def test_kernels_run_with_the_tuning_given(calls: list[tuple[Any, ...]]) -> None:
    tuning = {"panel_bytes": 65536}
    Kernels("scalar", 1, SIZE, tuning).rate(Product("Q8_0", 64, 256, 1, 1))
    assert calls and all(call[1] is tuning for call in calls)


def test_where_not_all_threads_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    many, start = Kernels("scalar", 3, SIZE), threading.Thread.start
    left = [True, True]

    def limited(thread: threading.Thread) -> None:
        if not left:
            raise RuntimeError("can't start new thread")
        left.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with pytest.raises(OutOfMemoryError, match="the system allows no 3 more threads"):
        many.rate(Product("Q8_0", 64, 256, 1, 1))


def test_where_a_thread_has_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    many, empty = Kernels("scalar", 3, SIZE), np.empty

    def limited(*given: Any, **more: Any) -> Any:
        if threading.current_thread().name.endswith("_1"):
            raise MemoryError
        return empty(*given, **more)

    monkeypatch.setattr(np, "empty", limited)
    with pytest.raises(MemoryError):
        many.rate(Product("Q8_0", 64, 256, 1, 1))


def test_without_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(mmap.mmap):
        def madvise(self, *_: Any) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(mmap, "mmap", Small)
    assert Kernels("scalar", 1, SIZE).rate(Product("Q8_0", 64, 256, 1, 1)) > 0


def test_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(OutOfMemoryError, match="1 MB of weights"):
        Kernels("scalar", 1, SIZE)
