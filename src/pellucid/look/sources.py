"""The contributions of each token to a head's output."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pellucid import _engine
from pellucid.core import Core
from pellucid.look import attributions, record
from pellucid.look.pattern import as_cached
from pellucid.look.places import Layer, find
from pellucid.look.sizes import Selection
from pellucid.plan import Kind
from pellucid.schedule.turns import Turns

__all__ = ["sources"]

Floats = npt.NDArray[np.float32]
Wide = npt.NDArray[np.float64]


def sources(core: Core, ids: Sequence[int], position: int, pair: attributions.Pair) -> Wide:
    """``Trace.sources``."""
    engine = core.open()
    plan, places = engine.plan, find(engine.plan)
    n_heads = core.config.attention.n_q
    every = tuple(range(len(places.layers)))
    s = Selection(("attention", "v", "mixed"), every, tuple(range(n_heads)), (position,), len(ids))
    with Turns(core, "trace", [len(ids)]) as turns:
        found = record.record(turns, ids, s, places, 512)
        end = record.record(turns, ids, Selection(("hidden",), every[-1:], (0,), (position,), len(ids)), places, 512)
    direction = attributions.directions(engine, [pair], end["hidden"][-1])[0][0]  # (1, d)
    out = np.zeros((len(every), n_heads, len(ids)))
    for i, layer in enumerate(places.layers):
        if layer.mixed is None or layer.group is None:
            continue
        w, mixed = record.projection(engine, layer), found["mixed"][i].swapaxes(0, 1).reshape(1, -1)
        read = attributions.norm_of(plan, layer.project, mixed, w).back(direction)[0] @ w  # (heads * value)
        made = plan.ops[layer.attend : layer.project]
        if any(op.kind == Kind.GATE and op.out == layer.mixed.buffer for op in made):  # not of a parallel recurrence
            read = read * _gates(core, ids, position, i, layer)
        values = as_cached(found["v"][i], engine.kv)  # (KV heads, n, value)
        per = read.reshape(n_heads, layer.value)
        by_heads = _by_heads(engine, layer)
        if by_heads is not None:  # values are products of rows shared by all heads
            per = np.einsum("hv,hvr->hr", per, by_heads)
        for h in range(n_heads):
            out[i, h] = found["attention"][i][h, 0] * (values[h // (n_heads // layer.group.n_kv)] @ per[h])
    return out


def _by_heads(engine: _engine.Engine, layer: Layer) -> Floats | None:
    """The matrices that produce each head's values from latent rows -> (heads, value_dim, rank); None: values are
    cached."""
    plan = engine.plan
    assert layer.mixed is not None and layer.group is not None
    made = plan.ops[layer.attend + 1 : layer.project]
    op = next((op for op in made if op.kind == Kind.LINEAR and op.out == layer.mixed.buffer), None)
    if op is None:
        return None
    seg = plan.segments[op.seg]
    return record.scaled(engine, seg, engine.matrix(seg.matrix)).reshape(layer.group.n_q, layer.value, -1)


def _gates(core: Core, ids: Sequence[int], position: int, number: int, layer: Layer) -> Floats:
    """A factor of each column of the heads' outputs."""
    assert layer.gates is not None and layer.group is not None
    s = Selection(("gates",), (number,), (0,), (position,), len(ids))
    with Turns(core, "trace", [len(ids)]) as turns:
        found = record.record(turns, ids, s, find(turns.plan), 512)
    width = layer.group.n_q * layer.value
    factors: Floats = np.repeat(found["gates"][0][0], -(-width // layer.gates.width))[:width]
    return factors
