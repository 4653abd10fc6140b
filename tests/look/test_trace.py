"""Traces: every quantity compared with stored values of transformers; and that tracing changes no result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pellucid import Model
from pellucid.errors import ClosedError
from pellucid.look.recorded import AXES, OF_SOME
from tests.engine.models import Load, ids_for, same
from tests.look import golden

TOLERANCE = 1e-4
EVERYTHING = tuple(name for name in AXES if name not in OF_SOME)
QUANTISED = [("wide", "K"), ("wide_gemma", "Q8_0"), ("narrow", "all")]

golden_models = pytest.mark.parametrize("tiny_model", golden.MODELS, ids=lambda model: model.name)
quantised = pytest.mark.parametrize(("name", "mix"), QUANTISED, ids=["-".join(pair) for pair in QUANTISED])


@golden_models
@pytest.mark.parametrize("form", ["F32", "folder"])
def test_everything_is_what_transformers_computes(load: Load, tiny_model: Any, form: str) -> None:
    model, expected = load(tiny_model.name, form), golden.load(tiny_model)
    found = model.trace(golden.ids_of(tiny_model), want=EVERYTHING)
    missing = {"embeddings", "scores", "middle", "attention_in", "mlp_in", "final", "q_unrotated", "k_unrotated"}
    assert set(expected) == set(EVERYTHING) - missing - {"gate", "up", "mixed"}  # test_inside.py has the others
    for name, value in expected.items():
        assert golden.distance(getattr(found, name), value) <= TOLERANCE, name
    assert golden.distance(found.embeddings, expected["hidden"][0]) <= TOLERANCE


@golden_models
def test_scores_lead_to_the_attention(load: Load, tiny_model: Any) -> None:
    model = load(tiny_model.name)
    ids = ids_for(model.core.engine, 30)
    both = model.trace(ids, want=("scores", "attention"))
    alone = model.trace(ids, want="scores")
    assert np.array_equal(alone.scores, both.scores)
    assert same(model.trace(ids, want="attention").attention, both.attention)
    seen = np.isfinite(both.scores)
    assert ((both.attention > 0) <= seen).all()
    e = np.exp(both.scores.astype(np.float64) - both.scores.max(-1, keepdims=True))
    assert np.abs(e / e.sum(-1, keepdims=True) - both.attention).max() < 1e-6
    assert np.abs(both.attention.sum(-1) - 1).max() < 1e-5
    for i in range(len(both.layers)):
        window = 8 if tiny_model.gemma and (i + 1) % 6 else 30
        key, row = np.meshgrid(np.arange(30), np.arange(30))
        assert (seen[i] == ((key <= row) & (key > row - window))).all()


@quantised
def test_nothing_depends_on_tracing_or_chunks(load: Load, name: str, mix: str) -> None:
    model = load(name, mix)
    ids = ids_for(model.core.engine, 130)
    plain = model.logits(ids)
    whole = model.trace(ids, want=EVERYTHING)
    assert same(whole.logits, plain)
    for chunk in (1, 7, 64):
        if chunk == 1 and mix != "K":
            continue
        cut = model.trace(ids, want=EVERYTHING, chunk=chunk)
        for quantity in EVERYTHING:
            a, b = getattr(cut, quantity), getattr(whole, quantity)
            assert np.array_equal(a, b), (chunk, quantity)
    assert same(model.logits(ids), plain)


@quantised
def test_a_selection_is_a_part_of_the_whole(load: Load, name: str, mix: str) -> None:
    model = load(name, mix)
    ids = ids_for(model.core.engine, 90)
    whole = model.trace(ids, want=EVERYTHING)
    for layers, heads, positions in (([0], 1, None), (-1, [0, 3], [3, 70, -1]), (None, None, range(60, 80))):
        part = model.trace(ids, EVERYTHING, layers=layers, heads=heads, positions=positions, chunk=33)
        index = {
            "layer": list(part.layers),
            "head": list(part.heads),
            "position": list(part.positions),
            "after": [0, *(i + 1 for i in part.layers)],
        }
        assert part.positions[-1] == (79 if isinstance(positions, range) else 89)
        for quantity in EVERYTHING:
            expected = getattr(whole, quantity)
            axes = AXES[quantity]
            expected = expected[np.ix_(*(index.get(a, range(expected.shape[j])) for j, a in enumerate(axes)))]
            found = getattr(part, quantity)
            assert found.shape == expected.shape, quantity
            if quantity == "head_out":  # a product of other sizes
                assert np.abs(found - expected).max() <= 2e-6 * np.abs(expected).max()
            else:
                assert np.array_equal(found, expected), quantity


@quantised
def test_attention_and_values_make_what_the_heads_give(load: Load, name: str, mix: str) -> None:
    """Softmax(scores) v, projected, is close to what the engine's own attention added: f16 or bf16 keys and values and
    int8 activations differ by up to 2^-8 of the values each."""
    model = load(name, mix)
    ids = ids_for(model.core.engine, 100)
    t = model.trace(ids, want=("attention", "v", "attention_out", "head_out"))
    group = len(t.heads) // t.v.shape[1]
    for i in t.layers:
        assert golden.distance(t.head_out[i].sum(0), t.attention_out[i]) <= 0.02
        mixed = t.attention[i] @ np.repeat(t.v[i], group, axis=0)
        w = model.weight(f"blk.{i}.attn_output")
        out = mixed.swapaxes(0, 1).reshape(len(ids), -1) @ w.T
        if name == "wide_gemma":
            norm = model.weight(f"blk.{i}.post_attention_norm")
            out *= norm / np.sqrt(np.mean(out**2, axis=-1, keepdims=True) + 1e-4)
        assert golden.distance(out, t.attention_out[i]) <= 0.03


def test_the_residual_stream_adds_up(load: Load) -> None:
    model = load("gemma3")
    t = model.trace(ids_for(model.core.engine, 20), want=("hidden", "attention_out", "mlp_out"))
    assert golden.distance(t.hidden[:-1] + t.attention_out + t.mlp_out, t.hidden[1:]) <= 1e-6


def test_only_what_was_asked_for_is_kept(load: Load) -> None:
    model = load("llama_gqa")
    for quantity in EVERYTHING:
        t = model.trace([1, 2, 3], want=quantity)
        assert t.kept == (quantity,)
        assert t.nbytes == getattr(t, quantity).nbytes
        assert {k for k, v in vars(t).items() if isinstance(v, np.ndarray)} == {quantity}
        for other in set(EVERYTHING) - {quantity}:
            with pytest.raises(AttributeError, match=rf"want=\('{other}'"):
                getattr(t, other)
    with pytest.raises(AttributeError, match="no attribute 'attentions'"):
        _ = t.attentions
    assert "3 tokens" in repr(t)


def test_tokens(smollm: Model) -> None:
    t = smollm.trace("Hello world", want="hidden", layers=0)
    assert [token.piece for token in t.tokens] == ["Hello", " world"]
    assert t.ids == smollm.tokenize("Hello world") and len(t) == 2


def test_the_limit_is_checked_before_anything_runs(load: Load) -> None:
    model = load("llama_gqa")
    ids = ids_for(model.core.engine, 200)
    before = model.info().cache_bytes
    with pytest.raises(ValueError, match="limit=1000000") as caught:
        model.trace(ids, limit=1_000_000)
    assert model.info().cache_bytes == before
    size = 3 * 4 * 200 * 200 * 4 + 4 * 200 * 64 * 4
    assert f"{size:,} bytes" in str(caught.value)
    # What it says fits does, and one more does not.
    assert "1 of 3 layers or 1 of 4 heads or 94 of 200 positions would fit" in str(caught.value)
    for options in ({"layers": [0]}, {"heads": [0]}, {"positions": range(94)}):
        assert model.trace(ids, limit=1_000_000, **options).nbytes <= 1_000_000
    for options in ({"layers": [0, 1]}, {"heads": [0, 1]}, {"positions": range(95)}):
        with pytest.raises(ValueError, match="limit"):
            model.trace(ids, limit=1_000_000, **options)
    with pytest.raises(ValueError, match="logits"):
        model.trace(ids, want="logits", limit=1000, positions=[0, 1, 2])
    with pytest.raises(TypeError, match="limit"):
        model.trace(ids, limit="2 GB")


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"want": "attentions"}, ValueError, "want='attentions': expected some of embeddings"),
        ({"want": ("hidden", 3)}, TypeError, "want.1.=3: expected some of"),
        ({"layers": 3}, ValueError, "layers=3: expected -3 to 2"),
        ({"layers": [0, -4]}, ValueError, "layers=-4"),
        ({"heads": [4]}, ValueError, "heads=4"),
        ({"heads": "01"}, TypeError, "heads"),
        ({"heads": 1.0}, TypeError, "heads"),
        ({"positions": [5]}, ValueError, "positions=5: expected -5 to 4"),
        ({"positions": []}, ValueError, "positions is empty"),
        ({"positions": [True]}, TypeError, "positions"),
        ({"positions": np.zeros((2, 2), int)}, TypeError, "positions=array.*expected an integer, not ndarray"),
        ({"layers": None, "heads": np.array(1.0)}, TypeError, "heads=array.1.*expected an integer"),
        ({"chunk": 0}, ValueError, "chunk"),
    ],
)
def test_wrong_requests(load: Load, options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        load("llama_gqa").trace([1, 2, 3, 4, 5], **options)


def test_indices_may_be_arrays(load: Load) -> None:
    model = load("llama_gqa")
    found = model.trace([1, 2, 3, 4, 5], layers=np.array(2), heads=np.int64(-1), positions=np.arange(1, 3))
    assert (found.layers, found.heads, found.positions) == ((2,), (3,), (1, 2))


def test_wrong_prompts(load: Load) -> None:
    model = load("llama_gqa")
    with pytest.raises(ValueError, match="prompt is empty"):
        model.trace([])
    with pytest.raises(ValueError, match=r"prompt\[1\]=97"):
        model.trace([1, 97])


def test_a_closed_model_traces_nothing(load: Load, tmp_path: Any) -> None:
    from tests.engine import models

    with Model.load(models.write(tmp_path, "llama_gqa")) as model:
        t = model.trace([1, 2, 3])
    with pytest.raises(ClosedError):
        model.trace([1, 2, 3])
    with pytest.raises(ClosedError):
        t.lens()
    assert t.hidden.shape == (4, 3, 64)  # what it holds stays


def test_weights_by_name(load: Load) -> None:
    from tests.reference import tiny

    model = load("llama_mha_untied", "folder")
    weights = tiny.weights(model_of("llama_mha_untied"))
    assert same(model.weight("blk.1.attn_q.weight"), weights["model.layers.1.self_attn.q_proj.weight"])
    assert same(model.weight("blk.2.ffn_down"), weights["model.layers.2.mlp.down_proj.weight"])
    assert same(model.weight("output"), weights["lm_head.weight"])
    assert same(model.weight("token_embd"), weights["model.embed_tokens.weight"])
    norm = model.weight("blk.0.attn_norm")
    assert same(norm, weights["model.layers.0.input_layernorm.weight"])
    norm[:] = 0  # a copy
    assert not same(norm, model.weight("blk.0.attn_norm"))
    with pytest.raises(ValueError, match=r"name='blk.1.attn_w': .* did you mean blk\.1\.attn_"):
        model.weight("blk.1.attn_w")
    with pytest.raises(ValueError, match="no such tensor$"):
        model.weight("?")
    with pytest.raises(TypeError, match="name"):
        model.weight(3)


def model_of(name: str) -> Any:
    from tests.engine.models import BY_NAME

    return BY_NAME[name]
