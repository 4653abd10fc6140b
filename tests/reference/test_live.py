"""The same against transformers running now (`--live`; extra `reference`): KL over the whole vocabulary.

Without torch these tests fail and are not skipped, since the comparison was requested.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.reference import corpus, golden, kl, tiny

pytestmark = pytest.mark.live

MAX_MEAN_KL = 0.002
MIN_AGREEMENT = 0.95

models = pytest.mark.parametrize("reference", corpus.MODELS.values(), ids=corpus.MODELS)
tiny_models = pytest.mark.parametrize("tiny_model", tiny.TINY, ids=[model.name for model in tiny.TINY])


@pytest.fixture(scope="module")
def live(request: pytest.FixtureRequest) -> Callable[[corpus.ReferenceModel], tuple[Path, Any]]:
    """A model's file and its transformers model, loaded once (about 15 and 40 s)."""
    from tests.reference import hf

    loaded: dict[str, tuple[Path, Any]] = {}

    def get(reference: corpus.ReferenceModel) -> tuple[Path, Any]:
        if reference.name not in loaded:
            loaded.clear()  # one at a time: Gemma 3 takes 1.1 GB in float32
            path: Path = request.getfixturevalue(reference.fixture)
            assert corpus.file_sha256(path) == reference.sha256
            loaded[reference.name] = (path, hf.load_gguf(path))
        return loaded[reference.name]

    return get


@models
def test_golden_is_what_transformers_says(reference: corpus.ReferenceModel, live: Any) -> None:
    from tests.reference import hf

    path, model = live(reference)
    stored = golden.load(reference.golden)
    ids = hf.tokenize(path, corpus.read_text(), reference)
    assert (corpus.windows(ids, reference.bos) == stored.windows).all()
    log_p = kl.log_softmax(hf.logits(model, reference.prompt_ids)[-1:])[0]
    for token, text, expected in reference.first_tokens:
        assert log_p[token] == pytest.approx(expected, abs=1e-3), text
    for w, window in enumerate(stored.windows):
        logits = hf.logits(model, window)
        for start in range(0, len(window), kl.BLOCK):
            rows = slice(start, start + kl.BLOCK)
            top, rest = kl.top_and_rest(logits[rows], stored.ids[w, rows])
            assert np.abs(top - stored.log_p[w, rows]).max() <= 1e-3
            assert np.abs(np.exp(rest) - np.exp(stored.rest[w, rows])).max() <= 1e-3


@models
def test_close_to_live_full_precision(reference: corpus.ReferenceModel, live: Any) -> None:
    from pellucid import Model
    from tests.reference import hf

    path, theirs = live(reference)
    stored = golden.load(reference.golden)
    full, merged = [], []
    with Model.load(path, context=corpus.WINDOW) as ours:
        for w, window in enumerate(stored.windows):
            found = ours.logits(window.tolist())
            full.append(kl.full_divergence(hf.logits(theirs, window), found))
            merged.append(kl.top_divergence(stored.ids[w], stored.log_p[w], stored.rest[w], found))
            del found
    total, bound = kl.join(full), kl.join(merged)
    assert len(total.kl) >= 4000
    assert total.mean <= MAX_MEAN_KL, total
    assert total.agreement >= MIN_AGREEMENT, total
    # The stored 32 tokens and their rest show about 0.7 of the whole.
    assert 0.6 * total.mean <= bound.mean <= total.mean + 1e-5, f"whole {total}; from the golden {bound}"


@tiny_models
def test_tiny_folder_gives_the_golden(tiny_model: tiny.Tiny, tmp_path: Path) -> None:
    import torch

    from tests.reference import hf

    model = hf.load_folder(tiny.write_folder(tiny_model, tmp_path), torch.float32)
    with np.load(tiny.GOLDEN, allow_pickle=False) as stored:
        for length in tiny.LENGTHS:
            expected = stored[f"{tiny_model.name}/{length}"]
            found = hf.logits(model, tiny.token_ids(tiny_model, length))
            assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    "tiny_model",
    # Of a GGUF file transformers reads neither the heads' width of qwen3 nor biases; the folders are compared above.
    [model for model in tiny.TINY if model.arch != "qwen3" and not model.biases],
    ids=lambda model: model.name,
)
def test_tiny_gguf_holds_the_same_weights(tiny_model: tiny.Tiny, tmp_path: Path) -> None:
    """Transformers' own conversion undoes the permutation of q and k and the +1 of the norms.

    Weights alone: of a GGUF file it reads neither scaled rotations nor gemma3's attention scale.
    """
    import torch

    from tests.reference import hf

    path = tiny.write_gguf(tiny_model, tmp_path / "model.gguf")
    folder = tiny.write_folder(tiny_model, tmp_path / "folder")
    theirs, whole = hf.load_gguf(path), hf.load_folder(folder, torch.float32)
    assert theirs.config.num_hidden_layers == tiny_model.layers
    found = theirs.state_dict()
    assert found.keys() == whole.state_dict().keys()
    for name, value in whole.state_dict().items():
        assert np.abs(found[name].numpy() - value.numpy()).max() <= 2e-7, name


def test_llama3_factors_are_those_of_transformers(tmp_path: Path) -> None:
    import torch

    from tests.reference import hf

    (scaled,) = [model for model in tiny.TINY if model.llama3 is not None]
    plain = dataclasses.replace(scaled, llama3=None)
    frequencies = [
        hf.load_folder(tiny.write_folder(model, tmp_path / str(i)), torch.float32).model.rotary_emb.inv_freq.numpy()
        for i, model in enumerate((plain, scaled))
    ]
    factors = tiny.llama3_factors(scaled)
    assert factors[0] == 1.0 and factors[-1] == 8.0 and ((factors > 1.0) & (factors < 8.0)).any()
    assert np.abs(frequencies[0] / frequencies[1] - factors).max() < 1e-5
