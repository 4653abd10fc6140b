"""The scores and attention weights of a layer, from its queries and keys."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pellucid import _engine
from pellucid._engine import FLAGS
from pellucid.look.places import Layer, channels
from pellucid.look.sizes import Selection
from pellucid.plan import Op, Plan
from pellucid.schedule.turns import Turns

__all__ = ["CACHED", "as_cached", "as_multiplied", "fill", "keep_cached"]

Floats = npt.NDArray[np.float32]
CACHED = ("k", "k_unrotated", "v")  # quantities in a sequence's cache


def fill(
    turns: Turns,
    layer: Layer,
    s: Selection,
    q: Floats,
    k: Floats,
    scores: Floats | None,
    weights: Floats | None,
) -> None:
    """Fills one or both of `scores` and `weights` (heads, positions, tokens), which hold zeros, as attention computes
    them from the queries (heads, positions, width) and the keys (KV heads, tokens, width), both rounded as attention
    rounds them. The first s.cached keys are from the cache."""
    g, engine = layer.group, turns.engine
    assert g is not None
    order = channels(engine.plan, layer)
    new = k[:, s.cached :]
    if order is None:
        keys = as_cached(new, engine.kv)
    else:  # the cache has the file's order
        keys = as_cached(new[..., np.argsort(order)], engine.kv)[..., order]
    keys = np.concatenate([k[:, : s.cached], keys], axis=1) if s.cached else np.ascontiguousarray(keys)
    turns.attention(
        as_multiplied(q, engine),
        keys,
        [h // (g.n_q // g.n_kv) for h in s.heads],
        s.positions,
        scale=layer.scale,
        window=g.window,
        causal=g.causal,
        cap=layer.cap,
        sinks=None if layer.sinks < 0 else engine.plan.vectors[layer.sinks].data[list(s.heads)],
        scores=scores,
        weights=weights,
    )
    for number in layer.again:
        _again(engine.plan, engine.plan.ops[number], s, scores, weights)


def keep_cached(turns: Turns, sequence: _engine.Sequence, layer: Layer, into: Mapping[str, Floats]) -> None:
    """Fills arrays (KV heads, tokens, width), by names of CACHED, for the tokens of the sequence, from its cache: keys,
    with the rotation undone if they are wanted unrotated, and values."""
    if layer.attend < 0:
        return
    op, order = turns.plan.ops[layer.attend], channels(turns.plan, layer)
    keys, values = turns.keys(sequence, op.cache, op.cache_layer)
    keys = keys if order is None else keys[..., order]
    for name, array in into.items():
        found = values if name == "v" else keys if name == "k" else _unrotated(turns.plan, layer, keys)
        array[:, : sequence.length] = found


def _unrotated(plan: Plan, layer: Layer, keys: Floats) -> Floats:
    """Keys (KV heads, tokens, width) of the tokens from 0 on, in a trace's order of channels, before their rotation."""
    if layer.rope < 0:
        return keys
    rope, found = plan.ropes[layer.rope], keys.copy()
    middle, end = rope.first + len(rope.freq), rope.first + 2 * len(rope.freq)
    one, other = keys[..., rope.first : middle].astype(np.float64), keys[..., middle:end].astype(np.float64)
    angles = np.outer(np.arange(keys.shape[1]), rope.freq)
    cos, sin = np.cos(angles) / rope.scale, np.sin(angles) / rope.scale
    found[..., rope.first : middle] = one * cos + other * sin
    found[..., middle:end] = other * cos - one * sin
    return found


def as_cached(x: Floats, kv: str) -> Floats:
    """Keys or values (..., width) as they are read back from the cache."""
    if kv == "f32":
        return x
    if kv == "f16":
        return x.astype(np.float16).astype(np.float32)
    if kv == "bf16":
        return _bf16(x)
    pad = -x.shape[-1] % 32
    blocks = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, pad)]).reshape(*x.shape[:-1], -1, 32)
    most = np.abs(blocks).max(axis=-1, keepdims=True)
    most[most < 1e-30] = 0
    codes = np.rint(blocks * np.divide(127, most, out=np.zeros_like(most), where=most > 0))
    found = (codes * (most / np.float32(127))).reshape(*x.shape[:-1], -1)
    return np.ascontiguousarray(found[..., : x.shape[-1]], dtype=np.float32)


def _bf16(x: Floats) -> Floats:
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return rounded.astype(np.uint32).view(np.float32)


def as_multiplied(q: Floats, engine: _engine.Engine) -> Floats:
    """Queries as attention multiplies them: if the instructions use bf16, rounded like the keys."""
    return _bf16(q) if engine.kv == "bf16" and engine.info()["isa"] in ("avx512bf16", "amx") else q


def _again(plan: Plan, op: Op, s: Selection, scores: Floats | None, weights: Floats | None) -> None:
    """Applies an edit of a head's attention to its scores and weights."""
    rows = [i for i, p in enumerate(s.positions) if op.pos_from <= p < op.pos_to]
    if op.column not in s.heads or not rows:
        return
    h, given = s.heads.index(op.column), plan.vectors[op.vec].data.reshape(-1, op.width)
    for i in rows:
        position = s.positions[i]
        row = given[position - op.pos_from if op.each else 0][: position + 1]
        if op.flags & FLAGS["weights"]:
            if weights is not None:
                seen = weights[h, i] > 0 if scores is None else np.isfinite(scores[h, i])
                weights[h, i] = 0
                weights[h, i, : len(row)] = np.where(seen[: len(row)], row, 0)
            continue
        if scores is not None:
            scores[h, i, : len(row)][row == 0] = -np.inf
        if weights is not None:
            kept = weights[h, i].astype(np.float64)
            lost = float(kept[: len(row)][row == 0].sum())
            kept[: len(row)][row == 0] = 0
            weights[h, i] = kept / max(1 - lost, 1e-30)  # a sink keeps its part
