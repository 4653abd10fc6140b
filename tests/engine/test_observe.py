"""Observing changes no result: tapped and timed passes, and each operation run alone on its inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pellucid.errors import NumericsError
from pellucid.plan import Kind
from tests.engine.models import Load, ids_for, in_memory, rows, same, sequence
from tests.engine.test_forms import engine_of
from tests.engine.test_plan import copy_of

KINDS = [
    ("llama_gqa", "F32"),
    ("llama_odd", "F16"),
    ("narrow", "all"),
    ("wide", "K"),
    ("gemma3", "F32"),
    ("wide_gemma", "K"),
]
kinds = pytest.mark.parametrize(("name", "mix"), KINDS, ids=["-".join(kind) for kind in KINDS])
lengths = pytest.mark.parametrize(("before", "n"), [(0, 1), (37, 1), (37, 50), (90, 5), (700, 2)])

IN_PLACE = (Kind.HEAD_NORM, Kind.ROPE_APPEND)


def as_part(s: Any, ids: list[int], first: int) -> list[tuple[Any, Any, int]]:
    return [(s, np.array(ids, np.int32), first)]


def reads(op: Any) -> list[int]:
    """Buffers that the operation reads."""
    return [b for b in (op.inp, op.out if op.kind == Kind.LINEAR_ADD else -1) if b >= 0]


def writes(op: Any) -> int:
    return op.inp if op.kind in IN_PLACE else op.out


@kinds
@lengths
def test_taps_and_times_change_nothing(load: Load, name: str, mix: str, before: int, n: int) -> None:
    engine = load(name, mix).core.engine
    ids = ids_for(engine, before + n)
    expected = rows(engine, sequence(engine, ids[:before]), ids[before:])
    every = [(i, b) for i in range(len(engine.plan.ops)) for b in range(len(engine.plan.buffers))]
    for taps, times in (([], True), (every, False), (every[::7], True)):
        out = np.empty_like(expected)
        s = sequence(engine, ids[:before])
        found, ns = engine.observe(as_part(s, ids[before:], 0), taps=taps, times=times, out=out)
        assert same(out, expected)
        assert s.length == before + n
        assert set(found) == set(taps)
        assert (ns is not None) == times
        if times:
            assert len(ns) == len(engine.plan.ops) and (ns > 0).all() and ns.sum() < 60e9


@kinds
@lengths
def test_every_operation_alone(load: Load, name: str, mix: str, before: int, n: int) -> None:
    """The state before operation i: the taps after i - 1; buffers that no operation has written yet are not read."""
    engine = load(name, mix).core.engine
    plan = engine.plan
    ids = ids_for(engine, before + n)
    out = np.empty((n, engine.vocab), np.float32)
    s = sequence(engine, ids[:before])
    all_taps = [(i, b) for i in range(len(plan.ops)) for b in range(len(plan.buffers))]
    taps, _ = engine.observe(as_part(s, ids[before:], 0), taps=all_taps, out=out)
    poison = {b: np.full((n, buffer.dim), 77.0, np.float32) for b, buffer in enumerate(plan.buffers)}
    for i, op in enumerate(plan.ops):
        feeds = {**poison, **{b: taps[i - 1, b] for b in reads(op)}}
        head = op.kind == Kind.HEAD
        logits = np.empty_like(out)
        found, _ = engine.observe(
            as_part(s, ids[before:], 0 if head else n), ops=(i, i + 1), feeds=feeds, at=before,
            taps=[] if head else [(i, writes(op))], out=logits if head else None,
        )  # fmt: skip
        if head:
            assert same(logits, out)
        else:
            assert same(found[i, writes(op)], taps[i, writes(op)]), f"operation {i}, {op.name} of layer {op.layer}"
    assert s.length == before + n
    # What the operations stored when they ran alone is what was there.
    assert same(rows(engine, s, ids[:9]), rows(engine, sequence(engine, ids), ids[:9]))


@kinds
def test_parts_of_the_plan(load: Load, name: str, mix: str) -> None:
    """A pass split in two at any operation, with all buffers passed on, gives the same logits."""
    engine = load(name, mix).core.engine
    plan = engine.plan
    ids = ids_for(engine, 60)
    s = sequence(engine, ids[:40])
    expected = rows(engine, s, ids[40:])
    every = range(len(plan.buffers))
    for cut in range(1, len(plan.ops), 3):
        first, _ = engine.observe(as_part(s, ids[40:], 20), ops=(0, cut), taps=[(cut - 1, b) for b in every], at=40)
        out = np.empty_like(expected)
        feeds = {b: first[cut - 1, b] for b in every}
        engine.observe(as_part(s, ids[40:], 0), ops=(cut, len(plan.ops)), feeds=feeds, out=out, at=40)
        assert same(out, expected), f"cut before operation {cut}"


@pytest.mark.parametrize("name", ["llama_gqa", "wide_gemma"])
@pytest.mark.parametrize("kv", ["f32", "int8"])
def test_a_part_of_a_pass_stores_nothing(load: Load, name: str, kv: str) -> None:
    """Its rows see the keys and values that it computes itself; the sequence, and forks of it, keep theirs, whatever
    becomes of the part."""
    engine = load(name, kv=kv).core.engine
    plan = engine.plan
    ids = ids_for(engine, 180)
    expected = rows(engine, sequence(engine), ids)[170:]
    s = sequence(engine, ids[:170])
    fork, used = s.fork(), engine.info()["cache_bytes_used"]
    append = next(i for i, op in enumerate(plan.ops) if op.kind == Kind.ROPE_APPEND)
    attend = next(i for i, op in enumerate(plan.ops) if op.kind == Kind.ATTEND)
    buf, group = plan.ops[append].inp, plan.caches[plan.ops[append].cache]
    other = np.random.default_rng(1).normal(0, 1, (30, plan.buffers[buf].dim)).astype(np.float32)
    feeds = {buf: other, plan.ops[0].out: other[:, : plan.dim]}
    part, taps = ids[:30], [(attend, plan.ops[attend].out), (len(plan.ops) - 2, plan.ops[0].out)]
    for at in (140, 128, 131) if group.window else (0, 64, 140):
        found, again = (
            engine.observe(as_part(one, part, 30), ops=(append, len(plan.ops)), feeds=feeds, taps=taps, at=at)[0]
            for one in (s, fork)
        )
        assert all(same(found[tap], again[tap]) for tap in taps)
        if at == 0 and kv == "f32":  # the first row sees its own value alone
            value = other[0, -group.n_kv * group.dv :].reshape(group.n_kv, group.dv)
            assert same(found[taps[0]][0].reshape(group.n_q, group.dv), value.repeat(group.n_q // group.n_kv, axis=0))
        spoilt = other.copy()
        spoilt[3, -1] = np.nan
        with pytest.raises(NumericsError, match="keys or values"):
            engine.observe(as_part(s, part, 30), ops=(append, attend + 1), feeds={buf: spoilt}, at=at)
    assert s.length == fork.length == 170 and engine.info()["cache_bytes_used"] == used
    for one in (s, fork):
        assert same(rows(engine, one, ids[170:]), expected)


def test_slots_near_the_largest_number(load: Load) -> None:
    """A part that uses no key runs at any slot, and takes no memory for the slots before it."""
    engine = load("llama_gqa").core.engine
    plan, ids = engine.plan, ids_for(engine, 5)
    norm = next(i for i, op in enumerate(plan.ops) if op.kind == Kind.NORM)
    x, h = plan.ops[norm].inp, plan.ops[norm].out
    feeds = {x: np.random.default_rng(1).normal(0, 1, (5, plan.buffers[x].dim)).astype(np.float32)}
    found = []
    for at in (0, 100_000_000, 2**31 - 7, 2**31 - 6):
        taps, _ = engine.observe(
            as_part(sequence(engine), ids, 5), ops=(norm, norm + 1), feeds=feeds, taps=[(norm, h)], at=at
        )
        found.append(taps[norm, h])
    assert all(same(one, found[0]) for one in found)
    for at in (2**31 - 5, 2**31 - 1):
        with pytest.raises(ValueError, match=f"at={at}: with 5 rows, expected at most 2147483642"):
            engine.observe(as_part(sequence(engine), ids, 5), ops=(norm, norm + 1), at=at)
    s = sequence(engine, ids)
    with pytest.raises(ValueError, match="slot 2147483642 is not stored"):
        engine.observe(as_part(s, ids, 5), ops=(norm, len(plan.ops) - 1), at=2**31 - 6)


def test_a_tap_that_is_named_several_times(load: Load) -> None:
    engine = load("llama_gqa").core.engine
    ids = ids_for(engine, 300)
    norm = next(i for i, op in enumerate(engine.plan.ops) if op.kind == Kind.NORM)
    tap, other = (norm, engine.plan.ops[norm].out), (norm, engine.plan.ops[norm].inp)
    once, _ = engine.observe(as_part(sequence(engine), ids, 300), taps=[tap, other])
    for _ in range(10):
        often, _ = engine.observe(as_part(sequence(engine), ids, 300), taps=[tap, other, tap, tap, other, tap])
        assert list(often) == [tap, other] and all(same(often[one], once[one]) for one in once)


def test_rows_are_as_many_as_there_are(load: Load) -> None:
    """Whatever length an argument says it has, and whatever becomes of the plan's lists afterwards."""

    class Lying(list[int]):
        def __len__(self) -> int:
            return 1

    engine = load("llama_gqa").core.engine
    ids = ids_for(engine, 40)
    s = sequence(engine)
    engine.forward([(s, Lying(ids), 40)])
    assert s.length == 40
    with pytest.raises(ValueError, match="100000 rows in a pass"):
        engine.forward([(s, Lying([1] * 100_000), 1)])
    plan = copy_of(in_memory(engine.plan))
    made = engine_of(plan)
    plan.buffers[0] = plan.buffers[0]._replace(dim=1)
    del plan.ops[3:], plan.matrices[1:]
    expected = rows(engine, sequence(engine), ids)
    assert same(rows(made, sequence(made), ids), expected)
    with pytest.raises(ValueError, match="feed of buffer 0 has shape"):
        made.observe([(sequence(made), ids, 40)], feeds={0: np.zeros((40, 1), np.float32)})


@kinds
def test_a_part_without_keys_and_values_needs_no_stored_token(load: Load, name: str, mix: str) -> None:
    """The head alone reads what it is fed, in a sequence that holds nothing, and stores nothing."""
    engine = load(name, mix).core.engine
    n_ops, ids = len(engine.plan.ops), ids_for(engine, 40)
    x = engine.plan.ops[-1].inp
    expected = np.empty((40, engine.vocab), np.float32)
    taps, _ = engine.observe(as_part(sequence(engine), ids, 0), taps=[(n_ops - 2, x)], out=expected)
    empty, used = sequence(engine), engine.info()["cache_bytes_used"]
    out = np.empty((30, engine.vocab), np.float32)
    part = as_part(empty, [0] * 30, 0)
    engine.observe(part, ops=(n_ops - 1, n_ops), feeds={x: taps[n_ops - 2, x][10:]}, out=out, at=0)
    assert same(out, expected[10:])
    assert empty.length == 0 and engine.info()["cache_bytes_used"] == used
    attend = next(i for i, op in enumerate(engine.plan.ops) if op.kind == Kind.ATTEND)
    for op in (attend - 1, attend):  # these do need them
        with pytest.raises(ValueError, match="slot 0 is not stored"):
            engine.observe(as_part(empty, [0], 1), ops=(op, op + 1), at=0)


def test_wrong_requests(load: Load) -> None:
    engine = load("gemma3").core.engine
    ids = ids_for(engine, 300)
    s = sequence(engine, ids)
    n_ops, n_bufs = len(engine.plan.ops), len(engine.plan.buffers)

    def observe(part: list[int], first: int = 999, **options: Any) -> None:
        engine.observe(as_part(s, part, first), **options)

    with pytest.raises(ValueError, match="operations"):
        observe(ids[:1], ops=(0, n_ops + 1), at=299)
    with pytest.raises(ValueError, match="operations"):
        observe(ids[:1], ops=(3, 3), at=299)
    with pytest.raises(ValueError, match="slot 300 is not stored"):
        observe(ids[:2], ops=(0, n_ops - 1), at=299)
    with pytest.raises(ValueError, match="slot 100 is not stored"):  # the window has let go of what it sees
        observe(ids[:1], ops=(0, n_ops - 1), at=100)
    with pytest.raises(ValueError, match="no buffer"):
        observe(ids[:1], taps=[(0, n_bufs)])
    with pytest.raises(ValueError, match="operation"):
        observe(ids[:1], taps=[(n_ops, 0)])
    with pytest.raises(ValueError, match="shape"):
        observe(ids[:1], feeds={0: np.zeros((2, 64), np.float32)})
    with pytest.raises(ValueError, match="neither stores nor samples"):
        observe(ids[:1], first=0)
    with pytest.raises(ValueError, match="token id"):
        observe([engine.vocab])
    with pytest.raises(ValueError, match="rows"):
        observe([])
    with pytest.raises(ValueError, match="another model"):
        load("llama_gqa").core.engine.observe(as_part(s, ids[:1], 1))
    assert s.length == 300


def test_cache_of_a_sequence_twice_in_a_pass(load: Load) -> None:
    engine = load("llama_gqa").core.engine
    s = sequence(engine)
    one = np.array([1], np.int32)
    with pytest.raises(ValueError, match="not consecutive"):
        engine.forward([(s, one, 1), (s, one, 1)])
    assert s.length == 0
