"""Whole models in transformers, run now (`--live`; extra `reference`)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pellucid import Model, arch
from pellucid.folder import Folder
from pellucid.wrappers import WRAPPERS
from tests.families.test_families import TOLERANCE, distance
from tests.families.wrapped import PAIRS, save_whole, text_model

pytestmark = pytest.mark.live
TEXTS = sorted({text for _, text in PAIRS})


@pytest.mark.parametrize(("kind", "text"), PAIRS)
def test_logits(kind: str, text: str, tmp_path: Path) -> None:
    """As transformers saves it, and of text what it computes."""
    import torch
    import transformers

    from tests.reference import hf

    folder = save_whole(kind, text, tmp_path / "m")
    vocabulary = text_model(text)[0]["vocab_size"]
    ids = [(7 * i + 3) % (vocabulary - 1) for i in range(40)]
    model = transformers.AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with Model.load(folder, threads=1) as found:
        assert distance(found.logits(ids), hf.logits(model, ids)) <= TOLERANCE


@pytest.mark.parametrize("kind", WRAPPERS)
def test_keys_of_this_version(kind: str) -> None:
    """A key that a newer version of transformers adds must be added to wrappers.py, and so must a changed default."""
    import transformers

    made = transformers.CONFIG_MAPPING[kind]
    base = {field.name for field in dataclasses.fields(transformers.PreTrainedConfig)}
    fields = {field.name for field in dataclasses.fields(made)} - base
    own = {"text_config", "tie_word_embeddings", "initializer_range", "use_cache"}
    assert fields - own <= WRAPPERS[kind].other
    text = getattr(made.sub_configs_defaults["text_config"], "model_type", None)
    assert text == WRAPPERS[kind].texts[0]


@pytest.mark.parametrize("text", TEXTS)
def test_defaults_of_text_models(text: str) -> None:
    """text_config leaves out what has transformers' default values, sizes too."""
    import transformers

    _, table = arch.folder(text)
    assert isinstance(table, Folder)
    fields = {field.name: field.default for field in dataclasses.fields(transformers.CONFIG_MAPPING[text])}
    read = {key: value for key, value in fields.items() if key in table.keys and value is not None}
    known = {**table.sizes, **table.defaults}
    assert {key: known.get(key) for key in read} == read
