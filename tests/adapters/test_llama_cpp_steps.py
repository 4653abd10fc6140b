"""llama-cpp-python's own steps (`eval`, `sample`, `generate`), and models of a hub."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Context, Model
from pellucid.compat.llama_cpp import Llama
from pellucid.errors import FetchError, OutOfMemoryError
from tests.weights.server import Hub

TEXT = b"The capital of France is"
HOT: Any = {"temp": 1.3, "repeat_penalty": 1.2, "top_k": 0}


@pytest.fixture(scope="module")
def made(smollm2: Path) -> Iterator[Llama]:
    made = Llama(str(smollm2), n_ctx=64, seed=7, logits_all=True, verbose=False)
    yield made
    made.close()


@pytest.fixture
def llama(made: Llama) -> Llama:
    made.set_seed(7)
    made.reset()
    return made


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Iterator[Model]:
    with Model.load(smollm2, context=64) as model:
        yield model


def test_scores_are_the_models_logits(llama: Llama, model: Model) -> None:
    ids = llama.tokenize(TEXT)
    expected = model.logits(ids)
    llama.eval(ids[:3])
    llama.eval(ids[3:])
    assert llama.n_tokens == len(ids) == len(llama._input_ids) and list(llama.eval_tokens) == ids
    assert llama.scores.shape == (64, model.info().vocab)
    np.testing.assert_array_equal(llama.scores[: llama.n_tokens], expected)
    assert llama.eval_logits[-1] == expected[-1].tolist() and len(llama.eval_logits) == len(ids)
    llama.n_tokens = 2
    llama.eval(ids[2:])
    np.testing.assert_array_equal(llama._scores, expected)
    assert llama.sample(temp=0, idx=2) == expected[2].argmax()
    assert llama.input_ids.tolist() == ids + [0] * (64 - len(ids))


@pytest.mark.parametrize("options", [{"temp": 0}, HOT, {**HOT, "mirostat_mode": 2}])
def test_tokens_are_those_of_a_completion(options: dict[str, Any], llama: Llama, model: Model) -> None:
    ids, n = llama.tokenize(TEXT), 8
    named = {"temperature" if name == "temp" else name: value for name, value in options.items()}
    named["mirostat"] = named.pop("mirostat_mode", 0)
    expected = list(model.generate(ids, seed=7, max_tokens=n, ignore_eos=True, **named).ids)
    assert list(islice(llama.generate(ids, **options), n)) == expected
    assert list(islice(llama.generate(ids, **options), n)) == expected  # from what is held
    if not named["mirostat"]:  # which goes by the draws before
        llama.reset()
        llama.eval(ids)
        for id in expected:
            assert llama.sample(**options) == id
            llama.eval([id])


def test_what_is_sent_is_added(llama: Llama) -> None:
    steps: Any = llama.generate(llama.tokenize(TEXT), temp=0)
    first = next(steps)
    steps.send(llama.tokenize(b" and the", add_bos=False))
    assert llama.detokenize(llama._input_ids.tolist()) == TEXT + llama.detokenize([first]) + b" and the"
    more = llama.generate(llama.tokenize(b" sea", add_bos=False), temp=0, reset=False)
    next(more)
    assert llama.detokenize(llama._input_ids.tolist()).endswith(b" and the sea")


def test_states(llama: Llama) -> None:
    llama.eval(llama.tokenize(TEXT))
    state, scores = llama.save_state(), llama._scores.copy()
    llama.reset()
    assert llama.n_tokens == 0 and not llama.eval_logits
    llama.load_state(state)
    np.testing.assert_array_equal(llama._scores, scores)


def test_tokens_without_scores_are_dropped(llama: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Model, "logits", fail)
        with pytest.raises(OutOfMemoryError):
            llama.eval([1, 2])
        assert llama.n_tokens == 0
    llama.eval([1, 2])
    monkeypatch.setattr(Context, "logits", fail)
    with pytest.raises(OutOfMemoryError):
        llama.eval([3])
    assert llama.n_tokens == 2


def test_errors(llama: Llama, smollm2: Path) -> None:
    with pytest.raises(ValueError, match="context is empty"):
        llama.sample()
    with pytest.raises(ValueError, match=r"Requested tokens \(65\) exceed context window of 64"):
        llama.eval([1] * 65)
    assert llama.n_tokens == 0
    one: Any
    for name in ("grammar", "logits_processor", "stopping_criteria"):
        one = {name: object()}
        with pytest.raises(NotImplementedError, match=name):
            llama.generate([1], **one)
    few = Llama(str(smollm2), n_ctx=64, verbose=False)
    few.eval([1, 2])
    assert len(few.eval_logits) == 1
    with pytest.raises(RuntimeError, match="logits_all=True"):
        _ = few.scores


def test_from_pretrained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, smollm2: Path) -> None:
    """The file whose name fits, by the hub's interface, into Pellucid's cache; again from there, without the hub."""
    server = Hub()
    for key in [key for key in os.environ if key.lower().endswith("_proxy")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path))
    files = {"toy-q8_0.gguf": smollm2.read_bytes(), "toy-f16.gguf": b"another"}
    server.model("o/toy", files, license="mit")
    server.model("o/terms", files, license="gemma")
    try:
        llama = Llama.from_pretrained("o/toy", "*q8_0.gguf", n_ctx=32, verbose=False)
        assert llama.n_ctx() == 32 and len(llama("The", max_tokens=2)["choices"]) == 1
        with pytest.raises(FetchError, match="has terms of use"):
            Llama.from_pretrained("o/terms", "*q8_0.gguf")
        with pytest.raises(FetchError):
            Llama.from_pretrained("o/toy", "*q4_k.gguf")
    finally:
        server.stop()
    assert Path(Llama.from_pretrained("o/toy", "*q8_0.gguf", verbose=False).model_path).is_relative_to(tmp_path)
    with pytest.raises(NotImplementedError, match="expected `\\*` at its beginning or end"):
        Llama.from_pretrained("o/toy", "t*y.gguf")
