"""Keys of rotations beside their tables, and keys that are left out: such a folder computes what one does whose tables
give every value. With `--live`, transformers computes the same of both."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model
from pellucid.errors import PellucidError, UnsupportedModelError
from tests.families.case import Array, text_config, write_folder
from tests.families.test_families import TOLERANCE, distance, ids_of
from tests.families.test_families_strict import MODELS, golden_of, results

Keys = dict[str, Any]
DEFAULT = {"rope_type": "default"}
LINEAR = {"rope_type": "linear", "factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {**YARN, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
BESIDE = ("rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor")


def one(table: Keys, base: float, part: float) -> Keys:
    return {"rope_parameters": {**table, "rope_theta": base, "partial_rotary_factor": part}}


def two(full: Keys, local: Keys = DEFAULT) -> Keys:
    return {"rope_parameters": {"full_attention": full, "sliding_attention": local}}


def based(full: Keys, base: float, local: float) -> Keys:
    return two({**full, "rope_theta": base}, {**DEFAULT, "rope_theta": local})


def without(table: Keys, key: str) -> Keys:
    return {other: value for other, value in table.items() if other != key}


ORIGINAL = "original_max_position_embeddings"
# Those of transformers' classes.
OSS = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False, ORIGINAL: 4096}
APERTUS = {**LLAMA3, "rope_theta": 12e6, ORIGINAL: 8192}
MISTRAL = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 128.0, ORIGINAL: 8192, "beta_fast": 32.0, "beta_slow": 1.0,
           "mscale_all_dim": 1.0, "mscale": 1.0, "llama_4_scaling_beta": 0.1}  # fmt: skip
GEMMA = two({"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
            {**DEFAULT, "rope_theta": 1e4})  # fmt: skip
SAME: list[tuple[str, Keys, Keys]] = [
    ("gptneox", {}, one(DEFAULT, 1e4, 0.25)),
    ("gptneox", {"rotary_pct": 1.0}, one(DEFAULT, 1e4, 1.0)),
    ("gptneox", {"rotary_pct": 0.5, "rotary_emb_base": 500, "rope_scaling": LINEAR}, one(LINEAR, 500.0, 0.5)),
    ("gptneox", {"rotary_pct": 1.0, "rotary_emb_base": 500, "rope_scaling": YARN}, one(YARN, 500.0, 1.0)),
    ("gptneox", {"rotary_pct": 0.5, "rope_parameters": {**LLAMA3, "rope_theta": 500.0}}, one(LLAMA3, 500.0, 0.5)),
    ("gptneox", {"rotary_pct": 0.5, "rotary_emb_base": 500, **one(YARN, 1e3, 1.0)}, one(YARN, 1e3, 1.0)),
    # As transformers 4.57 wrote it.
    ("gptneox", {"rotary_pct": 0.5, "partial_rotary_factor": 0.5, "rotary_emb_base": 500, "rope_theta": 500},
     one(DEFAULT, 500.0, 0.5)),
    ("gpt_oss", {"rope_parameters": {**YARN, "rope_theta": 500.0, "truncate": None}},
     {"rope_parameters": {**YARN, "rope_theta": 500.0, "truncate": False}}),
    *(
        (name, nothing, {"rope_parameters": table})
        for name, table in (("apertus", APERTUS), ("mistral4", MISTRAL), ("gpt_oss", {**OSS, "rope_theta": 150000.0}))
        for nothing in ({}, {"rope_parameters": None}, {"rope_parameters": None, "rope_scaling": None})
    ),
    ("gpt_oss", {"rope_theta": 500.0}, {"rope_parameters": {**OSS, "rope_theta": 500.0}}),
    ("apertus", {"rope_theta": 500.0}, {"rope_parameters": APERTUS}),
    ("apertus", {"rope_theta": 500.0, "rope_scaling": LLAMA3}, {"rope_parameters": {**LLAMA3, "rope_theta": 500.0}}),
    ("mistral4", {"rope_theta": 500.0,
     "rope_scaling": {**without(MISTRAL, "rope_theta"), "partial_rotary_factor": 1 / 3}},
     {"rope_parameters": {**MISTRAL, "rope_theta": 500.0}}),
    ("gemma4", {}, GEMMA),
    ("gemma4", {"rope_parameters": None}, GEMMA),
    ("embedding_gemma", {}, based(DEFAULT, 1e6, 1e4)),
    ("embedding_gemma", {"rope_scaling": YARN}, based(YARN, 1e6, 1e4)),
    ("embedding_gemma", {"rope_scaling": LLAMA3}, based(LLAMA3, 1e6, 1e4)),
    ("embedding_gemma", two(YARN), based(YARN, 1e6, 1e4)),
    ("embedding_gemma", {"rope_scaling": without(YARN, ORIGINAL), ORIGINAL: 8},
     based({**YARN, ORIGINAL: 256}, 1e6, 1e4)),
    ("modernbert", {}, based(DEFAULT, 160000.0, 1e4)),
    ("modernbert", two(YARN), based(YARN, 160000.0, 1e4)),
    ("modernbert", {"global_rope_theta": 500.0, "local_rope_theta": 300.0, **two(LLAMA3)}, based(LLAMA3, 500.0, 300.0)),
    ("lfm3", two(DEFAULT), based(DEFAULT, 1e6, 1e6)),
    ("lfm3", {"rope_theta": 500.0, **two(DEFAULT)}, based(DEFAULT, 500.0, 500.0)),
    ("lfm3", {"rope_theta": 500.0, **two({**DEFAULT, "rope_theta": 300.0})}, based(DEFAULT, 300.0, 500.0)),
    ("olmo3", {}, based(DEFAULT, 5e5, 5e5)),
    ("olmo3", {"rope_theta": 500.0}, based(DEFAULT, 500.0, 5e5)),
    ("olmo3", {"rope_theta": 500.0, "rope_scaling": YARN}, based(YARN, 500.0, 5e5)),
    ("olmo3", {"rope_parameters": {"full_attention": {**YARN, "rope_theta": 500.0}}}, based(YARN, 500.0, 5e5)),
    # One table for all layers, which transformers ignores, alone and as it saves it again.
    ("olmo3", {"rope_parameters": {**DEFAULT, "rope_theta": 5e5}}, based(DEFAULT, 5e5, 5e5)),
    ("olmo3", {"rope_parameters": DEFAULT, "rope_theta": 500.0}, based(DEFAULT, 500.0, 5e5)),
    ("olmo3", {"rope_parameters": {**DEFAULT, "rope_theta": 300.0, **based(YARN, 300.0, 300.0)["rope_parameters"]}},
     based(YARN, 300.0, 300.0)),
]  # fmt: skip
REFUSED = [
    ("gptneox", {"rotary_pct": 0.5, "partial_rotary_factor": 0.25}, "config.partial_rotary_factor = 0.25"),
    ("gptneox", {"rope_theta": 500.0}, "config.rope_theta = 500.0"),
    ("gptneox", {"rope_theta": 500.0, **one(DEFAULT, 1e3, 0.5)}, "config.rope_theta = 500.0"),
    ("modernbert", {"rope_scaling": YARN}, "config.rope_scaling"),
    ("modernbert", {"rope_theta": 500.0}, "config.rope_theta"),
    ("modernbert", two({**YARN, "truncate": False}), "config.rope_parameters.full_attention.truncate = false"),
    ("embedding_gemma", {"rope_scaling": {**YARN, "truncate": False}}, "config.rope_scaling.truncate = false"),
    ("olmo3", two({**YARN, "truncate": False}), "config.rope_parameters.full_attention.truncate = false"),
    ("olmo3", {"rope_parameters": {**DEFAULT, "rope_theta": 500.0}},
     "config.rope_parameters.rope_theta = 500.0 is not supported; supported: 500000.0, which transformers takes;"),
    ("olmo3", {"rope_parameters": {**DEFAULT, "rope_theta": 500.0}, "rope_theta": 500.0},
     "config.rope_parameters.rope_theta = 500.0 is not supported; supported: 500000.0"),
    ("olmo3", {"rope_parameters": {**YARN, "rope_theta": 5e5}},
     'config.rope_parameters.rope_type = "yarn" is not supported; supported: default; others belong in its tables'),
    ("olmo3", {"rope_parameters": {"type": "linear", "factor": 2.0}}, 'config.rope_parameters.type = "linear"'),
    ("olmo3", {"rope_parameters": {**DEFAULT, "factor": 2.0}}, "config.rope_parameters.factor = 2.0"),
    ("lfm3", {}, "a model without config.rope_parameters is not supported; supported: a table"),
]  # fmt: skip


def write(name: str, keys: Keys, path: Path) -> Path:
    """The case's folder with these keys of a rotation, and no others; a wrapper's has them in text_config."""
    case, golden = MODELS[name], golden_of(name)
    config = {key: value for key, value in text_config(golden.config).items() if key not in BESIDE} | keys
    return write_folder(
        case, golden, path, {**golden.config, "text_config": config} if "text_config" in golden.config else config
    )


def computed(name: str, path: Path) -> Array:
    with Model.load(path, threads=1) as model:
        return results(model, ids_of(MODELS[name], golden_of(name))[:100])


@pytest.mark.parametrize(("name", "keys", "tables"), SAME)
def test_what_tables_do_not_say(name: str, keys: Keys, tables: Keys, tmp_path: Path) -> None:
    found, expected = (computed(name, write(name, given, tmp_path / "m")) for given in (keys, tables))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(("name", "keys", "error"), REFUSED)
def test_refused(name: str, keys: Keys, error: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError) as info:
        computed(name, write(name, keys, tmp_path / "m"))
    assert error in str(info.value)


def theirs(name: str, path: Path) -> Array:
    import torch
    import transformers

    from tests.families.test_families_live import reference_results

    importlib.import_module("tests.reference.hf")  # it names Mistral 4's class to AutoModelForCausalLM
    model = getattr(transformers, MODELS[name].auto).from_pretrained(path, dtype=torch.float32).eval()
    found: Array = reference_results(model, ids_of(MODELS[name], golden_of(name))[:100])
    return found


@pytest.mark.live
@pytest.mark.parametrize(("name", "keys", "tables"), SAME)
def test_transformers_agrees(name: str, keys: Keys, tables: Keys, tmp_path: Path) -> None:
    for given in (keys, tables):
        path = write(name, given, tmp_path / "m")
        assert distance(computed(name, path), theirs(name, path)) <= TOLERANCE


def rotates(name: str) -> bool:
    """Whether its configuration has a table, which is none of those that need other keys."""
    ropes = text_config(golden_of(name).config).get("rope_parameters") or {}
    return bool(ropes) and "llama_4_scaling_beta" not in ropes


ROTATED = [name for name in MODELS if rotates(name)]


def test_most_families_rotate() -> None:
    """The comparison with transformers leaves out those without a rotation, and Mistral 4 and Ministral 3, whose tables
    have keys of their own."""
    assert len(ROTATED) >= 54 and len(MODELS) - len(ROTATED) <= 12


@pytest.mark.live
@pytest.mark.parametrize("name", ROTATED)
def test_what_loads_is_right(name: str, tmp_path: Path) -> None:
    """Of every family that rotates: tables without a base, and keys beside them."""
    ropes = text_config(golden_of(name).config)["rope_parameters"]
    part = ropes.get("partial_rotary_factor")
    own = {} if part is None else {"partial_rotary_factor": part}
    axes = {key: value for key, value in ropes.items() if key.startswith("mrope")}  # defaults are for wider heads
    compared = 0
    for table in ({**table, **axes} for table in (DEFAULT, LINEAR, YARN, LLAMA3)):
        for base in ({}, {"rope_theta": 500.0}):
            tried = ({"rope_scaling": table, **own}, {"rope_parameters": table, **own}, two(table), own)
            for keys in (*tried, {"rope_scaling": without(table, ORIGINAL), ORIGINAL: 32, **own}):
                path = write(name, {**keys, **base}, tmp_path / "m")
                try:
                    found, expected = computed(name, path), theirs(name, path)
                except PellucidError:
                    continue
                except Exception:  # whatever transformers raises of a value that it cannot take
                    continue
                compared += 1
                assert distance(found, expected) <= TOLERANCE, {**keys, **base}
    assert compared
