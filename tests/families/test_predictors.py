"""Layers for multi-token prediction; projections stored as one matrix, of hybrid models of Qwen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.families.cases import BY_NAME
from tests.families.test_families_strict import Files

NAMES = ("qwen35", "qwen35moe", "qwen3next")


@pytest.mark.parametrize("name", NAMES)
def test_gguf(name: str, tmp_path: Path) -> None:
    """A file counts them among the layers; they change nothing."""
    files = Files(BY_NAME[name], tmp_path)
    expected = files.as_gguf({})
    n = files.keys["block_count"]
    full = files.golden.config["layer_types"].index("full_attention")
    more = {key.replace(f"blk.{full}.", f"blk.{n}."): value
            for key, value in files.tensors.items() if key.startswith(f"blk.{full}.")}  # fmt: skip
    more |= {f"blk.{n}.nextn.{part}.weight": np.ones((64,), np.float32) for part in ("enorm", "hnorm")}
    more[f"blk.{n}.nextn.eh_proj.weight"] = np.ones((64, 128), np.float32)
    recurrent = [kind == "linear_attention" for kind in files.golden.config["layer_types"]] + [False]
    keys = {"block_count": n + 1, "nextn_predict_layers": 1}
    for given in ({}, {"attention.recurrent_layers": recurrent}):
        if given or "attention.recurrent_layers" not in files.keys:
            found = files.as_gguf({**keys, **given}, more)
            assert not isinstance(found, str), found
            assert np.array_equal(found, expected)
    assert "nextn_predict_layers" in str(files.as_gguf({"nextn_predict_layers": n}))  # there would be no other layer


@pytest.mark.parametrize("name", NAMES)
def test_folder(name: str, tmp_path: Path) -> None:
    files = Files(BY_NAME[name], tmp_path)
    expected = files.as_folder()
    more = {f"mtp.{key}": np.ones((4,), np.float32) for key in ("fc.weight", "layers.0.mlp.experts.0.up_proj.weight")}
    save_file({**files.weights, **more}, files.folder / "model.safetensors")
    assert np.array_equal(files.as_folder(mtp_num_hidden_layers=1), expected)


@pytest.mark.parametrize("name", NAMES)
def test_fused(name: str, tmp_path: Path) -> None:
    """Queries with their gates, keys and values as one matrix, as `--fuse-qkv` of converters writes them."""
    files = Files(BY_NAME[name], tmp_path)
    expected = files.as_gguf({})
    full = files.golden.config["layer_types"].index("full_attention")
    parts = [files.tensors.pop(f"blk.{full}.attn_{part}.weight") for part in "qkv"]
    assert np.array_equal(files.as_gguf({}, {f"blk.{full}.attn_qkv.weight": np.concatenate(parts)}), expected)


@pytest.mark.parametrize("name", ["exaone4", "glm4"])
def test_gguf_of_dense_models(name: str, tmp_path: Path) -> None:
    """Converters list the kinds of the other layers alone (EXAONE 4.5), or of all."""
    files = Files(BY_NAME[name], tmp_path)
    expected = files.as_gguf({})
    n = files.keys["block_count"]
    more = {key.replace(f"blk.{n - 1}.", f"blk.{n}."): value
            for key, value in files.tensors.items() if key.startswith(f"blk.{n - 1}.")}  # fmt: skip
    more[f"blk.{n}.nextn.eh_proj.weight"] = np.ones((64, 128), np.float32)
    keys = {"block_count": n + 1, "nextn_predict_layers": 1}
    pattern = files.keys.get("attention.sliding_window_pattern")
    for given in (pattern, pattern and [*pattern, False]):
        found = files.as_gguf({**keys, "attention.sliding_window_pattern": given}, more)
        assert not isinstance(found, str), found
        assert np.array_equal(found, expected)
    if pattern:
        assert "sliding_window_pattern" in str(files.as_gguf({"attention.sliding_window_pattern": pattern[1:]}))
