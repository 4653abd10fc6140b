"""Hidden states as results, and attention in which a row sees later rows, too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pellucid import _engine
from pellucid.errors import NumericsError
from pellucid.plan import Kind
from tests.engine import arithmetic, models
from tests.engine.models import Load, ids_for, rows, same, sequence

Make = Callable[..., Any]
WINDOWS = (0, 1, 2, 63, 64, 65, 300)


@pytest.fixture(scope="module")
def make(load: Load) -> Make:
    """make(name, mix, window, threads): an engine in which rows see both sides; headless: without logits."""
    kept: dict[Any, Any] = {}

    def made(
        name: str, mix: str = "F32", window: int = 0, threads: int = 2, isa: str = "", headless: bool = False
    ) -> Any:
        key = (name, mix, window, threads, isa, headless)
        if key not in kept:
            plan = models.in_memory(load(name, mix).core.engine.plan)
            plan = replace(plan, caches=[replace(c, causal=False, window=window) for c in plan.caches])
            if headless:
                plan = plan.changed([*plan.ops[:-1], replace(plan.ops[-1], seg=0, n_seg=0)], plan.vectors)
            kept[key] = _engine.Engine(
                plan, isa=isa or _engine.find_isa(None), threads=threads, kv="f32" if mix == "F32" else "f16",
                least_terms=1, max_rows=512,
            )  # fmt: skip
            kept[key].pack()
        return kept[key]

    return made


def hidden(engine: Any, *several: list[int], last: bool = False) -> list[npt.NDArray[np.float32]]:
    """The hidden states of sequences in one pass; last: of their last rows alone."""
    parts = [(_engine.Sequence(engine), ids, len(ids) - 1 if last else 0) for ids in several]
    sizes = [len(ids) - first for _, ids, first in parts]
    out = np.full((sum(sizes), engine.dim), np.nan, np.float32)
    engine.forward(parts, hidden=out)
    return np.split(out, np.cumsum(sizes)[:-1])


@pytest.mark.parametrize("name", ["llama_odd", "gemma3"])
def test_hidden_states_are_the_rows_that_the_head_multiplies(load: Load, name: str) -> None:
    engine = load(name).core.engine
    ids = ids_for(engine, 20)
    found = hidden(engine, ids)[0]
    op, plan = engine.plan.ops[-1], engine.plan
    taps, _ = engine.observe([(sequence(engine), np.array(ids, np.int32), 20)], taps=[(len(plan.ops) - 2, op.inp)])
    (x,) = taps.values()
    expected = arithmetic._normed(plan, op, x.astype(np.float64))
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()
    assert same(hidden(engine, ids[:7], ids, ids[:3])[1], found)
    assert same(hidden(engine, ids[:7], ids, last=True)[1], found[-1:])


def test_a_sequence_grows_by_a_pass_for_hidden_states(load: Load) -> None:
    engine = load("llama_gqa").core.engine
    ids, s = ids_for(engine, 12), sequence(engine)
    out = np.empty((8, engine.dim), np.float32)
    engine.forward([(s, ids[:8], 0)], hidden=out)
    assert s.length == 8
    assert same(rows(engine, s, ids[8:]), rows(engine, sequence(engine, ids[:8]), ids[8:]))
    assert same(out, hidden(engine, ids)[0][:8])


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", ["llama_gqa", "llama_one_kv"])
def test_both_sides_against_float64(make: Make, name: str, window: int) -> None:
    engine = make(name, window=window)
    for n in (1, 2, 65, 150):
        ids = ids_for(engine, n, seed=n)
        expected = arithmetic.logits(engine, ids)
        found = rows(engine, sequence(engine), ids)
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(("name", "mix"), [("llama_odd", "F32"), ("narrow", "Q8_0"), ("wide", "K"), ("narrow", "BF16")])
@pytest.mark.parametrize("window", [0, 40])
def test_bits(make: Make, isa: str, name: str, mix: str, window: int) -> None:
    """The same on any number of threads, and in company; beyond a chunk of 256 keys, too."""
    one = make(name, mix, window, 1, isa)
    several = [ids_for(one, n, seed=n) for n in (3, 65, 1, 300 if isa != "scalar" else 90)]
    expected = [rows(one, sequence(one), ids) for ids in several]
    for threads in (1, 2, 3):
        engine = make(name, mix, window, threads, isa)
        together = np.empty((sum(map(len, several)), engine.vocab), np.float32)
        engine.forward([(sequence(engine), ids, 0) for ids in several], out=together)
        assert same(together, np.concatenate(expected))
        assert same(rows(engine, sequence(engine), several[-1]), expected[-1])


def test_a_sequence_is_one_pass(make: Make) -> None:
    engine = make("llama_gqa")
    s = sequence(engine, [1, 2, 3])
    with pytest.raises(ValueError, match="its sequence must be one pass"):
        rows(engine, s, [4])
    assert s.length == 3
    x = engine.plan.ops[0].out
    whole, _ = engine.observe([(s, [1, 2, 3], 3)], ops=(0, 8), taps=[(7, x)], at=0)
    for part, at in (([1, 2], 0), ([2, 3], 1)):
        with pytest.raises(ValueError, match="its sequence must be one pass"):
            engine.observe([(s, part, 3)], ops=(0, 8), taps=[(7, x)], at=at)
    fresh, _ = engine.observe([(sequence(engine), [1, 2, 3], 3)], taps=[(7, x)])
    assert same(whole[7, x], fresh[7, x])


@pytest.mark.parametrize("window", [0, 1, 9, 64])
def test_attention_for_inspection(make: Make, window: int) -> None:
    engine, rng = make("llama_gqa"), np.random.default_rng(3)
    q, k = (rng.standard_normal((2, n, 16), np.float32) for n in (40, 90))
    positions = np.sort(rng.permutation(90)[:40])
    weights, scores = np.zeros((2, 40, 90), np.float32), np.empty((2, 40, 90), np.float32)
    given: dict[str, Any] = {"scale": 0.3, "window": window, "causal": False}
    engine.attention(q, k, [0, 1], positions, scores=scores, weights=weights, **given)
    expected = np.einsum("hid,hjd->hij", q, k) * 0.3
    if window:
        expected[:, np.abs(positions[:, None] - np.arange(90)) >= window] = -np.inf
    assert (np.isinf(scores) == np.isinf(expected)).all()
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    expected = np.exp(expected - expected.max(-1, keepdims=True))
    np.testing.assert_allclose(weights, expected / expected.sum(-1, keepdims=True), rtol=1e-4, atol=1e-6)
    alone = np.zeros_like(weights)
    engine.attention(q, k, [0, 1], positions, weights=alone, **given)
    assert same(alone, weights)


def test_a_head_without_a_matrix(make: Make) -> None:
    engine, whole = make("llama_gqa", headless=True), make("llama_gqa")
    ids = ids_for(engine, 30)
    assert same(hidden(engine, ids)[0], hidden(whole, ids)[0])
    with pytest.raises(ValueError, match="the model is an encoder"):
        rows(engine, sequence(engine), ids)
    with pytest.raises(ValueError, match="hidden has shape"):
        engine.forward([(sequence(engine), ids, 0)], hidden=np.empty((30, 3), np.float32))


def test_hidden_states_that_are_not_finite(load: Load) -> None:
    plan = models.in_memory(load("llama_gqa").core.engine.plan)
    head = plan.ops[-1]
    assert head.kind == Kind.HEAD
    vectors = list(plan.vectors)
    vectors[head.vec] = vectors[head.vec]._replace(data=np.full_like(vectors[head.vec].data, np.inf))
    engine = _engine.Engine(
        plan.changed(plan.ops, vectors), isa=_engine.find_isa(None), threads=2, kv="f32", least_terms=1, max_rows=8
    )
    engine.pack()
    s = _engine.Sequence(engine)
    with pytest.raises(NumericsError):
        engine.forward([(s, [1, 2], 1)], hidden=np.empty((1, engine.dim), np.float32))
    assert s.length == 0
