"""Looking inside changes nothing: tapped and timed passes, and each operation run alone on what it was given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pellucid.plan import Kind
from tests.engine.models import Load, ids_for, rows, same, sequence

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
    """Buffers whose contents before the operation matter."""
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
    """A pass cut in two at any place, with all buffers handed over, ends in the same logits."""
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


def test_a_part_of_a_pass_never_alters_a_fork(load: Load) -> None:
    """Pages that two sequences share are copied before an operation alone stores other keys and values into them."""
    engine = load("llama_gqa").core.engine
    ids = ids_for(engine, 80)
    s = sequence(engine, ids[:70])
    fork = s.fork()
    expected = rows(engine, sequence(engine, ids[:70]), ids[70:])
    append = next(i for i, op in enumerate(engine.plan.ops) if op.kind == Kind.ROPE_APPEND)
    dim = engine.plan.buffers[engine.plan.ops[append].inp].dim
    other = np.full((70, dim), 3.0, np.float32)
    engine.observe(as_part(s, ids[:70], 70), ops=(append, append + 1), feeds={engine.plan.ops[append].inp: other}, at=0)
    assert same(rows(engine, fork, ids[70:]), expected)
    assert not same(rows(engine, s, ids[70:]), expected)  # it did store them in its own


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
    with pytest.raises(ValueError, match="takes"):
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
    with pytest.raises(ValueError, match="stand together"):
        engine.forward([(s, one, 1), (s, one, 1)])
    assert s.length == 0
