"""Mixtures of experts: against float64, the same bits however rows come together, ties, routes that are wrong."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pellucid import _engine
from pellucid.errors import PellucidError
from pellucid.plan import Experts, Kind, Matrix
from tests.engine import arithmetic, mixtures
from tests.engine.models import extend, ids_for, rows, same, sequence

PLAIN = Experts(8, 2, 96, frozenset({"renorm"}))
CASES: dict[str, dict[str, Any]] = {
    "softmax": {"e": Experts(8, 3, 40)},
    "renorm": {"e": PLAIN},
    "top_first": {"e": Experts(7, 4, 33, frozenset({"top_first"})), "biases": True, "act": "gelu_tanh"},
    "sigmoid": {
        "e": Experts(16, 4, 64, frozenset({"sigmoid", "renorm"}), scale=2.5, limit=1e-6, biased=True), "scale": 0.25,
    },
    "groups": {
        "e": Experts(24, 4, 32, frozenset({"sigmoid", "renorm", "group_sum2"}), groups=6, group_k=2, biased=True),
    },
    "best_of_groups": {"e": Experts(12, 3, 32, groups=4, group_k=2)},
    "sparse": {"e": Experts(8, 2, 40, frozenset({"sparse"}), limit=0.3)},
    "factors": {"e": PLAIN, "factors": True},
    "fused": {"e": PLAIN, "fused": True, "biases": True},
    "one": {"e": Experts(1, 1, 48, frozenset({"sigmoid"}))},
    "all": {"e": Experts(4, 4, 32)},
    "no_gate": {"e": Experts(8, 3, 41, plain=True), "biases": True, "act": "relu2"},
    "shared": {"e": Experts(6, 2, 32, shared=64)},
    "shared_gate": {"e": Experts(6, 2, 32, shared=64, gated=True)},
    "scales": {"e": Experts(6, 2, 32, shared=64), "scales": True, "biases": True},
    "scales_fused": {"e": PLAIN, "scales": True, "fused": True},
    "apart": {"e": PLAIN, "apart": True, "scale": 0.5},
    "skewed": {"e": Experts(64, 2, 32, frozenset({"renorm"})), "spread": 30.0},
}  # fmt: skip
FORMATS: dict[str, dict[str, Any]] = {
    "F32": {},
    "F16": {"kind": "F16"},
    "BF16": {"kind": "BF16", "router": "BF16"},
    "BF16_odd": {"kind": "BF16", "e": Experts(8, 3, 37)},
    "Q8_0": {"kind": "Q8_0", "router": "Q8_0"},
    "Q4_0": {"kind": "Q4_0", "down": "Q8_0", "e": replace(PLAIN, shared=64)},
    "Q4_K": {"kind": "Q4_K", "down": "Q6_K", "dim": 256, "e": Experts(8, 2, 256), "layers": 1},
    "mixed": {"kind": "Q5_1", "down": "BF16", "e": Experts(8, 3, 32)},
}
CASE_OF = {**CASES, **{f"in_{name}": {"e": PLAIN, **options} for name, options in FORMATS.items()}}
cases = pytest.mark.parametrize("name", CASE_OF)


def make(name: str, **options: Any) -> Any:
    return mixtures.engine(mixtures.plan(**CASE_OF[name]), **options)


@pytest.mark.parametrize("name", CASES)
def test_against_float64(isa: str, name: str) -> None:
    engine = make(name, isa=isa)
    ids = ids_for(engine, 40)
    expected = arithmetic.logits(engine, ids)
    assert np.abs(rows(engine, sequence(engine), ids) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", [f"in_{name}" for name in FORMATS])
def test_formats_against_float64(isa: str, name: str) -> None:
    """Activations are rounded; with two terms they are nearly exact."""
    engine = make(name, isa=isa, terms=2)
    ids = ids_for(engine, 40)
    expected = arithmetic.logits(engine, ids)
    error = np.abs(rows(engine, sequence(engine), ids) - expected).max() / np.abs(expected).max()
    assert error <= (0.02 if "BF16" in name or "mixed" in name else 2e-4)


@pytest.mark.long
@cases
def test_bits(isa: str, name: str) -> None:
    """Threads, chunks, tunings and the other rows of a pass change no bit."""
    one = make(name, isa=isa, threads=1)
    ids = ids_for(one, 90)
    expected = rows(one, sequence(one), ids)
    for threads, chunk in ((1, 7), (2, 1), (2, 64), (3, 90), (3, 7)):
        engine = make(name, isa=isa, threads=threads)
        s = sequence(engine)
        for at in range(0, len(ids), chunk):
            assert same(rows(engine, s, ids[at : at + chunk]), expected[at : at + chunk]), (threads, chunk, at)
    for key, limits in _engine.tuning_limits().items():
        for value in limits:
            engine.tune({key: value})
            assert same(rows(engine, sequence(engine), ids), expected), (key, value)
    engine.tune(None)
    a, b = sequence(engine, ids[:60]), sequence(engine, ids[:3])
    out = np.empty((30 + 40 + 1, engine.vocab), np.float32)
    parts = [(a, ids[60:], 0), (sequence(engine), ids[:40], 0), (b, ids[3:4], 0)]
    engine.forward([(s, np.array(part, np.int32), n) for s, part, n in parts], out=out)
    assert same(out, np.concatenate([expected[60:90], expected[:40], expected[3:4]]))


def test_many_rows_of_one_expert() -> None:
    """More rows than are gathered at once, all given to the same experts."""
    p = mixtures.plan(Experts(8, 2, 64), kind="Q8_0")
    p.vectors.append(p.vectors[0]._replace(data=np.array([0, 9, 0, 0, 0, 9, 0, 0], np.float32)))
    for op in p.ops:
        if op.kind.routes:
            op.vec = len(p.vectors) - 1
    engines = [mixtures.engine(p, threads=n, max_rows=600) for n in (1, 3)]
    ids = ids_for(engines[0], 600)
    expected = np.concatenate(
        [rows(engines[0], s, ids[i : i + 100]) for s in [sequence(engines[0])] for i in range(0, 600, 100)]
    )
    for engine in engines:
        assert same(rows(engine, sequence(engine), ids), expected)


def routes_of(engine: Any, ids: list[int]) -> Any:
    """(layers, rows, 2 k): what each route wrote."""
    taps = [(i, op.out) for i, op in enumerate(engine.plan.ops) if op.kind.routes]
    found, _ = engine.observe([(sequence(engine), np.array(ids, np.int32), len(ids))], taps=taps)
    return np.stack([found[tap] for tap in taps])


def test_equal_scores_choose_the_lower_numbers() -> None:
    p = mixtures.plan(Experts(8, 3, 32))
    for i, m in enumerate(p.matrices):
        if "ffn_gate_inp" in m.name:
            p.matrices[i] = m._replace(data=np.zeros(m.data.size, np.uint8))
    routes = routes_of(mixtures.engine(p), [1, 2, 3, 4])
    assert (routes[..., :3] == [0, 1, 2]).all() and np.allclose(routes[..., 3:], 1 / 8)


def test_a_row_reads_its_own_experts_alone() -> None:
    """The other experts' weights may be anything, even not finite."""
    e = Experts(8, 2, 32)
    p = mixtures.plan(e, layers=1)
    engine = mixtures.engine(p)
    ids = [5, 6, 7]
    expected = rows(engine, sequence(engine), ids)
    used = {int(x) for x in routes_of(engine, ids)[0, :, :2].reshape(-1)}
    assert len(used) < e.n
    for i, m in enumerate(p.matrices):
        if m.stack > 1:
            data = m.data.view(np.float32).reshape(e.n, -1).copy()
            data[[x for x in range(e.n) if x not in used]] = np.nan
            p.matrices[i] = m._replace(data=data.reshape(-1).view(np.uint8))
    poisoned = mixtures.engine(p)
    assert same(rows(poisoned, sequence(poisoned), ids), expected)


def test_scores_that_are_no_numbers_are_an_error_of_the_sequence() -> None:
    p = mixtures.plan(Experts(8, 2, 32), layers=1)
    engine = mixtures.engine(p)
    for op in p.ops:
        if op.kind.routes:
            p.vectors.append(p.vectors[0]._replace(data=np.full(8, np.nan, np.float32)))
            op.vec2 = len(p.vectors) - 1
    broken = mixtures.engine(p)
    s = sequence(broken)
    with pytest.raises(PellucidError):
        rows(broken, s, [1, 2])
    extend(engine, sequence(engine), [1, 2])


WRONG = [
    (Kind.ROUTE, "top_k", 0, "its number of experts"),
    (Kind.ROUTE, "top_k", 9, "its number of experts"),
    (Kind.ROUTE, "top_k", 3, "its output's width"),
    (Kind.ROUTE, "route", 32, "its kind of weights"),
    (Kind.ROUTE, "route", 17, "its kind of weights"),
    (Kind.ROUTE, "limit", -1.0, "its kind of weights"),
    (Kind.ROUTE, "groups", 3, "its groups"),
    (Kind.ROUTE, "groups", -1, "its groups"),
    (Kind.ROUTE, "groups", 8, "its groups"),
    (Kind.ROUTE, "vec", 0, "its vector"),
    (Kind.ROUTE, "vec2", 99, "its vector"),
    (Kind.ROUTE, "tmp", -1, "its temporary"),
    (Kind.ROUTE, "tmp", 0, "a matrix"),
    (Kind.ROUTE, "seg", 0, "a matrix"),
    (Kind.EXPERTS, "top_k", 0, "its output's width"),
    (Kind.EXPERTS, "top_k", 5, "its output's width"),
    (Kind.EXPERTS, "top_k", 1, "its route"),
    (Kind.EXPERTS, "tmp", 1, "its temporary"),
    (Kind.EXPERTS, "act", 99, "its activation"),
    (Kind.EXPERTS, "seg", 0, "a matrix's shape"),
    (Kind.EXPERTS_ADD, "top_k", 4, "its route"),
    (Kind.EXPERTS_ADD, "seg", 0, "a matrix's shape"),
    (Kind.LINEAR_ADD, "seg", -2, "a stack of matrices"),
]


@pytest.mark.parametrize(("kind", "field", "value", "what"), WRONG)
def test_wrong_operations(kind: Kind, field: str, value: Any, what: str) -> None:
    p = mixtures.plan(PLAIN, layers=1)
    op = next(op for op in p.ops if op.kind == kind)
    if value == -2:  # a stack where a matrix of the same shape belongs
        segment = p.segments[op.seg]
        p.matrices[segment.matrix] = p.matrices[segment.matrix]._replace(
            stack=2, data=np.zeros(2 * 64 * 64 * 4, np.uint8)
        )
    else:
        setattr(op, field, value)
    with pytest.raises(PellucidError, match=re.escape(what)):
        mixtures.engine(p)


def test_wrong_stacks_and_routes() -> None:
    def fails(match: str, change: Any) -> None:
        p = mixtures.plan(PLAIN, layers=1)
        change(p)
        with pytest.raises(PellucidError, match=match):
            mixtures.engine(p)

    def restack(p: Any, n: int) -> None:
        at = next(i for i, m in enumerate(p.matrices) if m.stack > 1)
        p.matrices[at] = p.matrices[at]._replace(stack=n)

    def without_route(p: Any) -> None:
        p.ops = [op for op in p.ops if not op.kind.routes]

    def route_overwritten(p: Any) -> None:
        at = next(i for i, op in enumerate(p.ops) if op.kind.routed)
        buffer = p.ops[at].tmp
        width = p.buffers[buffer].dim
        edit = replace(
            p.ops[at], kind=Kind.SCALE_ADD, inp=buffer, out=buffer, n_seg=0, width=width, pos_to=9, scale=2.0
        )
        p.ops.insert(at, edit)

    def fewer_experts(p: Any) -> None:
        for i, m in enumerate(p.matrices):
            if m.stack > 1:
                p.matrices[i] = m._replace(stack=4, data=m.data[: m.data.size // 2])

    fails("a stack of 0", lambda p: restack(p, 0))
    fails("a stack of 513", lambda p: restack(p, 513))
    fails("bytes, expected", lambda p: restack(p, 7))
    fails("nothing has written", without_route)
    fails("has no route to its experts", route_overwritten)
    fails("has no route to its experts", fewer_experts)


def test_more_rows_than_are_counted() -> None:
    """A file may have a hole of that size."""
    p = mixtures.plan(PLAIN, layers=1)
    data = np.broadcast_to(np.uint8(0), 128 * (1 << 24) * 4)
    p.matrices.append(Matrix("many", "F32", 1 << 24, 1, data, False, stack=128))
    with pytest.raises(PellucidError, match="a stack of 128 with 16777216 rows each"):
        _engine.packed_bytes(p)
