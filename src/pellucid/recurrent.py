"""The operations of recurrent layers, which architectures add to a plan.

A convolution over a sequence's rows comes first, then (except in LFM2) a recurrence; gates and norms of the output
follow.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from pellucid._engine import ACTIVATIONS, FLAGS
from pellucid._engine import MOST_TAPS as MOST_TAPS
from pellucid.plan import QKV, Attention, Kind, Part, Plan, Recurrent, Vector, floats


def project(
    p: Plan,
    layer: int,
    h: int,
    parts: Sequence[tuple[str, int]],
    *,
    exact: Collection[str] = (),
    within: Mapping[str, Part] | None = None,
) -> int:
    """Products of h side by side in a new buffer -> the buffer. parts: name and rows of each matrix, with biases if the
    file has them. exact: names of small matrices whose activations have two int8 terms. within: matrices that are parts
    of other tensors."""
    width = sum(rows for _, rows in parts)
    out = p.buffer(f"p{width}", width)
    mats, biases, columns, wholes, at = [], [], [], [], 0
    for part, rows in parts:
        name, whole = f"blk.{layer}.{part}", (within or {}).get(part)
        mats.append(p.matrix(name, rows, p.buffers[h].dim, part=whole))
        biases.append(p.bias(name, rows, part=whole))
        wholes.append(whole.name if whole else name)
        columns.append(at)
        at += rows
    terms = [2 if name in exact else 1 for name, _ in parts]
    ordered = p.arranged(layer, h, wholes)
    inputs = [ordered if f"{name}.order" in p.tensors else -1 for name in wholes]  # the others read h itself
    seg = p.row_of_segments(mats, columns, biases, terms, inputs=inputs)
    return p.operation(Kind.LINEAR, layer, parts[0][0], inp=h, out=out, seg=seg, n_seg=len(mats)).out


def gated_queries(p: Plan, layer: int, h: int, a: Attention) -> tuple[QKV, int]:
    """Queries, keys and values when attn_q holds, for each head, its query and its gate -> (them, the gates)."""
    width, rows, keys, values = p.buffers[h].dim, 2 * a.n_q * a.dk, a.n_kv * a.dk, a.n_kv * a.dv
    whole, fused = f"blk.{layer}.attn_q", f"blk.{layer}.attn_qkv"
    if f"{fused}.weight" in p.tensors:  # all three are one matrix
        whole, rows = fused, rows + keys + values
    h = p.arranged(layer, h, [whole] if whole == fused else [f"blk.{layer}.attn_{part}" for part in "qkv"])

    def half(which: str, first: int) -> tuple[list[int], list[int]]:
        parts = [Part(whole, (2 * i + first) * a.dk, rows) for i in range(a.n_q)]
        names = [f"{whole}.{which}{i}" for i in range(a.n_q)]
        mats = [p.matrix(name, a.dk, width, part=part) for name, part in zip(names, parts, strict=True)]
        return mats, [p.bias(name, a.dk, part=part) for name, part in zip(names, parts, strict=True)]

    mats, biases = half("query", 0)
    columns = [i * a.dk for i in range(a.n_q)]
    for name, n, first in (("attn_k", keys, rows - values - keys), ("attn_v", values, rows - values)):
        part = Part(fused, first, rows) if whole == fused else None
        mats.append(p.matrix(f"blk.{layer}.{name}", n, width, part=part))
        biases.append(p.bias(f"blk.{layer}.{name}", n, part=part))
    columns += [a.n_q * a.dk, (a.n_q + a.n_kv) * a.dk]
    dim = a.n_q * a.dk + keys + values
    out, gates = p.buffer(f"qkv{dim}", dim), p.buffer(f"g{a.n_q * a.dk}", a.n_q * a.dk)
    seg = p.row_of_segments(mats, columns, biases, terms=[*[1] * a.n_q, 2, 2])
    p.operation(Kind.LINEAR, layer, "attn_qkv", inp=h, out=out, seg=seg, n_seg=len(mats))
    mats, biases = half("gate", 1)
    seg = p.row_of_segments(mats, columns[: a.n_q], biases)
    p.operation(Kind.LINEAR, layer, "attn_gate", inp=h, out=gates, seg=seg, n_seg=a.n_q)
    return QKV(out, a), gates


def gate(p: Plan, layer: int, buffer: int, gates: int, *, act: str, column: int = 0, each: int = 1) -> None:
    """Multiplies a buffer by act of another buffer's columns from `column` on, one column for each `each` columns of
    it."""
    p.operation(Kind.GATE, layer, "gate", inp=gates, out=buffer, act=ACTIVATIONS[act], column=column, each=each)


def conv(
    p: Plan, layer: int, name: str, h: int, r: Recurrent, *, act: str, column: int = 0, gated: bool = False
) -> int:
    """act(causal convolution of `channels` columns of h) -> the buffer. Its weight is name.weight (channels, taps).
    gated: h holds B, C and x from `column` on: C times the convolution of B x."""
    out = p.buffer(f"c{r.channels}", r.channels)
    full = f"blk.{layer}.{name}"
    vec = p.once(("taps", layer), p.vectors, lambda: _taps(p, full, r))
    state, place = p.state(layer, r)
    return p.operation(
        Kind.CONV, layer, name, inp=h, out=out, vec=vec, vec2=p.bias(full, r.channels), column=column, state=state,
        act=ACTIVATIONS[act], state_layer=place, flags=FLAGS["gated"] if gated else 0,
    ).out  # fmt: skip


def scan(
    p: Plan, layer: int, c: int, gates: int, r: Recurrent, vec: int, *, column: int, delta: bool, scale: float = 1.0,
    eps: float = 0.0, each: bool = False,
) -> int:  # fmt: skip
    """The recurrence over the convolution's output c -> the buffer. delta: the gated delta rule of queries, keys and
    values; else Mamba 2 of values, keys, queries. gates: the buffer with beta (delta alone) and dt from `column` on.
    vec: A, dt's bias and (Mamba 2) D of every value head. eps: queries and keys are L2-normalised with it; 0: not.
    each: each key channel of each head has its own dt, and its own bias."""
    out = p.buffer(f"s{r.n_v * r.dv}", r.n_v * r.dv)
    state, place = p.state(layer, r)
    return p.operation(
        Kind.SCAN, layer, "scan", inp=c, out=out, tmp=gates, vec=vec, column=column, state=state, state_layer=place,
        scale=scale, eps=eps, flags=(FLAGS["delta"] if delta else 0) | (FLAGS["each"] if each else 0), cap=r.steps[0],
        limit=r.steps[1] if r.steps[1] < float("inf") else 0.0,
    ).out  # fmt: skip


def head_vectors(p: Plan, layer: int, names: Sequence[str], n: int) -> int:
    """The number of a vector made of several tensors of n values, one after another. names: their full names."""

    def make() -> Vector:
        tensors = [f"blk.{layer}.{name}" for name in names]
        if tensors[0] not in p.tensors and f"{tensors[0]}_log" in p.tensors:  # A = -exp of its logarithm
            tensors[0] += "_log"
        shapes = [(n, 1) if name in p.tensors and len(p.tensors[name].shape) == 2 else (n,) for name in tensors]
        values = [floats(p.tensor(name, shape)).reshape(n) for name, shape in zip(tensors, shapes, strict=True)]
        if tensors[0].endswith("_log"):
            values[0] = -np.exp(values[0])
        return Vector(tensors[0], np.concatenate(values))

    return p.once(("vectors", layer, *names), p.vectors, make)


def _taps(p: Plan, name: str, r: Recurrent) -> Vector:
    """A convolution's weight as (taps, channels); files have (channels, taps) or (channels, 1, taps)."""
    t = p.tensors.get(f"{name}.weight")
    shape = (r.channels, 1, r.taps) if t is not None and len(t.shape) == 3 else (r.channels, r.taps)
    whole = floats(p.tensor(f"{name}.weight", shape)).reshape(r.channels, r.taps)
    return Vector(f"{name}.weight", np.ascontiguousarray(whole.T).reshape(-1))
