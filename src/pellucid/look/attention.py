"""Scores and attention, computed again from traced queries and keys."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["fill", "softmax"]

Floats = npt.NDArray[np.float32]
BLOCK = 64  # query rows at a time: their scores of all heads stay in the second-level cache


def fill(
    out: Floats,
    q: Floats,
    k: Floats,
    groups: Sequence[int],
    positions: npt.NDArray[np.intp],
    scale: float,
    window: int,
) -> None:
    """Scores before softmax -> out (heads, m, n), whose rows must hold what unseen keys are to have.

    q: (heads, m, d), rows at `positions` (ascending). k: (kv_heads, n, d); groups: the KV head of each head. A row sees
    the keys up to its own position, of them the last `window` (0: all).
    """
    for first in range(0, len(positions), BLOCK):
        rows = slice(first, first + BLOCK)
        at = positions[rows]
        low, high = seen(at, window)
        block = out[:, rows, low:high]
        scaled = q[:, rows] * np.float32(scale)
        for h, group in enumerate(groups):
            np.matmul(scaled[h], k[group, low:high].T, out=block[h])
        hide(block, at, low, high, window, -np.inf)


def softmax(out: Floats, scores: Floats, positions: npt.NDArray[np.intp], window: int) -> None:
    """Softmax of the keys that each row sees -> out, of the scores' shape (it may be the scores themselves)."""
    for first in range(0, len(positions), BLOCK):
        rows = slice(first, first + BLOCK)
        low, high = seen(positions[rows], window)
        x, y = scores[:, rows, low:high], out[:, rows, low:high]
        np.subtract(x, x.max(axis=-1, keepdims=True), out=y)
        np.exp(y, out=y)
        y *= 1.0 / y.sum(axis=-1, keepdims=True)


def seen(at: npt.NDArray[np.intp], window: int) -> tuple[int, int]:
    """Keys that any of the rows sees: [low, high)."""
    return max(0, int(at[0]) - window + 1) if window else 0, int(at[-1]) + 1


def hide(block: Floats, at: npt.NDArray[np.intp], low: int, high: int, window: int, value: float) -> None:
    """Sets what a row does not see, at the two edges of the block."""
    start = int(at[0]) + 1
    later = np.arange(start, high) > at[:, None]
    block[:, :, start - low :][:, later] = value
    if window:
        end = max(int(at[-1]) - window + 1, low)
        earlier = np.arange(low, end) <= (at - window)[:, None]
        block[:, :, : end - low][:, earlier] = value
