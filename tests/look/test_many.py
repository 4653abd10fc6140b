"""Traces of many prompts, chats and contexts, layer by layer, and the lens at every position."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model
from pellucid.errors import CancelledError
from pellucid.look.pattern import as_cached
from pellucid.look.places import channels, find
from pellucid.look.recorded import AXES
from tests.engine.models import Load, ids_for, same
from tests.families.case import load_golden, write_folder
from tests.families.cases import BY_NAME
from tests.look import kinds

EACH = ("gemma4", "qwen35", "gpt_oss", "phi2", "lfm2")


@pytest.fixture
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Model]:
    case = kinds.CASES.get(request.param) or BY_NAME[request.param]
    with Model.load(write_folder(case, load_golden(case), tmp_path / "m"), threads=2, kv="f32") as model:
        yield model


def wanted(model: Model) -> list[Any]:
    """The quantities that a model has."""
    found: list[Any] = []
    names: list[Any] = list(AXES)
    for name in names:
        try:
            model.trace([1, 2], name)
            found.append(name)
        except ValueError as error:
            assert "want:" in str(error) or "no selected layer" in str(error)
    return found


@pytest.mark.parametrize("model", EACH, indirect=True)
def test_a_layer_at_a_time(model: Model) -> None:
    """The same bits as all at once, however little memory there is; `each` has the layers in order."""
    ids, want = list(range(3, 23)), wanted(model)
    assert len(want) > 15
    whole = model.trace(ids, want)
    every: list[dict[str, Any]] = [
        {},
        {"limit": 400_000},
        {"layers": [1, 2], "heads": [0], "positions": [3, -1], "limit": 90_000},
    ]
    for options in every:
        found: list[tuple[int, dict[str, Any]]] = []
        few = model.trace(ids, want, each=lambda *one, found=found: found.append(one), **options)
        part = whole if "layers" not in options else model.trace(ids, want, **{**options, "limit": 1 << 30})
        assert [layer for layer, _ in found] == list(part.layers)
        for j, (_, arrays) in enumerate(found):
            assert set(arrays) == {name for name in want if AXES[name][0] in ("layer", "after")}
            for name, array in arrays.items():
                expected = getattr(part, name)[j + (name == "hidden")]
                assert np.array_equal(array, expected), name
        assert set(few.kept) == {name for name in want if AXES[name][0] == "position"}
        assert all(same(getattr(few, name), getattr(part, name)) for name in few.kept)


def test_no_room_for_a_layer(load: Load) -> None:
    model = load("llama_gqa")
    with pytest.raises(ValueError, match="limit=1000: layer 0 alone would take"):
        model.trace([1, 2, 3], limit=1000, each=print)
    with pytest.raises(TypeError, match="each=3: expected a callable"):
        model.trace([1], each=3)
    with pytest.raises(ValueError, match="each: expected a single prompt"):
        model.trace([[1], [2]], each=print)


def test_many_prompts(smollm: Model) -> None:
    many = smollm.trace(["One two", [3, 4, 5], smollm.generate("Hello", max_tokens=2)], want="hidden")
    assert [len(t) for t in many] == [len(smollm.tokenize("One two")), 3, len(smollm.tokenize("Hello")) + 2]
    assert same(many[1].hidden, smollm.trace([3, 4, 5], want="hidden").hidden)
    with pytest.raises(ValueError, match=r"limit=30000: the 2 traces would take"):
        smollm.trace([[1, 2, 3]] * 2, limit=30_000)
    with pytest.raises(ValueError, match=r"prompt\[1\]\[0\]=-1"):
        smollm.trace([[1], [-1]])
    with pytest.raises(ValueError, match="prompt is empty"):
        smollm.trace([])


def test_chats_and_contexts(smollm: Model) -> None:
    model = smollm
    messages = [{"role": "user", "content": "Hi"}]
    prompt = model.chat_prompt(messages)
    assert model.trace(messages, "hidden").ids == prompt.ids == model.trace(prompt, "hidden").ids
    one, other = model.trace([messages, prompt], "hidden")
    assert one.ids == other.ids and same(one.hidden, other.hidden)
    with model.context() as context:
        context.append("One two three")
        context.append(" four five")
        found: list[Any] = []
        whole, told = model.trace(context, "hidden"), list[tuple[int, int]]()
        assert whole.ids == context.ids and same(context.trace("hidden").hidden, whole.hidden)
        for want in ("hidden", "head_out", "logits", "attention", "gate"):
            few = context.trace(want, positions=[-2, -1], progress=lambda *done, told=told: told.append(done))
            assert same(getattr(few, want), getattr(model.trace(context, want, positions=[-2, -1]), want))
            assert told.pop()[0] == 2 and few.positions[-1] == len(few) - 1
        assert (
            context.generate(max_tokens=3, temperature=0).ids
            == model.generate(whole.ids, max_tokens=3, temperature=0).ids
        )
        with model.context() as again:
            again.append(whole.ids)
            again.trace("hidden", positions=-1, layers=[3, 5], each=lambda layer, one: found.append(one["hidden"]))
            assert same(np.array(found)[:, 0], whole.hidden[[4, 6], -1])
    with model.context() as context, pytest.raises(ValueError, match="prompt is empty"):
        context.trace()


@pytest.mark.parametrize("kv", ["f32", "f16", "bf16", "int8"])
@pytest.mark.parametrize(("name", "mix"), [("llama_gqa", "F32"), ("wide", "K"), ("gemma3", "F32")])
def test_keys_of_a_context_s_cache(load: Load, name: str, mix: str, kv: str) -> None:
    """They are those that attention multiplies, bit for bit, so that nothing before the first position is computed."""
    model = load(name, mix, kv=kv)
    ids = ids_for(model.core.engine, 150)
    whole = model.trace(ids, ("scores", "attention"), positions=range(140, 150))
    with model.context() as context:
        context.append(ids)
        told: list[tuple[int, int]] = []
        few = context.trace(
            ("scores", "attention"), positions=range(140, 150), progress=lambda *done: told.append(done)
        )
        assert told[-1][0] <= 10 + 64 and same(few.attention, whole.attention)
        assert np.array_equal(few.scores, whole.scores)
        layers: list[Any] = []
        context.trace("attention", positions=149, layers=1, each=lambda layer, one: layers.append(one["attention"]))
        assert same(layers[0], whole.attention[1][:, -1:])


@pytest.mark.parametrize("kv", ["f32", "f16", "bf16", "int8"])
@pytest.mark.parametrize(("name", "mix"), [("llama_gqa", "F32"), ("wide", "K"), ("gemma3", "F32")])
def test_keys_and_values_of_a_context(load: Load, name: str, mix: str, kv: str) -> None:
    """Those of the tokens before are as the cache has them; those that a window has passed are computed again."""
    model = load(name, mix, kv=kv)
    ids, told = ids_for(model.core.engine, 150), list[tuple[int, int]]()
    whole = model.trace(ids, ("k", "v", "k_unrotated", "gate"), positions=[148, 149])
    with model.context() as context:
        context.append(ids)
        few = context.trace(
            ("k", "v", "k_unrotated", "gate"), positions=[148, 149], progress=lambda *done: told.append(done)
        )
    assert same(few.gate, whole.gate)
    if name == "gemma3":  # a window of 8
        assert told[-1][0] == 150 and all(same(getattr(few, one), getattr(whole, one)) for one in ("k", "v"))
        return
    assert told[-1][0] == 2
    plan = model.core.engine.plan
    bound = {"f32": 1e-6, "f16": 1e-3, "bf16": 8e-3, "int8": 2e-2}[kv]
    for i, layer in enumerate(find(plan).layers):
        order = channels(plan, layer)
        keys = whole.k[i] if order is None else whole.k[i][..., np.argsort(order)]
        keys = as_cached(keys, kv) if order is None else as_cached(keys, kv)[..., order]
        for found, cached, exact in (
            (few.k[i], keys, whole.k[i]),
            (few.v[i], as_cached(whole.v[i], kv), whole.v[i]),
        ):
            assert np.array_equal(found[:, :148], cached[:, :148]) and np.array_equal(found[:, 148:], exact[:, 148:])
        off = np.abs(few.k_unrotated[i] - whole.k_unrotated[i]).max()
        assert off <= bound * np.abs(whole.k_unrotated[i]).max()
        assert kv == "f32" or off > 0


@pytest.mark.parametrize("model", ["deepseek_v2", "qwen35", "gemma4", "gpt_oss"], indirect=True)
def test_keys_of_other_kinds_of_cache(model: Model) -> None:
    """All of it in float32."""
    with model.context() as context:
        context.append(list(range(3, 30)))
        want: list[Any] = ["attention", "k", "v", "k_unrotated"]
        found = context.trace(want, positions=[25, 26])
        whole = model.trace(context.ids, want, positions=[25, 26])
        for name in want:
            a, b = getattr(found, name), getattr(whole, name)
            for one, other in zip(a, b, strict=True):
                if name == "k_unrotated":
                    assert np.abs(one - other).max() <= 1e-5 * max(np.abs(other).max(), 1e-3)
                else:
                    assert np.array_equal(one, other), name


@pytest.mark.parametrize("model", ["qwen35", "gemma4"], indirect=True)
def test_a_context_of_recurrent_layers(model: Model) -> None:
    with model.context() as context:
        context.append(list(range(3, 30)))
        for position in (2, 20, 26):
            few = context.trace("hidden", positions=[position])
            assert same(few.hidden, model.trace(context.ids, "hidden", positions=[position]).hidden)


def test_progress_and_cancel(load: Load) -> None:
    model = load("llama_gqa")
    ids, told = ids_for(model.core.engine, 40), list[tuple[int, int]]()
    model.trace(ids, chunk=10, progress=lambda *done: told.append(done))
    assert told == [(10, 40), (20, 40), (30, 40), (40, 40)]
    t, stop = model.trace(ids), threading.Event()
    stop.set()
    calls = [
        lambda: model.trace(ids, cancel=stop),
        lambda: model.trace(ids, cancel=stop, each=print),
        lambda: model.trace(ids, chunk=10, cancel=lambda: len(told) > 4, progress=lambda *done: told.append(done)),
        lambda: t.lens_table(cancel=stop),
        lambda: t.attributions(cancel=stop),
    ]
    for call in calls:
        with pytest.raises(CancelledError, match="the call was cancelled"):
            call()
    with pytest.raises(TypeError, match="cancel"):
        model.trace(ids, cancel=3)
    with pytest.raises(TypeError, match="progress=3: expected a callable"):
        model.trace(ids, progress=3)
    told.clear()
    t.lens_table(progress=lambda *done: told.append(done))
    assert told[-1] == (40, 40)


@pytest.mark.parametrize(("name", "mix"), [("llama_mha_untied", "F32"), ("gemma3", "F32"), ("wide", "K")])
def test_the_lens_everywhere(load: Load, name: str, mix: str) -> None:
    model = load(name, mix)
    ids = ids_for(model.core.engine, 30)
    trace = model.trace(ids, want="hidden", positions=[0, 7, 29])
    table = trace.lens_table(4)
    assert table.positions == (0, 7, 29) and table.ids.shape == (len(trace.layers) + 1, 3, 4)
    for i, position in enumerate(table.positions):
        for layer, guesses in enumerate(trace.lens(position, 4)):
            assert table.ids[layer, i].tolist() == [guess.id for guess in guesses]
            assert np.allclose(table.probabilities[layer, i], [g.probability for g in guesses], rtol=2e-5)
    last = trace.next_probability
    assert (
        np.allclose(table.next_probability[-1, :2], last[:2], rtol=2e-5)
        and np.isnan(table.next_probability[:, 2]).all()
    )
    assert np.array_equal(trace.lens_table(4, positions=7).ids[:, 0], table.ids[:, 1])
    assert trace.lens_table(10**6).ids.shape[-1] == model.info().vocab


@pytest.mark.parametrize("kv", ["f32", "f16", "bf16", "int8"])
@pytest.mark.parametrize("name", ["wide", "gemma3"])
def test_attention_is_that_of_the_pass(load: Load, name: str, kv: str) -> None:
    """Weights times the values of the cache are what heads gave, whatever the cache's type."""
    model = load(name, "K" if name == "wide" else "F32", kv=kv)
    ids = ids_for(model.core.engine, 100)
    t = model.trace(ids, want=("attention", "v", "mixed"))
    products = kv == "bf16" and model.info().isa in ("avx512bf16", "amx")  # the weights are rounded to 8 bits as well
    for i in t.layers:
        values = np.repeat(as_cached(t.v[i], kv), len(t.heads) // len(t.v[i]), axis=0)
        found = t.attention[i].astype(np.float64) @ values
        assert np.abs(found - t.mixed[i]).max() <= (4e-3 if products else 5e-6) * np.abs(values).max()


def test_channels_have_one_order(load: Load) -> None:
    """Of a llama's two forms of file, which differ in it."""
    ids = ids_for(load("llama_gqa").core.engine, 9)
    gguf, folder = (
        load("llama_gqa", form).trace(ids, ("q", "k", "q_unrotated", "scores")) for form in ("F32", "folder")
    )
    for name in ("q", "k", "q_unrotated", "scores"):
        a, b = getattr(gguf, name), getattr(folder, name)
        there = np.isfinite(b)
        assert np.abs(a[there] - b[there]).max() <= 1e-5 * np.abs(b[there]).max(), name
