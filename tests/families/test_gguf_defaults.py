"""Keys that GGUF files of some converters leave out, or have in a form of their own: such a file is the same model as
one that has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model
from pellucid.errors import UnsupportedModelError
from tests.families.case import Array, load_golden, write_gguf
from tests.families.cases import BY_NAME
from tests.families.test_families import ids_of
from tests.families.test_families_strict import Files

Keys = dict[str, Any]
YARN = 1 + 0.1 * np.log(4.0)  # its factor of cosines and sines in olmo3
WINDOW = "attention.sliding_window"
EXPERT, SHARED = "expert_feed_forward_length", "expert_shared_feed_forward_length"
ORIGINAL = "rope.scaling.original_context_length"

# Case, keys that are changed (None: left out), keys of the file that is the same model.
SAME: list[tuple[str, Keys, Keys]] = [
    ("gemma2", {WINDOW: None}, {WINDOW: 4096}),
    ("qwen3moe", {EXPERT: None}, {}),
    ("qwen2moe", {EXPERT: None}, {}),
    ("qwen2moe", {"feed_forward_length": 64, SHARED: None}, {}),
    ("qwen2_yarn", {ORIGINAL: None}, {ORIGINAL: 256}),
    ("phi3_longrope", {ORIGINAL: None}, {ORIGINAL: 256}),
    ("olmo3", {"rope.scaling.yarn_attn_factor": float(YARN)}, {}),
    ("olmo3", {"rope.scaling.attn_factor": float(YARN)}, {}),
    ("nemotron_h", {"attention.layer_norm_rms_epsilon": None, "attention.layer_norm_epsilon": 1e-4}, {}),
    ("granite", {"deepstack_mapping": [-1, 1, -1]}, {}),
    ("hunyuan", {"expert_count": 1, "expert_used_count": 1}, {}),
]


def logits(name: str, path: Path, keys: Keys) -> Any:
    case = BY_NAME[name]
    assert case.gguf is not None
    own, golden = case.gguf.keys, load_golden(case)
    write_gguf(replace(case, gguf=replace(case.gguf, keys=lambda config: {**own(config), **keys})), golden, path)
    with Model.load(path, threads=1) as model:
        return model.logits(ids_of(case, golden)[:60])


@pytest.mark.parametrize(("name", "keys", "same"), SAME)
def test_the_same_model(name: str, keys: Keys, same: Keys, tmp_path: Path) -> None:
    found, want = logits(name, tmp_path / "a.gguf", keys), logits(name, tmp_path / "b.gguf", same)
    assert np.abs(found - want).max() <= 1e-5 * np.abs(want).max()


def test_another_factor_of_yarn(tmp_path: Path) -> None:
    """llama.cpp ignores the key, transformers takes its value for the whole factor."""
    with pytest.raises(UnsupportedModelError, match=r"yarn_attn_factor = 1\.29\d* .*supported: 1, 1\.13"):
        logits("olmo3", tmp_path / "a.gguf", {"rope.scaling.yarn_attn_factor": 1.3})


def halved(value: Array, heads: int, n: int) -> Array:
    """The first n rows of every head, pairs of neighbours, as pairs (i, i + n/2)."""
    rows = value.reshape(heads, len(value) // heads, -1)
    return np.concatenate([rows[:, :n:2], rows[:, 1:n:2], rows[:, n:]], axis=1).reshape(value.shape)


def test_positions_of_images(tmp_path: Path) -> None:
    """Files of GLM-4 with images (GLM-4.1V) have another order of rows, those of GLM-4.5 (GLM-4.5V) the same one."""
    sections = {"rope.dimension_sections": [1, 1, 2, 0]}
    for name in ("glm4", "glm4moe"):
        (tmp_path / name).mkdir()
        files = Files(BY_NAME[name], tmp_path / name)
        want, changed = files.as_gguf({}), {}
        for part, heads in (("attn_q.", 4), ("attn_k.", 2)) if name == "glm4" else ():
            for key in [key for key in files.tensors if part in key]:
                changed[key] = halved(files.tensors[key], heads, files.keys["rope.dimension_count"])
        found = files.as_gguf(sections, changed)
        assert not isinstance(found, str), found
        assert not isinstance(want, str) and np.abs(found - want).max() <= 1e-5 * np.abs(want).max()
        assert np.array_equal(files.as_gguf({"rope.dimension_sections": [0, 0, 0, 0]}), want)


def test_biases_beside_one_matrix(tmp_path: Path) -> None:
    """Queries, keys and values are one matrix, their biases are not."""
    files = Files(BY_NAME["qwen2"], tmp_path)
    want = files.as_gguf({})
    for i in range(files.keys["block_count"]):
        parts = [files.tensors.pop(f"blk.{i}.attn_{part}.weight") for part in "qkv"]
        files.tensors[f"blk.{i}.attn_qkv.weight"] = np.concatenate(parts)
    found = files.as_gguf({})
    assert not isinstance(found, str), found
    assert np.array_equal(found, want)


def test_experts_that_differ_by_layer(tmp_path: Path) -> None:
    """As in files of Nemotron 3 Puzzle."""
    files = Files(BY_NAME["nemotron_h_moe"], tmp_path)
    up, down = (files.tensors[f"blk.3.ffn_{part}_exps.weight"] for part in ("up", "down"))
    whole = files.as_gguf({}, {"blk.3.ffn_down_exps.weight": down * (np.arange(32) < 20)})
    narrow = {"blk.3.ffn_up_exps.weight": up[:, :20], "blk.3.ffn_down_exps.weight": down[:, :, :20]}
    keys: Keys = {EXPERT: [0, 32, 0, 20], "feed_forward_length": [0, 32, 0, 20], "expert_used_count": [0, 3, 0, 3]}
    found = files.as_gguf(keys, narrow)
    assert not isinstance(found, str), found
    assert not isinstance(whole, str) and np.abs(found - whole).max() <= 1e-5 * np.abs(whole).max()
    used = {n: files.as_gguf({"expert_used_count": n}) for n in (2, 3)}
    assert np.array_equal(files.as_gguf({"expert_used_count": [0, 2, 0, 2]}), used[2])
    mixed = files.as_gguf({"expert_used_count": [0, 3, 0, 2]})
    assert not isinstance(mixed, str), mixed
    assert not any(np.array_equal(mixed, logits) for logits in used.values())
    zero = files.as_gguf({"expert_used_count": [0, 3, 0, 0]})
    assert "expert_used_count" in str(zero) and "it is 0 for layer 3, which has experts" in str(zero)
