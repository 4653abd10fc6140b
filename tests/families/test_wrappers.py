"""Whole models: of each, the text model gives the logits that it gives alone, and nothing else is let through."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pellucid import Model, arch
from pellucid.errors import ModelFileError, PellucidError, UnsupportedModelError
from pellucid.folder import Folder
from pellucid.wrappers import WRAPPERS
from tests.families.case import write_folder
from tests.families.test_families_strict import MODELS, golden_of
from tests.families.wrapped import OWN_PREFIXES, PAIRS, PREFIXES, text_model, write_text, write_whole

IDS = [1, 5, 90, 0, 7, 7, 30] * 4
NAMED = [(*pair, prefix) for pair in PAIRS for prefix in OWN_PREFIXES.get(pair[0], PREFIXES)]
FLAT = [kind for kind, wrapper in WRAPPERS.items() if wrapper.flat]


def logits(path: Path) -> Any:
    with Model.load(path, threads=1) as model:
        return model.logits(IDS)


def attempt(path: Path) -> Any:
    """Logits, or the error's text."""
    try:
        return logits(path)
    except PellucidError as error:
        assert type(error) in (ModelFileError, UnsupportedModelError), repr(error)
        return str(error)


def change(path: Path, text: bool = False, **keys: Any) -> None:
    """Other keys of config.json, or of its text_config; ... removes one."""
    config = json.loads((path / "config.json").read_text())
    table = config["text_config"] if text else config
    table |= keys
    for key in [key for key, value in table.items() if value is ...]:
        del table[key]
    (path / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """alone(model_type of a text model) -> logits of its own folder. Those of Qwen-VL, which has none: of one that
    is named as the class of the text model names it."""
    found: dict[str, Any] = {}

    def get(text: str) -> Any:
        if text not in found:
            found[text] = logits(write_text(text, tmp_path_factory.mktemp("text")))
        return found[text]

    return get


@pytest.mark.parametrize(("kind", "text", "prefix"), NAMED)
def test_text_models(
    kind: str, text: str, prefix: str, alone: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Beside keys and tensors of the other parts; a single warning says what is not taken."""
    wrapper = WRAPPERS[kind]
    other = dict.fromkeys(sorted(wrapper.other), 5)
    folder = write_whole(kind, text, prefix, tmp_path / "m", **other)
    with caplog.at_level(logging.WARNING, "pellucid"):
        assert np.array_equal(logits(folder), alone(text))
    (message,) = [record.getMessage() for record in caplog.records if "alone" in record.getMessage()]
    assert message.endswith(f"of this {kind} is loaded; it does not take {wrapper.lacks}") and str(folder) in message
    if text == wrapper.texts[0]:
        change(folder, text=True, model_type=...)
        assert np.array_equal(logits(folder), alone(text))


@pytest.mark.parametrize("kind", WRAPPERS)
def test_what_is_refused(kind: str, tmp_path: Path) -> None:
    """By name: keys and tensors that nothing reads, other classes and text models, wrong types."""
    wrapper = WRAPPERS[kind]
    prefix = OWN_PREFIXES.get(kind, PREFIXES)[0]
    folder = write_whole(kind, wrapper.texts[0], prefix, tmp_path / "m")
    config = (folder / "config.json").read_text()
    assert not isinstance(attempt(folder), str)
    for keys in ({"an_unknown_key": 1}, {"is_causal": False}, {"quantization_config": {"quant_method": "x"}},
                 {"architectures": ["Other"]}, {"text_config": 3}, {"text_config": [1]},
                 {"tie_word_embeddings": "no"}):  # fmt: skip
        change(folder, **keys)
        found = attempt(folder)
        assert isinstance(found, str) and f"config.{next(iter(keys))}" in found, found
        (folder / "config.json").write_text(config)
    for keys in ({"an_unknown_key": 1}, {"model_type": "bert"}, {"model_type": kind}, {"model_type": 3},
                 {"architectures": 3}, {"hidden_size": "64"}, {"rope_scaling": {"rope_type": "spiral"}}):  # fmt: skip
        change(folder, text=True, **keys)
        found = attempt(folder)
        assert isinstance(found, str) and f"config.text_config.{next(iter(keys))}" in found, found
        (folder / "config.json").write_text(config)
    if not wrapper.flat:
        for nothing in (None, ...):
            change(folder, text_config=nothing)
            found = attempt(folder)
            assert isinstance(found, str) and "config.text_config" in found
            (folder / "config.json").write_text(config)
    tensors = load_file(folder / "model.safetensors")
    for name in (f"{prefix}layers.0.x.weight", "x.weight", f"{prefix}layers.90.mlp.up_proj.weight", "model.x.0.weight"):
        save_file({**tensors, name: np.ones(3, np.float32)}, folder / "model.safetensors")
        found = attempt(folder)
        assert isinstance(found, str) and name in found, found
    missing = f"{prefix}norm.weight" if f"{prefix}norm.weight" in tensors else f"{prefix}embed_tokens.weight"
    save_file({name: value for name, value in tensors.items() if name != missing}, folder / "model.safetensors")
    found = attempt(folder)
    assert isinstance(found, str) and missing in found, found


def flat(kind: str, path: Path, **keys: Any) -> Path:
    """A folder as it was released: the text model's keys beside the others."""
    text = WRAPPERS[kind].texts[0]
    folder = write_whole(kind, text, "model.", path)
    config = json.loads((folder / "config.json").read_text())
    own = {key: value for key, value in config.pop("text_config").items() if key != "model_type"}
    rope = own.pop("rope_parameters")
    own |= {
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
        "vision_token_id": 7,
        **keys,
    }
    (folder / "config.json").write_text(json.dumps({**config, **own}))
    return folder


@pytest.mark.parametrize("kind", FLAT)
def test_keys_beside_each_other(kind: str, alone: Any, tmp_path: Path) -> None:
    """As released folders have them; older versions of transformers write them there and in text_config."""
    text = WRAPPERS[kind].texts[0]
    folder = flat(kind, tmp_path / "m")
    assert np.array_equal(logits(folder), alone(text))
    for key, value in {"an_unknown_key": 1, "hidden_size": "64", "rope_scaling": {"type": "spiral"}}.items():
        found = attempt(flat(kind, tmp_path / "m", **{key: value}))
        assert isinstance(found, str) and f"config.{key}" in found, found
    config = json.loads((flat(kind, tmp_path / "m") / "config.json").read_text())
    inner = {key: value for key, value in config.items() if key not in ("tie_word_embeddings", "vision_config")}
    inner |= {"model_type": text, "image_token_id": None}
    change(folder, text_config=inner, sliding_window=5)
    assert np.array_equal(logits(folder), alone(text))
    change(folder, another=5)
    assert "config.another" in attempt(folder)


@pytest.mark.parametrize("kind", FLAT)
def test_either_key_ties_the_head(kind: str, alone: Any, tmp_path: Path) -> None:
    """transformers looks for tie_word_embeddings in both tables."""
    text = WRAPPERS[kind].texts[0]
    tied = "lm_head.weight" not in text_model(text)[1]
    folder = write_whole(kind, text, "model.", tmp_path / "m", tie_word_embeddings=False)
    change(folder, text=True, tie_word_embeddings=True)
    found = attempt(folder)
    if tied:
        assert np.array_equal(found, alone(text))
    else:
        assert isinstance(found, str) and "tie_word_embeddings" in found


def test_experts_of_releases(alone: Any, tmp_path: Path) -> None:
    """Released folders of Qwen3-VL with experts have their matrices transposed; transformers saves them otherwise."""
    folder = write_whole("qwen3_vl_moe", "qwen3_vl_moe_text", PREFIXES[0], tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    stacks = [name for name in tensors if ".experts." in name]
    for some in (stacks, stacks[:1], stacks[-1:]):
        turned = {name: np.ascontiguousarray(tensors[name].swapaxes(1, 2)) for name in some}
        save_file(tensors | turned, folder / "model.safetensors")
        assert np.array_equal(logits(folder), alone("qwen3_vl_moe_text"))
    shape = tensors[stacks[0]].shape
    for other in ((shape[0], shape[1] // 2, shape[2] * 2), (shape[0], shape[1] * shape[2]), (0, *shape[1:])):
        save_file({**tensors, stacks[0]: tensors[stacks[0]].reshape(-1)[: int(np.prod(other))].reshape(other)},
                  folder / "model.safetensors")  # fmt: skip
        found = attempt(folder)
        assert isinstance(found, str) and stacks[0] in found, found


def test_a_base_model_is_no_whole(tmp_path: Path) -> None:
    """What text_config says of classes is not read, as by transformers."""
    folder = write_whole("qwen3_vl", "qwen3_vl_text", PREFIXES[0], tmp_path / "m")
    expected = logits(folder)
    change(folder, text=True, architectures=["Qwen3VLTextModel"])
    assert np.array_equal(logits(folder), expected)


def test_gemma3_attends_to_what_came_before(tmp_path: Path) -> None:
    """Beside images it is no embedder, whatever text_config says."""
    folder = write_whole("gemma3", "gemma3_text", PREFIXES[0], tmp_path / "m")
    change(folder, text=True, use_bidirectional_attention=True, architectures=["Gemma3TextModel"])
    assert "config.text_config.use_bidirectional_attention" in attempt(folder)


def _sized() -> list[tuple[str, str]]:
    """(case, key) of the sizes that only a text_config may leave out."""
    tables = {kind: table for kind, (_, table) in arch.folders().items() if isinstance(table, Folder)}
    kinds = {name: golden_of(name).config["model_type"] for name in MODELS}
    return [(name, key) for name, kind in kinds.items() if kind in tables for key in tables[kind].sizes]


@pytest.mark.parametrize(("name", "key"), _sized())
def test_a_size_that_is_missing_is_named(name: str, key: str, tmp_path: Path) -> None:
    """A folder of a text model alone has no size by default; without experts, how many a token takes is wrong."""
    config = golden_of(name).config
    same = {key, "num_local_experts"} if key == "num_experts" else {key}
    left = {other: value for other, value in config.items() if other not in same}
    with pytest.raises(ModelFileError) as info:
        Model.load(write_folder(MODELS[name], golden_of(name), tmp_path / "m", left), threads=1)
    assert info.value.field == f"config.{'num_experts_per_tok' if key == 'num_experts' else key}"
