"""The time that each operation of a pass takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from pellucid import _engine

__all__ = ["fastest", "passes"]


def fastest(
    engine: _engine.Engine, prompts: Sequence[Sequence[int]], *, before: int = 0, repeat: int = 5
) -> npt.NDArray[np.int64]:
    """Nanoseconds of each operation (n_ops) in the fastest of `repeat` passes: see `passes`."""
    return min((ns for ns, _ in passes(engine, prompts, lambda: 0.0, before=before, repeat=repeat)), key=np.sum)


def passes(
    engine: _engine.Engine,
    prompts: Sequence[Sequence[int]],
    read: Callable[[], float],
    *,
    before: int = 0,
    repeat: int = 5,
) -> list[tuple[npt.NDArray[np.int64], float]]:
    """`repeat` passes over the ids of each prompt from `before` on: nanoseconds of each operation (n_ops), and the
    better of the results of `read` right before and right after it. The keys and values of the ids before are in the
    cache; each prompt's last row requests logits.

    Every operation runs separately here, so the sum is a little more than the time of a pass.
    """
    starts = [_engine.Sequence(engine) for _ in prompts]
    for start, ids in zip(starts, prompts, strict=True):
        for i in range(0, before, engine.max_rows):
            part = np.array(ids[i : min(i + engine.max_rows, before)], np.int32)
            engine.forward([(start, part, len(part))])
    rows = [np.array(ids[before:], np.int32) for ids in prompts]
    out = np.empty((len(prompts), engine.vocab), np.float32)
    found: list[tuple[npt.NDArray[np.int64], float]] = []
    for _ in range(repeat + 1):
        parts = [(start.fork(), ids, len(ids) - 1) for start, ids in zip(starts, rows)]
        first = read()
        _, ns = engine.observe(parts, times=True, out=out)
        assert ns is not None
        found.append((ns, max(first, read())))
    return found[1:]  # the first one warmed up
