"""Fields of operations that only some architectures use: against float64, and the same bits however a pass is split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pellucid.errors import PellucidError
from pellucid.look import places
from pellucid.plan import Attention, Kind, Op, Plan, Rope, Vector
from tests.engine import plans
from tests.engine.plans import DIM, FF, HEADS, ROPE, Shapes

Q, KV = HEADS.n_q * HEADS.dk, HEADS.n_kv * HEADS.dk
Prepare = Callable[[Plan, int, Any], None]


def layer(
    before: Prepare | None = None,
    *,
    attention: Attention = HEADS,
    rope: Rope | None = ROPE,
    attend: dict[str, Any] | None = None,
    append: dict[str, Any] | None = None,
    scale: float = 1.0,
) -> plans.Write:
    """An ordinary layer. before: what it does with queries, keys and values before they are rotated."""

    def write(p: Plan, i: int) -> None:
        qkv = p.qkv(i, p.norm(i, "attn_norm"), attention)
        if before:
            before(p, i, qkv)
        p.rope_append(i, qkv, rope, **(append or {}))
        p.add(i, "attn_output", p.attend(i, qkv, **(attend or {})), scale=scale)
        p.add(i, "ffn_down", p.glu(i, p.norm(i, "ffn_norm"), FF, "silu"), scale=scale)

    return write


def made(write: plans.Write, shapes: Shapes | None = None, **options: Any) -> Callable[[str], Plan]:
    return lambda format: plans.plan(write, shapes or plans.attention(), format=format, **options)


# ---- attention -----------------------------------------------------------------------------------------------------
CAPPED = {"cap": 0.5}
SINKS = {"attn_sinks": (HEADS.n_q,)}


@pytest.mark.parametrize("window", [0, 63, 65])
def test_cap_and_sinks(window: int) -> None:
    write = layer(attention=replace(HEADS, window=window), attend={**CAPPED, "sinks": "attn_sinks"})
    plans.check(made(write, plans.attention(**SINKS)))


@pytest.mark.parametrize("kv", ["f32", "f16", "bf16", "int8"])
def test_cap_and_sinks_of_every_cache(isa: str, kv: str) -> None:
    write = layer(attend={**CAPPED, "sinks": "attn_sinks"})
    plans.check_kv(made(write, plans.attention(**SINKS))("F32"), isa, kv)


def test_sinks_far_above_and_below_all_scores() -> None:
    for sink in (-1e30, -50.0, 50.0, 1e4):
        p = made(layer(attend={"sinks": "attn_sinks"}), plans.attention(**SINKS))("F32")
        vectors = [v._replace(data=np.full(4, sink, np.float32)) if "sinks" in v.name else v for v in p.vectors]
        plans.check(lambda format, p=p, v=vectors: p.changed(p.ops, v), n=70, formats=["F32"])  # type: ignore[misc]


# ---- norms ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("weights", ["shared", "own", "all"])
def test_head_norms(norm: str, weights: str) -> None:
    sizes = (HEADS.dk, HEADS.dk) if weights == "shared" else (Q, KV)
    shapes = plans.attention(attn_q_norm=(sizes[0],), attn_k_norm=(sizes[1],))
    if weights == "own":
        shapes |= {"attn_q_norm": (HEADS.n_q, HEADS.dk), "attn_k_norm": (HEADS.n_kv, HEADS.dk)}
    plans.check(made(layer(lambda p, i, qkv: p.head_norm(i, qkv, norm=norm, weights=weights)), shapes), n=80)


@pytest.mark.parametrize("norm", ["rms", "layer", "l2"])
@pytest.mark.parametrize(("each", "own"), [(0, False), (16, False), (8, True)])
def test_norms_of_columns(norm: str, each: int, own: bool) -> None:
    """Of the values, beside queries and keys."""

    def before(p: Plan, i: int, qkv: Any) -> None:
        p.norm_columns(i, "attn_v_norm", qkv.buffer, Q + KV, KV, each=each, own=own, norm=norm)

    n = each if each and not own else KV
    bias = {"attn_v_norm.bias": (n,)} if norm == "layer" else {}
    plans.check(made(layer(before), plans.attention(attn_v_norm=(n,), **bias)), n=80)


def test_norms_of_columns_without_a_weight() -> None:
    def before(p: Plan, i: int, qkv: Any) -> None:
        p.norm_columns(i, "v norm", qkv.buffer, Q + KV, KV, each=HEADS.dv, weight=False)

    plans.check(made(layer(before)), n=80)


@pytest.mark.parametrize("norms", ["rms", "layer"])
def test_norms_after_and_of_the_embedding(norms: str) -> None:
    """The stream itself is normed, as in BERT; its products read it, and the head reads normed rows."""

    def write(p: Plan, i: int) -> None:
        if i == 0:
            p.settle(-1, "token_embd_norm")
        qkv = p.qkv(i, p.stream(), HEADS)
        p.rope_append(i, qkv, None)
        p.add(i, "attn_output", p.attend(i, qkv))
        p.settle(i, "attn_norm")
        p.add(i, "ffn_down", p.mlp(i, p.stream(), FF, "gelu"))
        p.settle(i, "ffn_norm")

    bias = {f"{name}.bias": (DIM,) for name in ("attn_norm", "ffn_norm")} if norms == "layer" else {}
    others = {"token_embd_norm": (DIM,)} | ({"token_embd_norm.bias": (DIM,)} if norms == "layer" else {})
    shapes = plans.attention(**bias)
    del shapes["ffn_gate"]

    def make(format: str) -> Plan:
        p = plans.plan(write, shapes, format=format, others=others, norms=norms, head=lambda p: p.head(norm=None))
        assert p.ops[-1].vec == -1
        return p

    plans.check(make, n=80)


def test_two_norms_of_the_same_rows() -> None:
    """Both halves of a layer read the stream before either is added (GPT-NeoX)."""

    def write(p: Plan, i: int) -> None:
        h, g = p.norm(i, "attn_norm"), p.norm(i, "ffn_norm", out="g")
        qkv = p.qkv(i, h, HEADS)
        p.rope_append(i, qkv, ROPE)
        p.add(i, "attn_output", p.attend(i, qkv))
        p.add(i, "ffn_down", p.mlp(i, g, FF, "gelu"))

    shapes = plans.attention()
    del shapes["ffn_gate"]
    plans.check(made(write, shapes), n=80)


# ---- rotation ------------------------------------------------------------------------------------------------------
ROPES = {
    "scaled": ROPE._replace(scale=1.25),
    "from the fifth": Rope((1.0, 0.25, 0.125), True, 1.5, 5),
    "neighbours": Rope((1.0, 0.0, 0.125), False, 0.75, 10),
    "none": None,
}


@pytest.mark.parametrize("name", ROPES)
def test_rotations(name: str) -> None:
    plans.check(made(layer(rope=ROPES[name])), n=80)


def test_factors_of_queries() -> None:
    plans.check(made(layer(append={"factors": (1.0, 1.5, 2.0), "every": 32})), n=150)
    plans.check(made(layer(rope=None, append={"factors": (0.5, 1.5), "every": 7})), n=30)


def test_norms_after_rotation() -> None:
    def before(p: Plan, i: int, qkv: Any) -> None:
        p.rotate(i, qkv, ROPE)
        p.head_norm(i, qkv)

    shapes = plans.attention(attn_q_norm=(HEADS.dk,), attn_k_norm=(HEADS.dk,))
    plans.check(made(layer(before, rope=None), shapes), n=80)


def test_keys_of_an_earlier_layer(isa: str) -> None:
    """The second of two layers has queries alone; where they are read is known for traces."""

    def write(p: Plan, i: int) -> None:
        if i == 0:
            return layer()(p, i)
        qkv = p.queries(i, p.norm(i, "attn_norm"), HEADS, of=0)
        p.norm_columns(i, "attn_q_norm", qkv.buffer, 0, Q, each=HEADS.dk)
        p.rotate(i, qkv, ROPE)
        p.add(i, "attn_output", p.attend(i, qkv))
        return p.add(i, "ffn_down", p.glu(i, p.norm(i, "ffn_norm"), FF, "silu"))

    shapes = plans.attention(attn_q_norm=(HEADS.dk,))
    make = made(write, shapes, unread={"blk.0.attn_q_norm.weight", "blk.1.attn_k.weight", "blk.1.attn_v.weight"})
    plans.check(make, n=80)
    p = make("F32")
    assert p.caches[0].n_layers == 1
    first, second = places.find(p).layers
    assert first.keys == first.qkv == second.keys
    assert second.qkv is not None and p.buffers[second.qkv.buffer].dim == Q and second.group == first.group
    plans.check_kv(p, isa, "f32")


# ---- multipliers, rows, sums ---------------------------------------------------------------------------------------
def test_multipliers() -> None:
    """Of what is added, of every product, and of logits."""

    def write(p: Plan, i: int) -> None:
        layer(scale=0.22)(p, i)
        vec = p.constant(f"row scale {i}", list(np.linspace(0.5, 1.5, Q)))
        first = next(op.seg for op in p.ops if op.kind == Kind.LINEAR and op.layer == i)
        p.segments[first] = p.segments[first]._replace(row_scale=vec, scale=1.25)

    biases = {"attn_q.bias": (Q,), "attn_output.bias": (DIM,)}
    plans.check(made(write, plans.attention(**biases), head=lambda p: p.head(3.0, scale=0.125)), n=80)


def test_multiplier_after_a_post_norm() -> None:
    def write(p: Plan, i: int) -> None:
        qkv = p.qkv(i, p.stream(), HEADS)
        p.rope_append(i, qkv, ROPE)
        p.add(i, "attn_output", p.attend(i, qkv), post_norm="attn_norm", scale=0.5)
        p.add(i, "ffn_down", p.glu(i, p.stream(), FF, "silu"), post_norm="ffn_norm", scale=0.75)
        p.scale(i, "layer scale", 1.5)

    plans.check(made(write), n=80)


def test_another_buffer_added_to_the_stream() -> None:
    def write(p: Plan, i: int) -> None:
        h = p.norm(i, "attn_norm")
        qkv = p.qkv(i, h, HEADS)
        p.rope_append(i, qkv, ROPE)
        p.add(i, "attn_output", p.attend(i, qkv))
        p.mix(i, "mix", h, scale=0.5)
        p.add(i, "ffn_down", p.glu(i, p.norm(i, "ffn_norm"), FF, "silu"))

    plans.check(made(write), n=80)


# ---- what does not fit ---------------------------------------------------------------------------------------------
def test_tables_that_do_not_fit() -> None:
    p = made(layer(rope=ROPES["from the fifth"]))("F32")

    def refused(match: str, **tables: Any) -> None:
        wrong = replace(p, _known={}, **tables)
        with pytest.raises(PellucidError, match=match):
            plans.engine(wrong)

    rope, segment = p.ropes[0], p.segments[2]
    for first in (-1, 11, 1 << 30):
        refused("rope", ropes=[rope._replace(first=first)])
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        refused("rope 0: scale", ropes=[rope._replace(scale=scale)])
    for vec in (-2, 0, 999):
        refused("row scales", segments=[*p.segments[:2], segment._replace(row_scale=vec), *p.segments[3:]])


def test_a_norm_of_columns_of_a_buffer_that_holds_nothing() -> None:
    p = made(layer())("F32")
    h = next(op.out for op in p.ops if op.kind == Kind.NORM)
    partly: list[Op] = [replace(op, width=8, vec=-1) if op.kind == Kind.NORM and op.out == h else op for op in p.ops]
    with pytest.raises(PellucidError, match="nothing has written"):
        plans.engine(p.changed(partly, p.vectors))


def test_keys_that_are_rotated_alone_are_not_stored() -> None:
    p = made(layer())("F32")
    ops = [replace(op, flags=64) if op.kind == Kind.ROPE_APPEND and op.layer == 1 else op for op in p.ops]
    with pytest.raises(PellucidError, match="before they are stored"):
        plans.engine(p.changed(ops, p.vectors))


def test_a_vector_of_no_weights_is_none() -> None:
    p = made(layer())("F32")
    head = replace(p.ops[-1], norm=3, vec=-1)
    plans.engine(p.changed([*p.ops[:-1], head], [*p.vectors, Vector("unused", np.ones(1, np.float32))]))
