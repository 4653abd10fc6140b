"""How long a forward pass takes: seconds = a + b rows + c sum(rows x depth), fitted to the last passes.

The speed of a machine drifts by a factor of two: older passes count less.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from pellucid.schedule.passes import LEAST_PREFILL

__all__ = ["Cost", "Seconds", "fit"]

KEPT = 8  # passes of each size, in powers of two
SMALL = 64  # rows up to which passes of each number of rows are kept apart from the fit
NEAR = 64  # passes after which what was seen of such a number no longer counts
REFIT = 32  # passes after which small ones are predicted anew
UNKNOWN = 1.0, 0.25, 0.0  # before the first pass; only ratios of these count
FORGET = 0.95  # weight of a pass relative to the next one


class Seconds(NamedTuple):
    """The coefficients: seconds per pass, per row, and per row and token before it. None is negative."""

    each: float
    row: float
    deep: float

    def of(self, rows: int, deep: int) -> float:
        """Seconds of a pass. deep: sum of rows x depth, the tokens that their sequences hold."""
        return self.each + self.row * rows + self.deep * deep

    def rows(self, limit: float, rows: int, deep: int, depth: int, most: int, tile: int) -> int:
        """How many rows at `depth` may join a pass of `rows` so that it ends within `limit` seconds: at least
        LEAST_PREFILL, and with the others a multiple of `tile`, up to `most`."""
        spare = max(limit - self.of(rows, deep), 0)
        each = self.row + self.deep * depth
        n = int(min(spare / each, most)) if each > 0 else most if spare else 0
        if n >= most:
            return most
        least = -(-(rows + LEAST_PREFILL) // tile) * tile - rows
        return min(most, max((rows + n) // tile * tile - rows, least))


def fit(passes: Sequence[tuple[int, int, float]]) -> Seconds:
    """Least squares in which coefficients that would be negative are zero. passes: (rows, sum of rows x depth,
    seconds), the oldest first."""
    x = np.array([(1, rows, deep, seconds) for rows, deep, seconds in passes], np.float64)
    # Relative errors count, so that long passes do not decide alone.
    x *= (FORGET ** np.arange(len(x))[::-1] / np.maximum(x[:, 3], 1e-9))[:, None]
    scale = np.maximum(np.abs(x).max(axis=0), 1e-300)
    x /= scale
    products = (x[:, :, None] * x[:, None, :]).sum(axis=0).tolist()  # without a BLAS, whose threads would stay awake
    used = [0, 1, 2]
    while True:
        found = _solve([[products[i][j] for j in (*used, 3)] for i in used])
        if min(found) >= 0 or len(used) == 1:
            break
        del used[found.index(min(found))]
    out = [0.0, 0.0, 0.0]
    for i, value in zip(used, found, strict=True):
        out[i] = max(float(value * scale[3] / scale[i]), 0.0)
    return Seconds(*out)


def _solve(rows: list[list[float]]) -> list[float]:
    """The solution of normal equations, the right side last in each row; if many fit equally well, the smallest
    (Tikhonov 1963, with a weight far below what was measured)."""
    n = len(rows)
    weight = 1e-12 * sum(rows[i][i] for i in range(n))
    for i in range(n):
        rows[i][i] += weight
    for i in range(n):
        for j in range(i + 1, n):
            factor = rows[j][i] / rows[i][i]
            rows[j] = [b - factor * a for a, b in zip(rows[i], rows[j], strict=True)]
    found = [0.0] * n
    for i in reversed(range(n)):
        found[i] = (rows[i][n] - sum(rows[i][j] * found[j] for j in range(i + 1, n))) / rows[i][i]
    return found


class _Near(NamedTuple):
    """How long passes of exactly so many rows took lately: seconds at a depth; `number`: of the last pass."""

    deep: int
    seconds: float
    number: int


class Cost:
    """The last passes of an engine, from which it predicts the next. tile: rows that its kernels multiply together; a
    part of a tile takes as long as all of it."""

    def __init__(self, tile: int = 8) -> None:
        self._tile = tile
        self._passes: dict[int, deque[tuple[int, int, int, float]]] = {}  # by size: (number, rows, deep, seconds)
        self._number = 0
        self._fitted: Seconds | None = None
        self._basis = Seconds(*UNKNOWN)  # an earlier fit
        self._near: dict[int, _Near] = {}  # by rows
        self._due = 1

    def add(self, rows: int, deep: int, seconds: float) -> None:
        self._number += 1
        size = rows.bit_length()
        if size not in self._passes:
            self._passes[size] = deque(maxlen=KEPT)
        self._passes[size].append((self._number, rows, deep, seconds))
        self._fitted = None
        if self._number >= self._due:
            found = self.seconds()
            self._basis = self._basis if found is None else found
            self._due = self._number + min(self._number, REFIT)
        if rows <= SMALL:
            if self._knows(rows):
                expected = self.of(rows, deep)
                seconds = 0.75 * expected + 0.25 * min(max(seconds, expected / 4), expected * 4)
            self._near[rows] = _Near(deep, seconds, self._number)

    def _knows(self, rows: int) -> bool:
        near = self._near.get(rows)
        return near is not None and self._number - near.number <= NEAR

    def of(self, rows: int, deep: int) -> float:
        """Seconds of a pass. Cheap, and more accurate than the fit if passes of exactly so many rows were seen; before
        the first pass, only ratios are meaningful."""
        seconds = self._basis.of(rows, deep)
        near = self._near.get(rows)
        if near is not None:
            seconds *= near.seconds / max(self._basis.of(rows, near.deep), 1e-9)
        return max(seconds, 1e-9)

    def at_best(self, rows: int, deep: int, fewer: int, before: float) -> float:
        """As `of`; but if no pass of so many rows was seen lately, no more than it may take at best, so that it is
        tried if it would pay: the fit may be far off, as after a first pass in cold memory. before: seconds of a pass
        of `fewer` rows."""
        seconds = self.of(rows, deep)
        if self._knows(rows):
            return seconds
        best = Seconds(*UNKNOWN)
        return min(seconds, before * best.of(rows, 0) / best.of(fewer, 0))

    def seconds(self) -> Seconds | None:
        """The fit; None before the first pass. Any thread may call it while another adds a pass."""
        found = self._fitted
        if found is None and self._passes:
            known = [list(passes) for passes in list(self._passes.values())]  # copies, as another thread may add
            self._fitted = found = fit([one[1:] for one in sorted(chain.from_iterable(known))])
        return found

    def rows(self, limit: float, rows: int, deep: int, depth: int, most: int) -> int:
        """As `Seconds.rows`, and at most twice as many as were measured; before the first pass, LEAST_PREFILL."""
        found = self.seconds()
        most = min(most, max(2 << max(self._passes, default=0), LEAST_PREFILL))
        return min(most, LEAST_PREFILL) if found is None else found.rows(limit, rows, deep, depth, most, self._tile)
