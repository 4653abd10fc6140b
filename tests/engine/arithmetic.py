"""Runs a plan in float64 NumPy, one operation after the other, as a reference for any plan that the engine accepts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid._engine import ACTIVATIONS, FLAGS, NORMS, ROUTES
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
            width = op.width or plan.buffers[op.inp].dim
            columns = slice(op.column, op.column + width)
            groups = bufs[op.inp][:, columns].reshape(n, -1, op.each or width)
            own = bool(op.flags & FLAGS["per_head"])
            changed = bufs[op.out].copy()
            changed[:, columns] = _normed(plan, op, groups, groups.shape[1:] if own else None).reshape(n, -1)
            bufs[op.out] = changed
        elif op.kind == Kind.LINEAR:
            bufs[op.out] = _side_by_side(engine, op, segments, bufs)
        elif op.kind == Kind.LINEAR_ADD:
            bufs[op.tmp] = _product(engine, segments[0], bufs[op.inp])
            if vec is not None:
                bufs[op.tmp] = _normed(plan, op, bufs[op.tmp])
            bufs[op.tmp] = bufs[op.tmp] * op.scale
            bufs[op.out] = bufs[op.out] + bufs[op.tmp]
        elif op.kind == Kind.GLU:
            gate, *up = (_product(engine, s, bufs[op.inp]) for s in segments)
            bufs[op.out] = _activated(plan, op, gate, up[0] if up else None)
        elif op.kind == Kind.ROUTE:
            bufs[op.tmp] = _product(engine, segments[0], bufs[op.inp])
            bufs[op.out] = _routes(plan, op, bufs[op.tmp])
        elif op.kind == Kind.EXPERTS:
            bufs[op.out] = _experts(engine, op, segments, bufs[op.inp], bufs[op.tmp])
        elif op.kind == Kind.EXPERTS_ADD:
            before = 0.0 if op.flags & FLAGS["fresh"] else bufs[op.out]
            bufs[op.out] = before + _weighted(engine, op, segments[0], bufs[op.inp], bufs[op.tmp])
        elif op.kind == Kind.SCALE_ADD:
            rows, columns = slice(op.pos_from, min(op.pos_to, n)), slice(op.column, op.column + op.width)
            added = 0.0 if vec is None else vec.reshape(-1, op.width)[: max(n - op.pos_from, 0)] if op.each else vec
            changed = bufs[op.out].copy()
            if op.inp != op.out:
                changed[rows, columns] += bufs[op.inp][rows, columns]
            changed[rows, columns] = changed[rows, columns] * op.scale + added
            bufs[op.out] = changed
        elif op.kind == Kind.HEAD:
            return _cap(_product(engine, segments[0], _normed(plan, op, bufs[op.inp])), op.cap)
        else:
            assert cache is not None
            q, k, v = _heads(bufs[op.inp], cache)
            if op.kind == Kind.HEAD_NORM:
                q, k = _head_norm(plan, op, op.vec, q), _head_norm(plan, op, op.vec2, k)
            elif op.kind == Kind.ROPE_APPEND:
                if op.rope >= 0:
                    q, k = (_rotated(part, plan.ropes[op.rope]) for part in (q, k))
                if vec is not None:
                    q = q * vec[np.minimum(np.arange(n) // op.width, op.each - 1)][:, None, None]
                if op.stores:
                    stored[op.cache, op.cache_layer] = k, v
            else:
                bufs[op.out] = _attention(q, *stored[op.cache, op.cache_layer], op, cache, vec)
                continue
            parts = (q, k) if cache.shared else (q, k, v)
            bufs[op.inp] = np.concatenate([part.reshape(n, -1) for part in parts], axis=1)
    raise AssertionError("a plan without a head")


def _matrix(engine: Any, segment: Any) -> Floats:
    return engine.matrix(segment.matrix).astype(np.float64)


def _product(engine: Any, segment: Any, x: Floats) -> Floats:
    vectors = engine.plan.vectors
    y: Floats = x @ _matrix(engine, segment).T * segment.scale
    if segment.row_scale >= 0:
        y = y * vectors[segment.row_scale].data
    return y if segment.bias < 0 else y + vectors[segment.bias].data


def _side_by_side(engine: Any, op: Any, segments: Any, bufs: list[Floats]) -> Floats:
    out = np.full_like(bufs[op.out], np.nan)
    for s in segments:
        m, x = engine.plan.matrices[s.matrix], bufs[s.input if s.input >= 0 else op.inp]
        w = _matrix(engine, s).reshape(m.stack, m.rows, m.k)
        columns = s.column + np.arange(m.stack)[:, None] * s.step + np.arange(m.rows)
        by_head = x.shape[1] == m.stack * m.k
        y = np.einsum("nek,erk->ner", x.reshape(len(x), m.stack, m.k), w) if by_head else np.einsum("nk,erk->ner", x, w)
        y = (y * s.scale).reshape(len(x), -1)
        y = y if s.row_scale < 0 else y * engine.plan.vectors[s.row_scale].data
        out[:, columns.reshape(-1)] = y if s.bias < 0 else y + engine.plan.vectors[s.bias].data
    assert not np.isnan(out).any()
    return out


def _routes(plan: Any, op: Any, scores: Floats) -> Floats:
    def has(name: str) -> bool:
        return bool(op.route & ROUTES[name])

    n = scores.shape[1]
    out = np.zeros((len(scores), 2 * op.top_k))
    for x, y in zip(scores, out, strict=True):
        if has("sparse"):
            y[:] = _sparse(x, op)
            continue
        p = 1 / (1 + np.exp(-x)) if has("sigmoid") else _softmax(x)
        by = p + (plan.vectors[op.vec].data if op.vec >= 0 else 0)
        if op.groups:
            best = np.sort(by.reshape(op.groups, -1), axis=1)[:, ::-1]
            worth = best[:, :2].sum(axis=1) if has("group_sum2") else best[:, 0]
            kept = np.argsort(-worth, kind="stable")[: op.group_k]
            by = np.where(np.isin(np.arange(n) // (n // op.groups), kept), by, -np.inf)
        chosen = np.sort(np.argsort(-by, kind="stable")[: op.top_k])
        w = _softmax(x[chosen]) if has("top_first") else p[chosen]
        w = w / (w.sum() + op.limit) if has("renorm") else w
        factor = plan.vectors[op.vec2].data[chosen] if op.vec2 >= 0 else 1.0
        y[:] = np.concatenate([chosen, w * op.scale * factor])
    return out


def _sparse(x: Floats, op: Any) -> Floats:
    left, weights = x.copy(), {}
    for _ in range(op.top_k):
        e = int(np.argmax(left))
        near = (left[e] - x) / np.maximum(np.abs(x), left[e]) <= 2 * op.limit
        weights[e] = _softmax(np.where(near, left, -np.inf))[e] * op.scale
        left[e] = -np.inf
    return np.array([*sorted(weights), *(weights[e] for e in sorted(weights))])


def _softmax(x: Floats) -> Floats:
    e: Floats = np.exp(x - x.max())
    return e / e.sum()


def _of_expert(engine: Any, segment: Any, e: int, x: Floats) -> Floats:
    m = engine.plan.matrices[segment.matrix]
    own = slice(e * m.rows, (e + 1) * m.rows)
    y: Floats = engine.matrix(segment.matrix, rows=(own.start, own.stop)).astype(np.float64) @ x * segment.scale
    if segment.row_scale >= 0:
        y = y * engine.plan.vectors[segment.row_scale].data[own]
    return y if segment.bias < 0 else y + engine.plan.vectors[segment.bias].data[own]


def _experts(engine: Any, op: Any, segments: Any, x: Floats, routes: Floats) -> Floats:
    rows = []
    for row, route in zip(x, routes, strict=True):
        pairs = ([_of_expert(engine, s, int(e), row) for s in segments] for e in route[: op.top_k])
        rows.append(np.concatenate([_activated(engine.plan, op, *parts) for parts in pairs]))
    return np.stack(rows)


def _weighted(engine: Any, op: Any, segment: Any, x: Floats, routes: Floats) -> Floats:
    rows = []
    for row, route in zip(x, routes, strict=True):
        parts = row.reshape(op.top_k, -1)
        of = zip(route[: op.top_k], route[op.top_k :], parts, strict=True)
        rows.append(op.scale * sum(w * _of_expert(engine, segment, int(e), part) for e, w, part in of))
    return np.stack(rows)


def _normed(plan: Any, op: Any, x: Floats, shape: Any = None) -> Floats:
    """x (..., n) normed along its last axis. shape: of weights that are not the same for every row."""
    vecs = [plan.vectors[v].data.astype(np.float64) if v >= 0 else None for v in (op.vec, op.vec2)]
    weight, bias = (v if v is None or shape is None else v.reshape(shape) for v in vecs)
    return _norm(x, op.norm, op.eps, weight, bias if op.kind != Kind.HEAD_NORM else None)


def _head_norm(plan: Any, op: Any, vec: int, x: Floats) -> Floats:
    """x (n, heads, width)."""
    weight = plan.vectors[vec].data.astype(np.float64)
    if op.flags & FLAGS["all_heads"]:
        return _norm(x.reshape(len(x), -1), op.norm, op.eps, weight).reshape(x.shape)
    return _norm(x, op.norm, op.eps, weight.reshape(x.shape[1:]) if op.flags & FLAGS["per_head"] else weight)


def _norm(x: Floats, norm: int, eps: float, weight: Any = None, bias: Any = None) -> Floats:
    if norm == NORMS["none"]:
        return x
    if norm == NORMS["layer"]:
        x = x - x.mean(axis=-1, keepdims=True)
    total = np.sum(x * x, axis=-1, keepdims=True)
    y = x / np.sqrt((total if norm == NORMS["l2"] else total / x.shape[-1]) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _activated(plan: Any, op: Any, g: Floats, u: Floats | None = None) -> Floats:
    if op.limit:
        g = np.minimum(g, op.limit)
        u = None if u is None else np.clip(u, -op.limit, op.limit)
    if op.act == ACTIVATIONS["oai"]:
        assert u is not None
        return g / (1 + np.exp(-1.702 * g)) * (u + 1)
    y = _ACTIVATIONS[op.act](g, plan.vectors[op.vec].data.astype(np.float64) if op.vec >= 0 else None)
    return y if u is None else y * u


def _gelu(x: Floats, _: Any) -> Floats:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _xielu(x: Floats, p: Any) -> Floats:
    return np.where(x > 0, p[0] * x * x, p[1] * (np.expm1(np.minimum(x, p[3])) - x)) + p[2] * x


_ACTIVATIONS: dict[int, Callable[[Floats, Any], Floats]] = {
    ACTIVATIONS[name]: function
    for name, function in {
        "silu": lambda x, _: x / (1 + np.exp(-x)),
        "gelu_tanh": _gelu,
        "gelu": lambda x, _: 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2))),
        "relu2": lambda x, _: np.maximum(x, 0) ** 2,
        "sigmoid": lambda x, _: 1 / (1 + np.exp(-x)),
        "none": lambda x, _: x,
        "xielu": _xielu,
    }.items()
}


def _cap(x: Floats, cap: float) -> Floats:
    return np.tanh(x / cap) * cap if cap > 0 else x


def _heads(x: Floats, c: Any) -> tuple[Floats, Floats, Floats]:
    """(n, heads, width) each."""
    n, a, b = len(x), c.n_q * c.dk, (c.n_q + c.n_kv) * c.dk
    if x.shape[1] == a:  # queries alone
        return x.reshape(n, c.n_q, c.dk), np.empty((n, 0, c.dk)), np.empty((n, 0, c.dv))
    q, k = x[:, :a].reshape(n, c.n_q, c.dk), x[:, a:b].reshape(n, c.n_kv, c.dk)
    return q, k, k[..., : c.dv] if c.shared else x[:, b:].reshape(n, c.n_kv, c.dv)


def _rotated(x: Floats, rope: Any) -> Floats:
    half = len(rope.freq)
    angle = np.arange(len(x))[:, None, None] * rope.freq
    cos, sin = np.cos(angle) * rope.scale, np.sin(angle) * rope.scale
    first = rope.first + (np.arange(half) if rope.halves else np.arange(0, 2 * half, 2))
    second = first + (half if rope.halves else 1)
    y = x.copy()
    y[..., first] = x[..., first] * cos - x[..., second] * sin
    y[..., second] = x[..., first] * sin + x[..., second] * cos
    return y


def _attention(q: Floats, k: Floats, v: Floats, op: Any, cache: Any, sinks: Any) -> Floats:
    n, heads = q.shape[:2]
    group = np.arange(heads) // (heads // k.shape[1])
    scores = _cap(np.einsum("ihd,jhd->hij", q, k[:, group]) * op.scale, op.cap)
    i, j = np.arange(n)[:, None], np.arange(n)
    w = cache.window or n
    scores[:, (j > (i if cache.causal else i + w - 1)) | (j <= i - w)] = -np.inf
    if sinks is not None:  # one more score, whose value is 0
        scores = np.concatenate([scores, np.broadcast_to(sinks[:, None, None], (heads, n, 1))], axis=2)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hij,jhd->ihd", weights[:, :, :n], v[:, group]).reshape(n, -1)
