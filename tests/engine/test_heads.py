"""Linears by heads, and attention over latent rows: against float64, the same bits however a pass is split, and what
does not fit."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from pellucid import latent
from pellucid.errors import PellucidError
from pellucid.plan import Kind, Latent, Op, Plan, Rope, Segment
from tests.engine import plans
from tests.engine.plans import DIM, FF

# name -> sizes; quantised formats need multiples of 32.
SIZES = {
    "one": Latent(heads=1, rank=32, rope=16, nope=32, value=32),
    "odd": Latent(heads=5, rank=32, rope=2, nope=32, value=64, query_rank=96),
    "wide": Latent(heads=3, rank=96, rope=32, nope=64, value=32, query_rank=32),
    "ragged": Latent(heads=7, rank=19, rope=6, nope=9, value=23, query_rank=11),
}
FAR = {"F32": 1e-5, "F16": 1e-5, "BF16": 2e-2}  # of tiers from the scalar one; of int8 a rounding may differ
SHARED = Latent(heads=3, rank=96, rope=32, nope=64, value=32)


def made(a: Latent, format: str, layers: int = 2) -> Plan:
    """A model whose layers have this attention. Matrices of ragged widths are F32."""
    rope = Rope(tuple(100.0 ** (-i / a.rope) for i in range(a.rope // 2)), halves=False)
    width, k = a.heads * (a.nope + a.rope), a.query_rank or DIM
    shapes = {
        "attn_norm": (DIM,), "attn_q_b" if a.query_rank else "attn_q": (width, k),
        "attn_kv_a_mqa": (a.rank + a.rope, DIM), "attn_kv_a_norm": (a.rank,),
        "attn_k_b": (a.heads, a.rank, a.nope), "attn_v_b": (a.heads, a.value, a.rank),
        "attn_output": (DIM, a.heads * a.value),
        "ffn_norm": (DIM,), "ffn_gate": (FF, DIM), "ffn_up": (FF, DIM), "ffn_down": (DIM, FF),
    }  # fmt: skip
    if a.query_rank:
        shapes |= {"attn_q_a": (a.query_rank, DIM), "attn_q_a_norm": (a.query_rank,)}

    def write(p: Plan, i: int) -> None:
        p.add(i, "attn_output", latent.attend(p, i, p.norm(i, "attn_norm"), a, rope, 0.11))
        p.add(i, "ffn_down", p.glu(i, p.norm(i, "ffn_norm"), FF, "silu"))

    return plans.plan(write, shapes, format=format, layers=layers)


@pytest.mark.parametrize("name", SIZES)
def test_attention_over_latent_rows(name: str) -> None:
    formats = ["F32", "BF16"] if name == "ragged" else plans.ERRORS
    plans.check(lambda format: made(SIZES[name], format), n=90, formats=formats)


@pytest.mark.parametrize("format", ["F32", "BF16", "F16", "Q8_0", "Q4_0"])
def test_linears_of_every_tier(isa: str, format: str) -> None:
    """Each tier is near the scalar one, on any number of threads the same bits, alone and among others."""
    p = made(SHARED, format, layers=1)
    ids = plans.ids_for(plans.engine(p), 300)
    expected = plans.rows(e := plans.engine(p, isa=isa, threads=1), plans.sequence(e), ids)
    scalar = plans.engine(p, isa="scalar", threads=1)
    near = plans.rows(scalar, plans.sequence(scalar), ids)
    assert np.abs(expected - near).max() <= FAR.get(format, 2e-3) * np.abs(near).max()
    for threads in (2, 3):
        e = plans.engine(p, isa=isa, threads=threads)
        s = plans.sequence(e)
        parts = [plans.rows(e, s, ids[i : i + n]) for i, n in ((0, 1), (1, 270), (271, 29))]
        assert plans.same(np.concatenate(parts), expected)


@pytest.mark.parametrize("kv", ["f32", "f16", "bf16", "int8"])
def test_every_cache(isa: str, kv: str) -> None:
    plans.check_kv(made(SIZES["wide"], "F32"), isa, kv)


def first(p: Plan, name: str) -> tuple[Op, int]:
    op = next(op for op in p.ops if op.name == name)
    assert op.kind == Kind.LINEAR
    return op, op.seg


WRONG = [
    ("attn_qkv", 0, {"step": 0}, "a segment's step"),
    ("attn_qkv", 0, {"step": 95}, "a segment's step"),
    ("attn_qkv", 0, {"step": 129}, "a segment's columns"),
    ("attn_qkv", 0, {"step": 2**31 - 1}, "a segment's columns"),
    ("attn_qkv", 0, {"column": 96}, "a segment's columns"),
    ("attn_qkv", 0, {"input": -2}, "a segment's input"),
    ("attn_qkv", 0, {"input": 99}, "a segment's input"),
    ("attn_qkv", 1, {"column": 0}, "a segment's columns"),
    ("attn_qkv", 2, {"column": 383}, "a segment's columns"),
    ("attn_qkv", 2, {"step": 1}, "a segment's step"),
    ("attn_v_b", 0, {"column": 1}, "a segment's columns"),
    ("attn_v_b", 0, {"step": 33}, "a segment's columns"),
    ("ffn_down", 0, {"input": 0}, "a segment's input"),
]


@pytest.mark.parametrize(("name", "at", "changed", "what"), WRONG)
def test_segments_that_do_not_fit(name: str, at: int, changed: dict[str, int], what: str) -> None:
    p = made(SHARED, "F32", layers=1)
    op = next(op for op in p.ops if op.name == name)
    p.segments[op.seg + at] = p.segments[op.seg + at]._replace(**changed)
    with pytest.raises(PellucidError, match=re.escape(what)):
        plans.engine(p)


def test_plans_that_do_not_fit() -> None:
    def fails(match: str, change: Any) -> None:
        p = made(SHARED, "F32", layers=1)
        change(p)
        with pytest.raises(PellucidError, match=match):
            plans.engine(p)

    def into_its_input(p: Plan) -> None:
        op, at = first(p, "attn_qkv")
        p.segments[at] = p.segments[at]._replace(input=op.out)

    def another_width(p: Plan) -> None:
        _, at = first(p, "attn_qkv")
        p.segments[at] = p.segments[at]._replace(input=[b.dim for b in p.buffers].index(FF))

    def unwritten(p: Plan) -> None:
        p.ops.remove(first(p, "attn_q")[0])

    def one_segment_less(p: Plan) -> None:
        first(p, "attn_qkv")[0].n_seg = 2

    def many(p: Plan) -> None:
        op, at = first(p, "attn_qkv")
        p.segments += [Segment(p.segments[at].matrix, 0, -1)] * 33
        op.seg, op.n_seg = len(p.segments) - 33, 33

    def wide_values(p: Plan) -> None:
        p.caches[0].dv = p.caches[0].dk + 1

    def neither(p: Plan) -> None:
        p.caches[0].shared = 2  # type: ignore[assignment]

    fails("a segment's input", into_its_input)
    fails("a matrix's columns", another_width)
    fails("nothing has written", unwritten)
    fails("its segments' columns", one_segment_less)
    fails("its list of segments", many)
    fails("cache group 0", wide_values)
    fails("cache group 0", neither)
