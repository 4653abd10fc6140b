"""The logit lens at many positions together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid.core import Core
from pellucid.look import record
from pellucid.look.places import find
from pellucid.schedule.turns import Turns

__all__ = ["LensTable", "lens_table", "likeliest"]


@dataclass(frozen=True)
class LensTable:
    """The k likeliest next tokens after the embedding (index 0) and after layer i (index i + 1), at P positions.

    ``ids`` (layers + 1, P, k), the likeliest first, and their ``probabilities``; ``next_probability`` (layers + 1, P):
    of the token that follows; NaN if none does. ``pieces``: the text of each id.
    """

    positions: tuple[int, ...]
    ids: npt.NDArray[np.int32]
    probabilities: npt.NDArray[np.float32]
    next_probability: npt.NDArray[np.float32]
    pieces: dict[int, str]

    def __repr__(self) -> str:
        after, n, k = self.ids.shape
        return f"<LensTable of {after - 1} layers at {n} positions: {k} likeliest tokens>"


def lens_table(core: Core, ids: Sequence[int], positions: Sequence[int], k: int, watch: record.Watch) -> LensTable:
    """``Trace.lens_table``. The engine reduces each row's logits as it computes them."""
    engine = core.open()
    places = find(engine.plan)
    taps = [places.embeddings, *(layer.hidden for layer in places.layers)]
    k, shape = min(k, engine.vocab), (len(taps), len(positions))
    best, p = np.empty((*shape, k), np.int32), np.empty((*shape, k), np.float32)
    follows = np.full(shape, np.nan, np.float32)
    known = np.array([position + 1 < len(ids) for position in positions])
    after = np.array([ids[position + 1] if position + 1 < len(ids) else 0 for position in positions], np.int32)
    with Turns(core, "trace", [positions[-1] + 1], watch.cancel) as turns:
        for to, found in record.walk(turns, ids, sorted({*taps}), positions, watch):
            for i, tap in enumerate(taps):
                rows = _head(turns, found[tap], after[to], k)
                best[i, to] = [[id for id, _ in top] for _, top in rows]
                p[i, to] = np.exp([[logprob for _, logprob in top] for _, top in rows])
                own = np.exp(np.array([logprob for logprob, _ in rows], np.float32))
                follows[i, to] = np.where(known[to], own, np.nan)
    return LensTable(tuple(positions), best, p, follows, {id: core.spell(id) for id in np.unique(best).tolist()})


def _head(
    turns: Turns,
    x: npt.NDArray[np.float32],
    targets: npt.NDArray[np.int32],
    k: int,
) -> list[tuple[float, list[tuple[int, float]]]]:
    """For each row of the residual stream (n, dim): the log probability of its target, and the k likeliest tokens."""
    out: list[tuple[float, list[tuple[int, float]]]] = []
    for to, run in record.head_passes(turns, find(turns.plan), x, turns.max_rows):
        run(targets=targets[to], top=k, found=out)
    return out


def likeliest(turns: Turns, x: npt.NDArray[np.float32], k: int) -> list[list[tuple[int, float]]]:
    """The k likeliest tokens after each row of the residual stream (n, dim), with their log probabilities."""
    return [top for _, top in _head(turns, x, np.zeros(len(x), np.int32), k)]
