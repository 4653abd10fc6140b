"""Runs a plan in float64 NumPy, one operation after the other, as a reference for any plan that the engine accepts."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid._engine import NORMS
from pellucid.plan import Kind

Floats = npt.NDArray[np.float64]


def logits(engine: Any, ids: list[int]) -> Floats:
    """Logits of every token of a new sequence -> (n, vocab)."""
    plan, n = engine.plan, len(ids)
    bufs = [np.full((n, b.dim), np.nan) for b in plan.buffers]
    stored: dict[tuple[int, int], tuple[Floats, Floats]] = {}
    for op in plan.ops:
        segments = plan.segments[op.seg : op.seg + op.n_seg]
        vec = plan.vectors[op.vec].data.astype(np.float64) if op.vec >= 0 else None
        cache = plan.caches[op.cache] if op.cache >= 0 else None
        if op.kind == Kind.EMBED:
            bufs[op.out] = _matrix(engine, segments[0])[ids] * op.scale
        elif op.kind == Kind.NORM:
            bufs[op.out] = _normed(plan, op, bufs[op.inp])
        elif op.kind == Kind.LINEAR:
            bufs[op.out] = np.concatenate([_product(engine, s, bufs[op.inp]) for s in segments], axis=1)
        elif op.kind == Kind.LINEAR_ADD:
            bufs[op.tmp] = _product(engine, segments[0], bufs[op.inp])
            if vec is not None:
                bufs[op.tmp] = _normed(plan, op, bufs[op.tmp])
            bufs[op.out] = bufs[op.out] + bufs[op.tmp]
        elif op.kind == Kind.GLU:
            gate, up = (_product(engine, s, bufs[op.inp]) for s in segments)
            bufs[op.out] = (_silu(gate) if op.act == 0 else _gelu(gate)) * up
        elif op.kind == Kind.SCALE_ADD:
            rows, columns = slice(op.pos_from, min(op.pos_to, n)), slice(op.column, op.column + op.width)
            added = 0.0 if vec is None else vec.reshape(-1, op.width)[: max(n - op.pos_from, 0)] if op.each else vec
            changed = bufs[op.out].copy()
            changed[rows, columns] = changed[rows, columns] * op.scale + added
            bufs[op.out] = changed
        elif op.kind == Kind.HEAD:
            return _cap(_product(engine, segments[0], _normed(plan, op, bufs[op.inp])), op.cap)
        else:
            assert cache is not None
            q, k, v = _heads(bufs[op.inp], cache)
            if op.kind == Kind.HEAD_NORM:
                q, k = _norm(q, vec, op.eps), _norm(k, plan.vectors[op.vec2].data, op.eps)
            elif op.kind == Kind.ROPE_APPEND:
                q, k = (_rotated(part, plan.ropes[op.rope]) for part in (q, k))
                stored[op.cache, op.cache_layer] = k, v
            else:
                bufs[op.out] = _attention(q, *stored[op.cache, op.cache_layer], op.scale, cache.window)
                continue
            bufs[op.inp] = np.concatenate([part.reshape(n, -1) for part in (q, k, v)], axis=1)
    raise AssertionError("a plan without a head")


def _matrix(engine: Any, segment: Any) -> Floats:
    return engine.matrix(segment.matrix).astype(np.float64)


def _product(engine: Any, segment: Any, x: Floats) -> Floats:
    y: Floats = x @ _matrix(engine, segment).T
    return y if segment.bias < 0 else y + engine.plan.vectors[segment.bias].data


def _normed(plan: Any, op: Any, x: Floats) -> Floats:
    weight = plan.vectors[op.vec].data.astype(np.float64)
    if op.norm == NORMS["rms"]:
        return _norm(x, weight, op.eps)
    y = _norm(x - x.mean(axis=-1, keepdims=True), weight, op.eps)
    return y if op.vec2 < 0 else y + plan.vectors[op.vec2].data


def _norm(x: Floats, weight: Any, eps: float) -> Floats:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def _silu(x: Floats) -> Floats:
    return x / (1 + np.exp(-x))


def _gelu(x: Floats) -> Floats:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _cap(x: Floats, cap: float) -> Floats:
    return np.tanh(x / cap) * cap if cap > 0 else x


def _heads(x: Floats, c: Any) -> tuple[Floats, Floats, Floats]:
    """(n, heads, width) each."""
    n, a, b = len(x), c.n_q * c.dk, (c.n_q + c.n_kv) * c.dk
    return x[:, :a].reshape(n, c.n_q, c.dk), x[:, a:b].reshape(n, c.n_kv, c.dk), x[:, b:].reshape(n, c.n_kv, c.dv)


def _rotated(x: Floats, rope: Any) -> Floats:
    half = len(rope.freq)
    angle = np.arange(len(x))[:, None, None] * rope.freq
    first = np.arange(half) if rope.halves else np.arange(0, 2 * half, 2)
    second = first + (half if rope.halves else 1)
    y = x.copy()
    y[..., first] = x[..., first] * np.cos(angle) - x[..., second] * np.sin(angle)
    y[..., second] = x[..., first] * np.sin(angle) + x[..., second] * np.cos(angle)
    return y


def _attention(q: Floats, k: Floats, v: Floats, scale: float, window: int) -> Floats:
    n, heads = q.shape[:2]
    group = np.arange(heads) // (heads // k.shape[1])
    scores = np.einsum("ihd,jhd->hij", q, k[:, group]) * scale
    i, j = np.arange(n)[:, None], np.arange(n)
    scores[:, (j > i) | ((j <= i - window) if window else False)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hij,jhd->ihd", weights, v[:, group]).reshape(n, -1)
