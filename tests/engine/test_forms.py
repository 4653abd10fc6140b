"""Operations write a buffer in the forms that its readers multiply; a plan that reads a missing form is refused.

Plans that no architecture here has yet: a product that reads the residual stream itself, with a norm after it or none;
edits before it; and products that read rotated queries and keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gguf
import numpy as np
import pytest

from pellucid import _engine
from pellucid.errors import PellucidError
from pellucid.plan import Kind, Matrix, Op, Segment, Vector
from tests.engine import arithmetic
from tests.engine.models import Load, ids_for, in_memory, same, sequence
from tests.engine.test_plan import copy_of

# Largest error over the largest logit, with two int8 terms. BF16 weights take activations rounded to 8 bits.
MIXES = {"F32": 2e-5, "F16": 2e-5, "BF16": 0.03, "Q8_0": 1e-3, "Q4_0": 1e-3, "K": 1e-3, "all": 0.03}


def norms_after(plan: Any) -> None:
    """Products read the residual stream; their results are normed before they are added (OLMo 2)."""
    for layer in range(plan.ops[-2].layer + 1):
        vecs = [op.vec for op in plan.ops if op.kind == Kind.NORM and op.layer == layer]
        for op in plan.ops:
            if op.layer == layer and op.kind == Kind.LINEAR_ADD:
                op.vec, op.eps = vecs.pop(0), plan.ops[-1].eps
    norms_nowhere(plan)


def norms_nowhere(plan: Any) -> None:
    x = plan.ops[0].out
    plan.ops = [op for op in plan.ops if op.kind != Kind.NORM]
    for op in plan.ops:
        if op.kind in (Kind.LINEAR, Kind.GLU):
            op.inp = x


def edited(plan: Any) -> None:
    """Products read the residual stream after edits: of all rows, of some columns, of some positions."""
    norms_after(plan)
    x, dim = plan.ops[0].out, plan.buffers[plan.ops[0].out].dim
    rng = np.random.default_rng(3)
    plan.vectors += [Vector("edit", rng.normal(0, 1, 2 * dim).astype(np.float32))]
    common: Any = {"kind": Kind.SCALE_ADD, "layer": 0, "name": "edit", "inp": x, "out": x, "width": dim}
    whole = Op(**common, scale=0.75, pos_to=2**31 - 1)
    columns = Op(**{**common, "width": 40}, column=3, scale=-2.0, pos_to=2**31 - 1)
    rows = Op(**common, vec=len(plan.vectors) - 1, each=1, pos_from=1, pos_to=3)
    at = next(i for i, op in enumerate(plan.ops) if op.kind == Kind.LINEAR_ADD)
    plan.ops[at + 1 : at + 1] = [whole, columns]
    plan.ops[1:1] = [rows]


def of_heads(plan: Any) -> None:
    """A product of what a head norm and a rotation leave goes into the residual stream."""
    at = next(i for i, op in enumerate(plan.ops) if op.kind == Kind.ROPE_APPEND)
    op, c = plan.ops[at], plan.caches[plan.ops[at].cache]
    first = next(s.matrix for s in plan.segments if plan.matrices[s.matrix].name.endswith("attn_q.weight"))
    kind, k, dim = plan.matrices[first].type, plan.buffers[op.inp].dim, plan.buffers[plan.ops[0].out].dim
    rng = np.random.default_rng(4)
    values = rng.normal(0, k**-0.5, (dim, k)).astype(np.float32)
    if kind in ("Q4_K", "Q6_K"):
        kind = "Q8_0"
    data = gguf.quantize(values, getattr(gguf.GGMLQuantizationType, kind)) if kind != "F32" else values
    raw = np.ascontiguousarray(data).view(np.uint8).reshape(-1)
    plan.matrices.append(Matrix("extra", kind, dim, k, raw, False))
    plan.segments.append(Segment(len(plan.matrices) - 1, 0, -1))
    plan.vectors += [Vector("norm", rng.uniform(0.5, 1.5, c.dk).astype(np.float32))]
    tmp = next(o.tmp for o in plan.ops if o.kind == Kind.LINEAR_ADD)
    vec, seg = len(plan.vectors) - 1, len(plan.segments) - 1
    norm = Op(Kind.HEAD_NORM, 0, "norm", inp=op.inp, out=op.inp, vec=vec, vec2=vec, cache=op.cache, eps=1e-5)
    add = Op(Kind.LINEAR_ADD, 0, "add", inp=op.inp, out=plan.ops[0].out, tmp=tmp, seg=seg, n_seg=1)
    plan.ops[at : at + 1] = [norm, add, op, add]


def layer_norms(plan: Any) -> None:
    """LayerNorm before products, after them and in the head: with biases, but for the post-norms of odd layers."""
    before = [replace(op) for op in plan.ops if op.kind == Kind.NORM]
    norms_after(plan)
    plan.ops[1:1] = before[:1]
    plan.ops[2].inp = before[0].out
    rng = np.random.default_rng(5)
    for op in plan.ops:
        if op.kind in (Kind.NORM, Kind.HEAD) or (op.kind == Kind.LINEAR_ADD and op.vec >= 0):
            op.norm = _engine.NORMS["layer"]
            if op.kind != Kind.LINEAR_ADD or op.layer % 2 == 0:
                bias = rng.normal(0, 0.5, len(plan.vectors[op.vec].data)).astype(np.float32)
                plan.vectors.append(Vector("bias", bias))
                op.vec2 = len(plan.vectors) - 1


CHANGES = [norms_after, norms_nowhere, edited, of_heads, layer_norms]


def engine_of(plan: Any, isa: str | None = None, threads: int = 2, terms: int = 2, max_rows: int = 64) -> Any:
    found = _engine.find_isa(isa)
    engine = _engine.Engine(plan, isa=found, threads=threads, kv="f32", least_terms=terms, max_rows=max_rows)
    engine.pack()
    return engine


def logits(engine: Any, ids: list[int], chunk: int) -> Any:
    s, out = sequence(engine), np.full((len(ids), engine.vocab), np.nan, np.float32)
    for at in range(0, len(ids), chunk):
        part = np.array(ids[at : at + chunk], np.int32)
        engine.forward([(s, part, 0)], out=out[at : at + len(part)])
    return out


def changed(load: Load, mix: str, change: Callable[[Any], None]) -> Any:
    plan = copy_of(in_memory(load("wide" if mix != "all" else "narrow", mix).core.engine.plan))
    change(plan)
    return plan


@pytest.mark.long
@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("change", CHANGES)
def test_products_of_the_residual_stream(load: Load, isa: str, change: Callable[[Any], None], mix: str) -> None:
    plan = changed(load, mix, change)
    ids = [i % plan.vocab for i in range(3, 260, 11)]
    engine = engine_of(plan, isa)
    expected = arithmetic.logits(engine, ids)
    found = logits(engine, ids, len(ids))
    assert np.abs(found - expected).max() <= MIXES[mix] * np.abs(expected).max()
    for threads, chunk in ((1, 7), (3, len(ids)), (3, 1)):
        assert same(logits(engine_of(plan, isa, threads), ids, chunk), found), f"{threads} threads, chunks of {chunk}"


@pytest.mark.parametrize("change", CHANGES)
def test_one_term(load: Load, change: Callable[[Any], None]) -> None:
    """The default of models: less exact than two terms, within the error of int8."""
    plan = changed(load, "Q8_0", change)
    ids = ids_for(plan, 20)
    engine = engine_of(plan, terms=1)
    expected = arithmetic.logits(engine, ids)
    found = logits(engine, ids, 20)
    assert np.abs(found - expected).max() <= 0.1 * np.abs(expected).max()
    assert same(logits(engine_of(plan, terms=1, threads=3), ids, 1), found)


@pytest.mark.parametrize("mix", ["F32", "BF16", "Q8_0", "K"])
def test_the_reference_is_right_of_plans_as_they_are(load: Load, mix: str) -> None:
    for name in ("wide", "wide_gemma"):
        engine = engine_of(in_memory(load(name, mix).core.engine.plan))
        ids = ids_for(engine, 60)
        expected = arithmetic.logits(engine, ids)
        assert np.abs(logits(engine, ids, 60) - expected).max() <= max(MIXES[mix], 1e-4) * np.abs(expected).max()


# ---- segments that several operations share -------------------------------------------------------------------


@pytest.mark.parametrize("mix", ["Q8_0", "K"])
@pytest.mark.parametrize("terms", [1, 2])
def test_a_segment_of_two_operations(load: Load, mix: str, terms: int) -> None:
    """The head asks for two terms of a segment that a linear has read with one: both compute with two, whichever comes
    first, and the plan stays as it was given."""
    plan = copy_of(in_memory(load("wide", mix).core.engine.plan))
    x, h = plan.ops[0].out, plan.ops[1].out
    head = plan.ops[-1]
    plan.buffers.append(plan.buffers[0]._replace(name="early", dim=plan.vocab))
    norm = Op(Kind.NORM, -1, "early norm", inp=x, out=h, vec=head.vec, eps=head.eps)
    plan.ops[1:1] = [norm, Op(Kind.LINEAR, -1, "early", inp=h, out=len(plan.buffers) - 1, seg=head.seg, n_seg=1)]
    before = copy_of(plan)
    engine = engine_of(plan, terms=terms)
    ids, early = ids_for(engine, 8), len(plan.buffers) - 1
    out = np.empty((8, engine.vocab), np.float32)
    taps = [(2, early)]
    together = engine.observe([(sequence(engine), np.array(ids, np.int32), 0)], taps=taps, out=out)[0][taps[0]]
    alone = sequence(engine)
    for i, id in enumerate(ids):
        row = np.empty((1, engine.vocab), np.float32)
        found = engine.observe([(alone, np.array([id], np.int32), 0)], taps=taps, out=row)[0][taps[0]]
        assert same(found, together[i : i + 1]) and same(row, out[i : i + 1])
    assert plan.ops == before.ops and plan.segments == before.segments


# ---- what is refused ------------------------------------------------------------------------------------------


def refused(plan: Any, words: str) -> None:
    with pytest.raises(PellucidError, match=words):
        engine_of(plan)


def first(plan: Any, kind: Kind) -> int:
    return next(i for i, op in enumerate(plan.ops) if op.kind == kind)


@pytest.mark.parametrize("mix", ["F32", "BF16", "Q8_0"])
def test_a_product_of_a_temporary(load: Load, mix: str) -> None:
    """What an operation leaves in its temporary is float32 alone: products in other forms are refused."""
    plan = copy_of(in_memory(load("wide", mix).core.engine.plan))
    added = plan.ops[first(plan, Kind.LINEAR_ADD)]
    plan.ops[first(plan, Kind.GLU)].inp = added.tmp
    if mix == "F32":
        engine = engine_of(plan)
        ids = ids_for(engine, 9)
        expected = arithmetic.logits(engine, ids)
        assert np.abs(logits(engine, ids, 4) - expected).max() <= 2e-5 * np.abs(expected).max()
    else:
        refused(plan, r"operation \d+ \(glu, layer 0\) multiplies a temporary")


def test_what_nothing_has_written(load: Load) -> None:
    for kind in (Kind.EMBED, Kind.NORM, Kind.LINEAR, Kind.GLU, Kind.ATTEND):
        plan = copy_of(in_memory(load("wide").core.engine.plan))
        del plan.ops[first(plan, kind)]
        refused(plan, r"operation \d+ \(\w+, layer -?\d+\) reads a buffer that nothing has written")


def test_keys_that_are_not_there_or_twice(load: Load) -> None:
    plan = copy_of(in_memory(load("wide").core.engine.plan))
    del plan.ops[first(plan, Kind.ROPE_APPEND)]
    refused(plan, r"\(attend, layer 0\) reads keys and values before they are stored")
    plan = copy_of(in_memory(load("wide").core.engine.plan))
    at = first(plan, Kind.ROPE_APPEND)
    plan.ops[at : at + 2] = plan.ops[at : at + 2][::-1]
    refused(plan, r"\(attend, layer 0\) reads keys and values before they are stored")
    plan = copy_of(in_memory(load("wide").core.engine.plan))
    plan.ops.insert(at, plan.ops[at])
    refused(plan, r"\(rope_append, layer 0\) stores keys and values of a layer a second time")


# ---- the table --------------------------------------------------------------------------------------------------


def test_kinds_are_those_of_the_engine() -> None:
    """The stub has the names of the engine's table."""
    import ast
    from pathlib import Path

    stub = ast.parse(Path(_engine.__file__).with_name("_engine.pyi").read_text())
    kind = next(node for node in stub.body if isinstance(node, ast.ClassDef) and node.name == "Kind")
    names = [n.targets[0].id for n in kind.body if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)]
    assert names == [k.name for k in Kind] and [k.value for k in Kind] == list(range(len(Kind)))
