"""Files with attention over latent rows that do not load: the reason is named."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from pellucid import Model
from pellucid.errors import UnsupportedModelError
from tests.families.cases import BY_NAME
from tests.families.test_families_strict import Files


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(BY_NAME["deepseek_v3"], tmp_path)


def test_files_of_older_converters(files: Files) -> None:
    """They hold one matrix of keys and values, from which the engine's cannot be made in a quantised format."""
    for i in range(3):
        k, v = (files.tensors.pop(f"blk.{i}.attn_{part}_b.weight") for part in "kv")
        files.tensors[f"blk.{i}.attn_kv_b.weight"] = v.reshape(-1, k.shape[1])
    found = files.as_gguf({})
    assert isinstance(found, str) and "attn_kv_b.weight without blk.0.attn_k_b.weight" in found, found


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention.key_length", 192), ("attention.value_length", 32), ("attention.head_count_kv", 4),
        ("attention.key_length_mla", 16), ("rope.dimension_count", 15), ("attention.sliding_window", 9),
        ("attention.kv_lora_rank", None), ("attention.value_length_mla", 0),
    ],
)  # fmt: skip
def test_sizes_of_gguf_files(files: Files, key: str, value: int | None) -> None:
    assert isinstance(files.as_gguf({}), files.weights["model.norm.weight"].__class__)
    found = files.as_gguf({key: value})
    assert isinstance(found, str) and f"deepseek2.{key}" in found, found


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_key_value_heads", 2), ("scoring_func", "softmax"), ("topk_method", "greedy"), ("moe_layer_freq", 2),
        ("partial_rotary_factor", 0.5), ("head_dim", 2), ("quantization_config", {"quant_method": "fp8"}),
    ],
)  # fmt: skip
def test_keys_of_folders(files: Files, key: str, value: object) -> None:
    found = files.as_folder(**{key: value})
    assert isinstance(found, str) and key in found, found


def test_a_matrix_that_heads_do_not_divide(files: Files) -> None:
    from safetensors.numpy import save_file

    name = "model.layers.1.self_attn.kv_b_proj.weight"
    save_file({**files.weights, name: files.weights[name][:-1]}, files.folder / "model.safetensors")
    found = files.as_folder()
    assert isinstance(found, str) and name in found, found


def test_gguf_files_of_minicpm3(tmp_path: Path) -> None:
    """Converters write one matrix of keys and values."""
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "minicpm3")
    writer.add_tensor("blk.0.attn_kv_b.weight", np.zeros((8, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedModelError, match="attn_kv_b.weight without blk.0.attn_k_b.weight"):
        Model.load(tmp_path / "model.gguf")
