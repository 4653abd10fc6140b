"""Matrix kernels on their own: the speed of products without a model around them, on several threads.

Each thread multiplies its own weights, in 2 MB pages if the system has them, without waiting for the others. So any
extra time of a product in a model is the cost of its surroundings: laying out and quantising activations, shares of
tiles, barriers, other operations.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from pellucid._engine import Trial, pack_rows, row_bytes, tile_bytes
from pellucid.bench.limits import buffer_size
from pellucid.bench.work import Product
from pellucid.errors import OutOfMemoryError
from pellucid.processor import processors

__all__ = ["Kernels"]

SECONDS = 0.05  # of one run, in which the bandwidth rarely changes
TILE = 16  # rows of a packed matrix that are stored together
FEW = 16  # up to this many rows, a product reads weights about as fast as it computes
CALL_BYTES = 16 << 20  # of weights per call with few rows: a millisecond, so that Python's share is negligible
CALL_OPERATIONS = 1e9  # per call with many rows: two milliseconds
AT_ONCE = 96  # rows that a kernel may also process at a time, of many; the faster way counts
_HUGE = 2 << 20


class _Weights:
    """The memory of a thread, filled with random weights of one shape."""

    def __init__(self, size: int) -> None:
        try:
            self._memory = mmap.mmap(-1, size + _HUGE)
        except OSError:
            raise OutOfMemoryError(f"no memory for {size >> 20} MB of weights") from None
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # without huge pages
                self._memory.madvise(mmap.MADV_HUGEPAGE)
        flat = np.frombuffer(self._memory, np.uint8)
        self.flat = flat[-flat.ctypes.data % _HUGE :][:size]

    def fill(self, tiles: npt.NDArray[np.uint8]) -> None:
        """As many copies of the same tiles as fit: with random codes, no copy is faster than another."""
        times = max(len(self.flat) // len(tiles), 1)
        if len(tiles) > len(self.flat):  # a few rows of a matrix that is larger than the memory
            self.flat = np.empty_like(tiles)
        self.packed = self.flat[: times * len(tiles)]
        self.packed.reshape(times, -1)[:] = tiles


class Kernels:
    """Multiplies on `threads` threads with the kernels of tier `isa`. size: bytes of weights per thread; default: a
    Prober's buffer, divided among the threads. tuning: {name: value}, as in ModelInfo; default: by processor. Raises
    OutOfMemoryError, as `rate` does."""

    def __init__(
        self, isa: str, threads: int, size: int | None = None, tuning: Mapping[str, int] | None = None
    ) -> None:
        self.isa, self.tuning = isa, tuning
        size = size or max(buffer_size() // threads, CALL_BYTES)
        self._weights = [_Weights(size) for _ in range(threads)]
        self._filled = ("", 0)

    def load(self, format: str, k: int) -> None:
        """Fills the memory of every thread with random weights in rows of k."""
        if self._filled != (format, k):
            tiles = pack_rows(format, _raw(format, 4 * TILE, k), k)
            for one in self._weights:
                one.fill(tiles)
            self._filled = (format, k)

    def rate(self, product: Product) -> float:
        """Bytes of packed weights per nanosecond, of all threads together, in products repeated for SECONDS.

        With few rows of activations a thread reads its memory from end to end. With more it multiplies as many rows of
        weights as its share of the matrix has, timed by the thread's processor time; threads beyond the number of
        processors are not counted.
        """
        self.load(product.format, product.k)
        x = np.random.default_rng(2).standard_normal((product.n, product.k), np.float32)
        trial = Trial(self.isa, product.format, x, terms=product.terms, tuning=self.tuning)
        start = threading.Barrier(len(self._weights))
        with ThreadPoolExecutor(len(self._weights)) as pool:
            try:
                running = [pool.submit(self._run, one, start, product, trial) for one in self._weights]
            except RuntimeError:
                start.abort()  # running threads wait for all of them
                raise OutOfMemoryError(f"the system allows no {len(self._weights)} more threads") from None
            rate = sum(one.result() for one in running)
        return rate if product.n <= FEW else rate * min(1.0, processors() / len(self._weights))

    def fastest(self, product: Product, runs: int = 3) -> float:
        """Nanoseconds of a product at the best rate of some runs, all its threads together.

        Many rows of activations are also multiplied AT_ONCE at a time: whichever is faster counts.
        """
        tiles = -(-product.rows // TILE)
        size = tiles * tile_bytes(product.format, product.k)
        best = min(size / self.rate(product) for _ in range(runs))
        if product.n > AT_ONCE:
            part = product._replace(n=AT_ONCE)
            best = min(best, *(size * product.n / AT_ONCE / self.rate(part) for _ in range(runs)))
        return best

    def _run(self, one: _Weights, start: threading.Barrier, product: Product, trial: Trial) -> float:
        tile = tile_bytes(product.format, product.k)
        total = len(one.packed) // tile
        tiles, repeat = CALL_BYTES // tile, 1
        if product.n > FEW:
            tiles = -(-product.rows // (TILE * len(self._weights)))
            operations = product.operations * tiles * TILE / product.rows
            repeat = max(1, int(CALL_OPERATIONS / operations))
        tiles = min(max(tiles, 1), total)
        try:
            out = np.empty((product.n, tiles * TILE), np.float32)
            room = np.empty(trial.scratch_bytes + 64, np.uint8)
        except MemoryError:
            start.abort()
            raise
        scratch = room[-room.ctypes.data % 64 :][: trial.scratch_bytes]
        # Memory bandwidth is shared as it is; a computing thread that waits for a processor is not slower for it.
        now = time.perf_counter_ns if product.n <= FEW else time.thread_time_ns
        try:
            start.wait()
        except threading.BrokenBarrierError:
            raise OutOfMemoryError("no memory for the products of another thread") from None
        begin, done, at = now(), 0, 0
        while (spent := now() - begin) < SECONDS * 1e9 or not done:
            packed = one.packed[at * tile : (at + tiles) * tile]
            trial.run(packed, out, scratch, repeat)
            done += len(packed) * repeat
            at = at + tiles if at + 2 * tiles <= total else 0
        return done / max(spent, 1)


def _raw(format: str, rows: int, k: int) -> npt.NDArray[np.uint8]:
    """Random bytes of a file's rows, with floats in them that are neither tiny nor huge."""
    size = (rows, row_bytes(format, k))
    codes = np.random.default_rng(1).integers(0, 256, size, np.uint8)
    codes = codes & np.uint8(0x9F) | np.uint8(0x20)
    if format == "MXFP4":  # a block begins with a power of two
        codes[:, ::17] = codes[:, ::17] % 8 + 120
    return codes
