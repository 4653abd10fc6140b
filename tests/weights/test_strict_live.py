"""Compared with transformers (`--live`; extra `reference`): a model that loads gives its logits; its keys are known."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import arch
from pellucid.folder import Folder
from tests.reference import tiny
from tests.weights import config_keys
from tests.weights.test_strict import IDS, SMALL, WRAPPERS, attempt, wrap

pytestmark = pytest.mark.live
kinds = pytest.mark.parametrize("kind", SMALL)


@kinds
def test_keys_of_this_version_are_listed(kind: str) -> None:
    """A key that a newer version of transformers adds must be added to the lists."""
    from transformers import CONFIG_MAPPING

    fields = {field.name for field in dataclasses.fields(CONFIG_MAPPING[kind])}
    assert fields - {*config_keys.FIELDS[kind].split()} == set()


@kinds
def test_defaults_are_those_of_this_version(kind: str) -> None:
    from transformers import CONFIG_MAPPING

    _, table = arch.folder(kind)
    assert isinstance(table, Folder)
    fields = {field.name: field.default for field in dataclasses.fields(CONFIG_MAPPING[kind])}
    assert table.tied == fields["tie_word_embeddings"]
    # Bases of rotations, once keys of their own, are filled in when the configuration is made.
    ropes = CONFIG_MAPPING[kind]().rope_parameters
    bases = {
        "rope_theta": ropes.get("full_attention", ropes).get("rope_theta"),
        "rope_local_base_freq": ropes.get("sliding_attention", {}).get("rope_theta"),
    }
    for key, value in {**table.sizes, **table.defaults}.items():
        assert (bases | fields)[key] == value, key
    unset = {key for key in table.keys if key in fields and fields[key] is not None} - {*table.defaults}
    # Sizes without which nothing works: they must be given.
    assert unset <= {"hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads"}


@kinds
def test_what_loads_is_right(kind: str, tmp_path: Path) -> None:
    """Each change of the configuration is refused by Pellucid or by transformers, or gives the same logits."""
    import torch

    from tests.reference import hf

    folder = tiny.write_folder(SMALL[kind], tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    compared = 0
    for key, value in config_keys.changes(kind):
        (folder / "config.json").write_text(json.dumps(config | {key: value}))
        found = attempt(folder)
        if isinstance(found, str):
            continue
        try:
            expected = hf.logits(hf.load_folder(folder, torch.float32), IDS)
        except Exception:  # whatever it raises of a value that it cannot take
            continue
        compared += 1
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max(), f"{key} = {value}"
    assert compared > 50


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
@pytest.mark.parametrize("kind", WRAPPERS)
def test_text_models_of_wrappers(kind: str, prefix: str, tmp_path: Path) -> None:
    """A text_config without the keys that have transformers' defaults is the same model as the full one."""
    from transformers import CONFIG_MAPPING

    folder = wrap(kind, tmp_path / "m", prefix)
    full: Any = attempt(folder)
    config = json.loads((folder / "config.json").read_text())
    fields = {field.name: field.default for field in dataclasses.fields(CONFIG_MAPPING[kind])}
    text = config["text_config"]
    config["text_config"] = {key: value for key, value in text.items() if fields.get(key, ...) != value}
    assert len(config["text_config"]) < len(text)
    (folder / "config.json").write_text(json.dumps(config))
    assert np.array_equal(attempt(folder), full)
