"""Edits: what each does, and that other users of the model are not affected."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numpy as np
import pytest

from pellucid import Model, Trace, _engine
from pellucid.errors import ClosedError
from pellucid.look.places import find
from pellucid.look.record import head_blocks
from pellucid.schedule.turns import Turns
from tests.engine import models
from tests.engine.models import Load, ids_for, same
from tests.look import golden

MODELS = [("llama_mha_untied", "F32"), ("gemma3", "F32"), ("qwen3", "F32"), ("wide", "K"), ("narrow", "all")]
several = pytest.mark.parametrize(("name", "mix"), MODELS, ids=["-".join(pair) for pair in MODELS])
INSIDE = ("hidden", "attention_out", "mlp_out", "head_out", "attention")


@several
def test_neutral_edits_change_no_bit(load: Load, name: str, mix: str) -> None:
    model = load(name, mix)
    ids = ids_for(model.core.engine, 90)
    plain, hidden = model.logits(ids), model.trace(ids, "hidden").hidden
    with model.edit() as e:
        assert same(e.logits(ids), plain)
        for i in range(len(hidden) - 1):
            e.add(i, np.zeros(hidden.shape[-1]))
            e.add(i, np.zeros(hidden.shape[-1]), positions=[3, 4, 70])
            e.patch(i, range(20, 40), hidden[i + 1, 20:40])
            e.scale_head(i, 1, 1.0)
        assert same(e.logits(ids), plain)
        assert same(e.logits(ids, chunk=7), plain)
        assert same(e.trace(ids, "hidden").hidden, hidden)
        assert (
            e.generate(ids, temperature=0, max_tokens=20).ids == model.generate(ids, temperature=0, max_tokens=20).ids
        )


@several
def test_add(load: Load, name: str, mix: str) -> None:
    model = load(name, mix)
    ids = ids_for(model.core.engine, 40)
    base = model.trace(ids, "hidden").hidden
    v = np.random.default_rng(1).normal(size=base.shape[-1]).astype(np.float32)
    for positions in (None, [39], [5, 6, 30]):
        rows = range(40) if positions is None else positions
        with model.edit() as e:
            found = e.add(1, v, positions).trace(ids, ("hidden", "logits"))
            assert same(found.hidden[:2], base[:2])
            expected = base[2].copy()
            expected[list(rows)] += v
            assert same(found.hidden[2], expected)
            assert same(found.hidden[3:, : rows[0]], base[3:, : rows[0]])  # earlier tokens see nothing of it
            if len(base) > 3:
                assert not np.allclose(found.hidden[3, rows[0]], base[3, rows[0]], atol=1e-3)
            for chunk in (1, 16):
                assert same(e.logits(ids, chunk=chunk), found.logits)
            other = ids_for(model.core.engine, 25, seed=5)
            assert same(e.logits([other, ids])[1], found.logits)


@several
def test_patching_a_layer_with_another_texts_is_that_text_from_there_on(load: Load, name: str, mix: str) -> None:
    model = load(name, mix)
    one, other = ids_for(model.core.engine, 50, seed=1), ids_for(model.core.engine, 50, seed=2)
    there = model.trace(other, ("hidden", "logits"))
    with model.edit() as e:
        found = e.patch(1, range(50), there.hidden[2]).trace(one, ("hidden", "logits"))
        assert same(found.hidden[2:], there.hidden[2:]) and same(found.logits, there.logits)
    with model.edit() as e:  # one position alone; positions in any order
        values = there.hidden[2, [9, 7]]
        found = e.patch(1, [9, 7], values).trace(one, "hidden")
        assert same(found.hidden[2, [9, 7]], values) and not same(found.hidden[2, 8:9], there.hidden[2, 8:9])
    with model.edit() as e:
        last = len(there.hidden) - 2
        logits = e.patch(last, 3, np.ones(there.hidden.shape[-1])).logits(one)
        x = np.ones((1, there.hidden.shape[-1]), np.float32)
        ((_, expected),) = head_blocks(Turns(model.core, "trace"), find(model.core.engine.plan), x)
        assert same(logits[3:4], expected)


@several
def test_scale_head(load: Load, name: str, mix: str) -> None:
    model = load(name, mix)
    ids = ids_for(model.core.engine, 30)
    base = model.trace(ids, INSIDE)
    with model.edit() as e:
        none = e.scale_head(1, 2, 0.0).trace(ids, INSIDE)
        assert same(none.hidden[:2], base.hidden[:2]) and same(none.attention[1], base.attention[1])
        assert not none.head_out[1, 2].any() and none.head_out[1, 1].any()
        assert not same(none.attention_out[1], base.attention_out[1])
    if name != "gemma3":  # whose post-norm scales the rest up
        assert golden.distance(none.attention_out[1], base.attention_out[1] - base.head_out[1, 2]) <= (
            1e-5 if mix == "F32" else 0.02
        )
    with model.edit() as e:
        e.scale_head(1, 2, 0.5).scale_head(1, 2, 4.0)
        twice = e.trace(ids, INSIDE)
    if name != "gemma3":
        assert golden.distance(twice.head_out[1, 2], 2 * base.head_out[1, 2]) <= 1e-6


@several
def test_skip(load: Load, name: str, mix: str) -> None:
    model = load(name, mix)
    ids = ids_for(model.core.engine, 30)
    base = model.trace(ids, INSIDE)
    n = len(base.layers)
    with model.edit() as e:
        found = e.skip(1, "mlp").trace(ids, INSIDE)
        assert same(found.attention_out[1], base.attention_out[1]) and not found.mlp_out[1].any()
        assert golden.distance(found.hidden[2], base.hidden[1] + base.attention_out[1]) <= 1e-6
        found = e.skip(1, "attention").trace(ids, INSIDE)
        assert same(found.hidden[2], found.hidden[1]) and same(found.hidden[1], base.hidden[1])
        assert not found.attention[1].any() and found.attention[0].any()
        assert abs(found.attribution(20, 3).total - e.logits(ids)[20, 3]) <= 1e-3 * np.abs(base.hidden).max() + 1e-2
        for i in range(n):
            e.skip(i, "attention").skip(i, "mlp")
        found = e.trace(ids, ("hidden", "logits"))
        assert all(same(x, base.hidden[0]) for x in found.hidden)
        ((_, expected),) = head_blocks(Turns(model.core, "trace"), find(model.core.engine.plan), base.hidden[0])
        assert same(found.logits, expected) and same(e.logits(ids, chunk=3), expected)
        e.add(0, np.ones(base.hidden.shape[-1]))  # after a layer of which nothing is left
        assert same(e.trace(ids, "hidden").hidden[1], base.hidden[0] + np.float32(1))


def test_attribution_of_edits(load: Load) -> None:
    model = load("llama_gqa")
    ids = ids_for(model.core.engine, 20)
    v = np.linspace(-3, 3, 64)
    with model.edit() as e:
        t = e.add(0, v).patch(1, [19], -v).scale_head(2, 0, 3.0).trace(ids)
        a = t.attribution(19, 5)
        assert a.total == pytest.approx(float(e.logits(ids)[19, 5]), abs=1e-3)
        assert a.edits[0] and a.edits[1] and not a.edits[2]
        assert t.lens(19)[-1] == t.top(19)
        assert "edits" in dict(a.parts()).__str__()
    assert len(model.plan()) == len(model.core.engine.plan.ops)


def test_the_plan_shows_them(load: Load) -> None:
    with load("llama_gqa").edit() as e:
        e.add(0, np.ones(64)).add(0, np.ones(64), [3]).patch(1, [4, 5], np.ones(64)).scale_head(2, 1, 0.5)
        table = str(e.model.plan())
    for text in (
        "columns 0 to 63 times 1 plus",
        "times 1 plus at positions 3 to 3",
        "columns 0 to 63 replaced at positions 4 to 5",
        "columns 16 to 31 times 0.5",
    ):
        assert text in table


def test_nobody_else_sees_an_edit(load: Load) -> None:
    """Other users run at the same time; a context created before and one of the edit have separate pages."""
    model = load("wide", "K")
    ids = ids_for(model.core.engine, 70)
    plain = model.logits(ids)
    context = model.context()
    context.append(ids[:50])
    with model.edit() as e, model.edit() as other:
        e.skip(0, "mlp")
        other.scale_head(0, 0, -2.0)
        edited, others = e.logits(ids), other.logits(ids)
        wrong: list[str] = []

        def check(what: Any, expected: Any) -> None:
            for _ in range(10):
                if not same(what(ids), expected):
                    wrong.append(str(what))

        pairs = ((model.logits, plain), (e.logits, edited), (other.logits, others))
        threads = [threading.Thread(target=check, args=pair) for pair in pairs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert not same(edited, plain) and not same(edited, others)
        mine = e.model.context()
        a = context.generate(ids[50:], temperature=0, max_tokens=12).ids
        b = mine.generate(ids, temperature=0, max_tokens=12).ids
        assert (
            b
            == e.generate(ids, temperature=0, max_tokens=12).ids
            == [i for p in e.stream(ids, temperature=0, max_tokens=12) for i in p.ids]
        )
        assert e.model.info().cache_bytes > 0
    assert a == model.generate(ids, temperature=0, max_tokens=12).ids
    assert same(model.logits(ids), plain)


def test_chat(smollm: Model) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    options: dict[str, Any] = {"template": "{{ messages[0].content }}", "temperature": 0, "max_tokens": 5}
    with smollm.edit() as e:
        assert e.chat(messages, **options).ids == smollm.chat(messages, **options).ids
        e.skip(0, "mlp")
        assert e.chat(messages, **options).ids == e.generate("Hello", temperature=0, max_tokens=5).ids


def test_score(load: Load) -> None:
    model = load("wide", "K")
    ids = ids_for(model.core.engine, 30)
    with model.edit() as e:
        e.skip(1, "attention")
        x = e.logits(ids).astype(np.float64)
        expected = x[0, ids[1]] - np.log(np.exp(x[0]).sum())
        assert e.score(ids).tokens[0].logprob == pytest.approx(expected, abs=1e-5)


def test_a_later_edit_counts_from_the_next_call_on(load: Load) -> None:
    model = load("llama_gqa")
    ids = ids_for(model.core.engine, 12)
    with model.edit() as e:
        view = e.model
        before = e.logits(ids)
        stream = e.stream(ids, temperature=0, max_tokens=5)
        first = next(stream)
        e.skip(0, "mlp")
        assert e.model is not view and not same(e.logits(ids), before)
        assert same(view.logits(ids), before)
        assert first.ids + [i for p in stream for i in p.ids] == model.generate(ids, temperature=0, max_tokens=5).ids


def test_a_view_of_a_view(tmp_path: Any) -> None:
    """Its edits are added to the other view's, which stay; it closes with the model."""
    ids, vector = [1, 2, 3, 4], np.linspace(-1, 1, 64)
    model = Model.load(models.write(tmp_path, "llama_gqa"), threads=1)
    with model.edit() as e:
        expected = e.add(1, vector).skip(1, "mlp").logits(ids)
    outer = model.edit().add(1, vector)
    inner = outer.model.edit().skip(1, "mlp")
    assert same(inner.logits(ids), expected) and not same(outer.logits(ids), expected)
    view = inner.model
    model.close()
    for use in (lambda: view.logits([1]), lambda: _engine.Sequence(view.core.engine)):
        with pytest.raises(ClosedError):
            use()


def asked(trace: Trace) -> tuple[Any, ...]:
    """What a trace computes on demand."""
    return trace.lens(1), trace.top(2), trace.attribution(2).parts(), trace.entropy.tolist()


def test_a_trace_outlives_its_edit(tmp_path: Any) -> None:
    """What it computes on demand is of the edited model, in a view of a view as well."""
    vector = np.linspace(-3, 3, 64, dtype=np.float32)
    with Model.load(models.write(tmp_path, "llama_gqa"), threads=1) as model:
        with model.edit() as outer:
            outer.add(0, vector)
            with outer.model.edit() as inner:
                inner.skip(1, "mlp")
                kept, late = (inner.trace([1, 2, 3, 4], want=["hidden"]) for _ in range(2))
                plain = model.trace([1, 2, 3, 4], want=["hidden"])
                expected, logits = asked(kept), kept.logits_at(1)
        assert asked(late) == expected and asked(plain) != expected
        assert same(late.logits_at(1), logits)
        with pytest.raises(ClosedError):
            inner.logits([1])
        last = late
    with pytest.raises(ClosedError):
        last.lens(0)


def test_a_closed_edit_says_so(load: Load) -> None:
    model = load("llama_gqa")
    with model.edit() as edit:
        assert repr(edit).startswith("<Edit ") and "(closed)" not in repr(edit)
    assert "(closed)" in repr(edit) and "(closed)" not in repr(model)


def test_closed(tmp_path: Any) -> None:
    with Model.load(models.write(tmp_path, "llama_gqa"), threads=1) as model:
        with model.edit() as e:
            e.skip(0, "mlp")
            old = e.model
            e.skip(0, "attention")
            view = e.model
            stream = e.stream([1, 2, 3], max_tokens=50, ignore_eos=True)
            next(stream)
        for use in (
            lambda: e.logits([1]),
            lambda: e.skip(0, "mlp"),
            lambda: e.generate([1]),
            lambda: e.add(0, np.zeros(64)),
            lambda: e.__enter__(),
            lambda: view.logits([1]),
            lambda: old.logits([1]),
            lambda: list(stream),
        ):
            with pytest.raises(ClosedError):
                use()
        e.close()
        late = model.edit()
        late.logits([1, 2])
    with pytest.raises(ClosedError):
        late.logits([1, 2])
    with pytest.raises(ClosedError):
        model.edit()


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda e: e.add(3, np.zeros(64)), ValueError, "layer=3"),
        (lambda e: e.add(0.5, np.zeros(64)), TypeError, "layer"),
        (lambda e: e.add(0, np.zeros(63)), ValueError, r"vector has shape \(63,\), expected \(64,\)"),
        (lambda e: e.add(0, np.zeros((1, 64))), ValueError, "vector has 2 dimensions"),
        (lambda e: e.add(0, [np.nan] * 64), ValueError, "vector is not finite"),
        (lambda e: e.add(0, [1e39] * 64), ValueError, "vector is not finite"),
        (lambda e: e.add(0, "zeros"), TypeError, "vector must be numbers"),
        (lambda e: e.add(0, np.zeros(64), positions=[-1]), ValueError, r"positions=-1: .* model.edit\(prompt\)"),
        (lambda e: e.add(-1, np.zeros(64)), ValueError, "layer=-1: expected 0 to 2, or 'embeddings'"),
        (lambda e: e.patch(-1, 0, np.zeros(64)), ValueError, "layer=-1: expected 0 to 2"),
        (lambda e: e.scale(-1, 0.5), ValueError, "layer=-1: expected 0 to 2"),
        (lambda e: e.add("start", np.zeros(64)), TypeError, "layer='start': expected an integer, or 'embeddings'"),
        (lambda e: e.add("embeddings", np.zeros(64), part="mlp"), TypeError, "layer='embeddings'"),
        (lambda e: e.add(0, np.zeros(64), part="head"), ValueError, "part='head'"),
        (
            lambda e: e.patch(0, 1, np.zeros(63), part="mlp"),
            ValueError,
            r"values has shape \(63,\), expected \(1, 64\)",
        ),
        (lambda e: e.scale(0, np.inf), ValueError, "factor is not finite"),
        (lambda e: e.patch_head(0, 4, 1, np.zeros(16)), ValueError, "head=4"),
        (lambda e: e.patch_head(0, 2, 1, np.zeros(16), "k"), ValueError, "head=2: expected -2 to 1"),
        (lambda e: e.patch_head(0, 1, 1, np.zeros(15)), ValueError, r"values has shape \(15,\), expected \(1, 16\)"),
        (lambda e: e.patch_head(0, 1, 1, np.zeros(16), "keys"), ValueError, "part='keys': expected 'output'"),
        (lambda e: e.patch_pattern(0, 1, [1, 2], np.zeros((3, 4))), ValueError, r"weights has shape \(3, 4\)"),
        (lambda e: e.patch_pattern(0, 1, 1, []), ValueError, "weights has shape"),
        (lambda e: e.cut(0, 4, None, 0), ValueError, "head=4"),
        (lambda e: e.cut(0, 0, None, None), TypeError, "sources"),
        (lambda e: e.cut(0, 0, None, [1, 1]), ValueError, "sources: expected each one only once"),
        (lambda e: e.scale_neurons(0, 999, 1), ValueError, "neurons=999"),
        (lambda e: e.scale_neurons(0, None, 1), TypeError, "neurons must be integers"),
        (lambda e: e.scale_neurons(0, [1, 1], 1), ValueError, "neurons: expected each one only once"),
        (lambda e: e.set_neurons(0, [1, 2], [1.0]), ValueError, r"values has shape \(1,\), expected \(2,\)"),
        (lambda e: e.set_neurons(0, 1, [[1.0]] * 2), ValueError, "values has shape"),
        (lambda e: e.scale_head(0, 0, 1, [1, 1]), ValueError, "positions: expected each one only once"),
        (lambda e: e.add(0, np.zeros(64), positions=[4096]), ValueError, "positions=4096"),
        (lambda e: e.add(0, np.zeros(64), positions=[1, 1]), ValueError, "positions: expected each one only once"),
        (lambda e: e.add(0, np.zeros(64), positions=[]), ValueError, "positions is empty"),
        (lambda e: e.add(0, np.zeros(64), positions=3.0), TypeError, "positions"),
        (lambda e: e.add(0, np.zeros(64), np.zeros((1, 2), int)), TypeError, "positions=array.*expected an integer"),
        (lambda e: e.add(0, np.zeros(64), positions=itertools.count()), ValueError, "positions=4096"),
        (lambda e: e.add(0, np.zeros(64, complex)), TypeError, "vector must be numbers"),
        (lambda e: e.add(0, ["0"] * 64), TypeError, "vector must be numbers"),
        (lambda e: e.add(0, np.array(["0"] * 64, object)), TypeError, "vector must be numbers"),
        (lambda e: e.add(0, [None] * 64), TypeError, "vector must be numbers"),
        (lambda e: e.scale(0, np.datetime64("2020-01-01")), TypeError, "factor must be numbers"),
        (lambda e: e.scale(0, 0.5, b"a"), TypeError, "positions must be integers"),
        (
            lambda e: e.patch(0, [1, 2], np.zeros((3, 64))),
            ValueError,
            r"values has shape \(3, 64\), expected \(2, 64\)",
        ),
        (lambda e: e.patch(0, [1, 2], [[np.inf] * 64] * 2), ValueError, "values is not finite"),
        (lambda e: e.patch(0, None, np.zeros(64)), TypeError, "positions"),
        (lambda e: e.scale_head(0, 4, 1), ValueError, "head=4"),
        (lambda e: e.scale_head(-4, 0, 1), ValueError, "layer=-4"),
        (lambda e: e.scale_head(0, 0, np.nan), ValueError, "factor is not finite"),
        (lambda e: e.scale_head(0, 0, [1, 2]), ValueError, "factor has 1 dimensions"),
        (lambda e: e.scale_head(0, 0, None), TypeError, "factor"),
        (lambda e: e.skip(0, "head"), ValueError, "part='head'"),
    ],
)
def test_wrong_edits_change_nothing(load: Load, call: Any, error: type[Exception], match: str) -> None:
    model = load("llama_gqa")
    with model.edit() as e:
        e.skip(2, "mlp")
        before = e.logits([1, 2, 3])
        view = e.model
        with pytest.raises(error, match=match):
            call(e)
        assert e.model is view and same(e.logits([1, 2, 3]), before)


def test_positions_from_the_end(load: Load) -> None:
    model = load("llama_gqa")
    ids, v = ids_for(model.core.engine, 9), np.ones(64)
    with model.edit(ids) as e, model.edit() as plain:
        e.add(0, v, [-1, -9]).scale_head(1, 0, 0, -2)
        plain.add(0, v, [8, 0]).scale_head(1, 0, 0, 7)
        assert same(e.logits(ids), plain.logits(ids))
        with pytest.raises(ValueError, match="positions=-10: expected at least -9"):
            e.add(0, v, -10)
    with pytest.raises(ValueError, match="prompt: expected a single prompt"):
        model.edit([[1, 2], [3, 4]])


@several
def test_other_neutral_edits_change_no_bit(load: Load, name: str, mix: str) -> None:
    model = load(name, mix)
    ids = ids_for(model.core.engine, 40)
    t = model.trace(ids, ("logits", "embeddings", "mixed", "q", "k", "v", "neurons"))
    with model.edit() as e:
        e.patch("embeddings", range(40), t.embeddings).scale("embeddings", 1)
        for i in t.layers:
            e.scale(i, 1.0, [3])
            e.add(i, np.zeros(t.embeddings.shape[-1]), [2, 3], "attention")
            for part, values in (("output", t.mixed), ("q", t.q), ("k", t.k), ("v", t.v)):
                e.patch_head(i, 0, range(40), values[i][0], part)
            e.set_neurons(i, [7, 3], t.neurons[i][:, [7, 3]], range(40)).scale_neurons(i, [1], 1)
        assert same(e.logits(ids), t.logits) and same(e.logits(ids, chunk=7), t.logits)


def test_a_part_of_a_skipped_layer(load: Load) -> None:
    """What a part adds can be replaced where it is skipped."""
    model = load("llama_gqa")
    ids = ids_for(model.core.engine, 9)
    whole = model.trace(ids, ("attention_out", "hidden"))
    with model.edit() as e:
        e.skip(1, "attention").patch(1, range(9), whole.attention_out[1], "attention").scale_neurons(1, 0, 1)
        e.patch_head(1, 0, 2, np.zeros(16)).patch_head(1, 0, 2, np.zeros(16), "k").cut(1, None, None, 0)
        found = e.trace(ids, ("hidden", "attention_out"))
    assert golden.distance(found.hidden, whole.hidden) < 1e-6
    assert golden.distance(found.attention_out, whole.attention_out) < 1e-5
