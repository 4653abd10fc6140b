"""Scores of texts, compared with the logits of the same model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model, _engine
from pellucid.errors import ContextFullError
from tests.engine import models
from tests.engine.models import Load, ids_for
from tests.weights import hostile

MODELS = [("llama_odd", "F32"), ("gemma3", "F32"), ("wide", "K"), ("wide_gemma", "Q8_0")]
several = pytest.mark.parametrize(("name", "mix"), MODELS, ids=["-".join(pair) for pair in MODELS])


def log_softmax(x: Any) -> Any:
    x = x.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@several
def test_every_token(load: Load, name: str, mix: str) -> None:
    model = load(name, mix)
    ids = ids_for(model.core.engine, 700)  # more than a pass
    expected = log_softmax(model.logits(ids))
    s = model.score(ids, top=3)
    own = expected[np.arange(699), ids[1:]]
    assert s.ids == ids and [t.id for t in s.tokens] == ids[1:]
    assert np.abs(s.logprobs - own).max() < 2e-5
    assert s.total == pytest.approx(own.sum(), abs=1e-3)
    assert s.perplexity == pytest.approx(math.exp(-own.mean()), rel=1e-5)
    for row, token in zip(expected, s.tokens, strict=False):
        assert len(token.top) == 3
        assert [i for i, _, _ in token.top] == np.argsort(-row, kind="stable")[:3].tolist()
        assert np.abs([p for _, _, p in token.top] - np.sort(row)[::-1][:3]).max() < 2e-5
    assert [t.top for t in model.score(ids).tokens] == [[]] * 699


@several
def test_texts_side_by_side_are_as_alone(load: Load, name: str, mix: str) -> None:
    model = load(name, mix)
    texts = [ids_for(model.core.engine, n, seed=n) for n in (300, 1, 2, 511, 40, 513, 7)]
    together = model.score(texts, top=2)
    assert together == [model.score(ids, top=2) for ids in texts]
    assert together[1].tokens == [] and math.isnan(together[1].perplexity) and together[1].total == 0


def test_windows(load: Load) -> None:
    model = load("llama_gqa")
    ids = ids_for(model.core.engine, 53)
    found = model.score(ids, window=20).logprobs
    assert len(found) == 52
    for start in range(0, 40, 10):  # parts 0..20, 10..30, 20..40, 30..50, 40..53
        part = log_softmax(model.logits(ids[start : start + 20]))
        for i in range(1 if start == 0 else 10, 20):
            assert found[start + i - 1] == pytest.approx(part[i - 1, ids[start + i]], abs=1e-5)
    last = log_softmax(model.logits(ids[40:]))
    assert found[-1] == pytest.approx(last[11, ids[52]], abs=1e-5)
    assert model.score(ids[:20], window=20) == model.score(ids[:20])
    odd = model.score(ids, window=3)
    assert len(odd.tokens) == 52


def test_the_context(tmp_path: Any) -> None:
    with Model.load(models.write(tmp_path, "llama_gqa"), context=30, threads=1) as model:
        ids = ids_for(model.core.engine, 31)
        assert len(model.score(ids[:30]).tokens) == 29
        with pytest.raises(ContextFullError, match="window=30") as caught:
            model.score(ids)
        assert (caught.value.needed, caught.value.available) == (31, 30)
        assert len(model.score(ids, window=30).tokens) == 30
        for window in (1, 31):
            with pytest.raises(ValueError, match="window"):
                model.score(ids, window=window)


def test_text(smollm: Model) -> None:
    good, bad = smollm.score(["The capital of France is Paris.", "The capital of France is purple."], top=1)
    assert good.total > bad.total + 3 and good.perplexity < bad.perplexity
    assert [t.piece for t in good.tokens] == [" capital", " of", " France", " is", " Paris", "."]
    assert good.tokens[4].top[0][1] == " Paris"
    plain = good.to_dict()
    assert plain["total"] == good.total and plain["tokens"][0]["piece"] == " capital"


@pytest.mark.parametrize(
    ("text", "options", "error", "match"),
    [
        (np.array([], np.int64), {}, ValueError, "text is empty"),
        ([[1], []], {}, ValueError, r"text\[1\] is empty"),
        ([1, 97], {}, ValueError, r"text\[1\]=97"),
        ([1, 2], {"top": -1}, ValueError, "top=-1"),
        ([1, 2], {"top": 1.0}, TypeError, "top"),
        ([1, 2], {"window": "x"}, TypeError, "window"),
        (3, {}, TypeError, "text"),
    ],
)
def test_wrong_requests(load: Load, text: Any, options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        load("llama_gqa").score(text, **options)


def test_ids_that_only_pad_the_embedding(tmp_path: Path) -> None:
    """Such ids have no piece, but are scored, traced and predicted like any other."""
    file = hostile.model("qwen3")
    path = tmp_path / "padded.gguf"
    path.write_bytes(file.bytes())
    with Model.load(path, threads=1) as model:
        assert model.tokenizer is not None and model.tokenizer.vocab_size < 270 < model.info().vocab == 272
        found = model.score([1, 270, 3], top=100)
        assert [t.piece for t in found.tokens] == ["", "\3"]
        assert {i for t in found.tokens for i, _, _ in t.top} > {270}
        trace = model.trace([1, 270, 3])
        assert [t.piece for t in trace.tokens] == ["\1", "", "\3"]
        assert {g.id for g in trace.top(k=272)} == set(range(272)) and len(trace.lens(k=272)[0]) == 272
        assert trace.attribution(token=270).token == (270, "")


@pytest.mark.parametrize("top", [0, 3])
def test_targets_of_a_pass(load: Load, top: int) -> None:
    """One target per row that asks for logits, next to other sequences' rows; samplers play no part."""
    engine = load("wide", "K").core.engine
    a, b = ids_for(engine, 9, seed=1), ids_for(engine, 5, seed=2)
    targets = [7, 0, engine.vocab - 1, 3]
    found = engine.forward(
        [(_engine.Sequence(engine), a, 6), (_engine.Sequence(engine), b, 4)], targets=targets, top=top
    )
    out = np.empty((4, engine.vocab), np.float32)
    engine.forward([(_engine.Sequence(engine), a, 6), (_engine.Sequence(engine), b, 4)], out=out)
    wide = out.astype(np.float64)
    expected = wide - np.log(np.exp(wide - wide.max(-1, keepdims=True)).sum(-1, keepdims=True)) - wide.max(-1)[:, None]
    for (logprob, best), row, id in zip(found, expected, targets, strict=True):
        assert logprob == pytest.approx(row[id], abs=1e-4)
        assert [i for i, _ in best] == np.argsort(-row, kind="stable")[:top].tolist()
    with pytest.raises(ValueError, match=r"targets\[1\]="):
        engine.forward([(_engine.Sequence(engine), a, 7)], targets=[0, engine.vocab])
    with pytest.raises(ValueError, match="1 targets for 2 rows"):
        engine.forward([(_engine.Sequence(engine), a, 7)], targets=[0])
