"""The logit lens, attribution, and what each position predicted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model
from pellucid.look.lens import predictions
from pellucid.look.recorded import Recorded, Token
from tests.engine.models import BY_NAME, Load, ids_for, same
from tests.reference import tiny

MODELS = [("llama_mha_untied", "F32"), ("gemma3", "F32"), ("qwen3", "F32"), ("wide", "K"), ("wide_gemma", "Q8_0")]
models = pytest.mark.parametrize(("name", "mix"), MODELS, ids=["-".join(pair) for pair in MODELS])


def softmax(x: Any) -> Any:
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@models
def test_lens(load: Load, name: str, mix: str) -> None:
    model = load(name, mix)
    ids = ids_for(model.core.engine, 70)
    logits = model.logits(ids)
    kept, asked = model.trace(ids), model.trace(ids, want="q", positions=3)
    for position in (0, 33, -1):
        table = kept.lens(position, k=4)
        assert table == asked.lens(position, k=4)  # from what was kept, or computed again
        assert len(table) == len(kept.hidden) and all(len(row) == 4 for row in table)
        final = table[-1]
        order = np.argsort(-logits[position], kind="stable")[:4]
        assert [guess.id for guess in final] == order.tolist()
        assert same(np.array([g.logit for g in final], np.float32), logits[position][order])
        assert np.allclose([g.probability for g in final], softmax(logits[position])[order], atol=1e-7)
        assert asked.top(position, 4) == final == kept.top(position, 4)
    # In between: the final norm and the head of the residual stream.
    scale = model.weight("output_norm")
    head = model.weight("output" if name == "llama_mha_untied" else "token_embd")
    eps = model.core.engine.plan.eps
    for row, x in zip(kept.lens(33, k=3), kept.hidden[:, 33].astype(np.float64), strict=True):
        expected = head @ (x / np.sqrt(np.mean(x * x) + eps) * scale)
        assert np.allclose([g.logit for g in row], expected[[g.id for g in row]], atol=2e-3 * np.abs(expected).max())
    assert len(str(kept.lens(3)).splitlines()) == len(kept.hidden)


@models
def test_attribution_sums_to_the_logit(load: Load, name: str, mix: str) -> None:
    model = load(name, mix)
    ids = ids_for(model.core.engine, 40)
    logits = model.logits(ids)
    t = model.trace(ids, want="embeddings", positions=0)
    scale = float(np.abs(logits).max())
    for position, token in ((0, None), (20, 7), (-1, None)):
        a = t.attribution(position, token)
        at = position % 40
        expected = ids[at + 1] if token is None and at < 39 else int(logits[at].argmax()) if token is None else token
        assert (a.position, a.token.id) == (at, expected)
        assert a.logit == logits[at, expected]
        assert abs(a.total - a.logit) <= 1e-3 * scale
        assert a.attention.shape == a.mlp.shape == a.edits.shape == (model.info().layers,)
        assert a.heads.shape == (model.info().layers, model.info().heads)
        # int8 activations of the projection, where weights are quantised, are what the heads' parts do not have
        assert np.abs(a.heads.sum(1) - a.attention).max() <= (1e-5 if mix == "F32" else 2e-2) * scale
        assert sum(value for _, value in a.parts()) == pytest.approx(a.total)
        assert not a.edits.any()
    # The parts are those of the traced additions.
    whole = model.trace(ids, want=("embeddings", "attention_out", "mlp_out", "head_out", "hidden"))
    a = whole.attribution(20, 7)
    x = whole.hidden[-1, 20].astype(np.float64)
    row = model.weight("output" if name == "llama_mha_untied" else "token_embd")[7]
    direction = row * model.weight("output_norm") / np.sqrt(np.mean(x * x) + model.core.engine.plan.eps)
    assert a.embedding == pytest.approx(whole.embeddings[20] @ direction, abs=1e-4 * scale)
    assert np.allclose(a.attention, whole.attention_out[:, 20] @ direction, atol=1e-4 * scale)
    assert np.allclose(a.mlp, whole.mlp_out[:, 20] @ direction, atol=1e-4 * scale)
    assert np.allclose(a.heads, whole.head_out[:, :, 20] @ direction, atol=1e-4 * scale)


def test_attribution_is_of_the_logit_before_a_soft_cap(tmp_path: Path) -> None:
    folder = tiny.write_folder(BY_NAME["gemma3"], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "final_logit_softcapping": 2.0}))
    with Model.load(folder, threads=2) as model:
        t = model.trace(ids_for(model.core.engine, 9))
        for token in range(0, 97, 7):
            a = t.attribution(5, token)
            assert abs(a.logit) < 2
            assert a.total == pytest.approx(2 * np.arctanh(a.logit / 2), rel=1e-3, abs=1e-4)


def test_entropy_of_a_large_vocabulary() -> None:
    """Sums of as many terms as Gemma's have no error of their own."""
    x = np.random.default_rng(1).normal(0, 2, (3, 262_144)).astype(np.float32)
    tokens = [Token(1, "a", b"a")] * 3
    found = predictions(Recorded(tokens, ((), (), (0, 1, 2)), {}, "x"), [(slice(0, 3), x)])["entropy"]
    p = softmax(x.astype(np.float64))
    assert np.abs(found + (p * np.log(p)).sum(-1)).max() < 5e-6


@models
def test_predictions(load: Load, name: str, mix: str) -> None:
    model = load(name, mix)
    ids = ids_for(model.core.engine, 100)
    p = softmax(model.logits(ids))
    entropy = -(p * np.log(p)).sum(-1)
    own = p[np.arange(99), ids[1:]]
    rank = 1 + (p[:-1] > own[:, None]).sum(-1)
    for want, options in (("hidden", {}), ("logits", {}), ("neurons", {}), ("hidden", {"layers": 0})):
        t = model.trace(ids, want, **options)
        assert np.allclose(t.entropy, entropy, atol=1e-4)
        assert np.allclose(t.next_probability[:-1], own, rtol=1e-4) and np.isnan(t.next_probability[-1])
        assert (t.next_rank[:-1] == rank).mean() > 0.97 and t.next_rank[-1] == 0  # near ties may differ in rounding
    part = model.trace(ids, "hidden", positions=[98, 5, 99])
    assert np.array_equal(part.next_rank, t.next_rank[[5, 98, 99]])
    assert np.allclose(part.entropy, entropy[[5, 98, 99]], atol=1e-4)


def test_text_tokens(smollm: Model) -> None:
    t = smollm.trace("The capital of France is")
    assert t.top(-1, 1)[0].piece == " Paris"
    a = t.attribution(-1, " Paris")
    assert a.token.piece == " Paris" and a.logit == pytest.approx(t.top(-1, 1)[0].logit)
    assert abs(a.total - a.logit) <= 1e-3 * abs(a.logit)
    assert "' Paris' at position 4" in str(a)
    assert "' Paris'" in str(t.lens(-1)).splitlines()[-1]
    with pytest.raises(ValueError, match="is 3 tokens, expected one"):
        t.attribution(-1, " Paris is nice")


def test_wrong_requests(load: Load) -> None:
    t = load("llama_gqa").trace([1, 2, 3])
    with pytest.raises(ValueError, match="position=3: expected -3 to 2"):
        t.lens(3)
    with pytest.raises(TypeError, match="position"):
        t.top(1.0)
    with pytest.raises(ValueError, match="k=0"):
        t.top(1, 0)
    with pytest.raises(ValueError, match="97"):
        t.attribution(1, 97)
    assert len(t.top(1, 1000)) == 97
