"""Files with attention over latent rows: keys and values in one tensor; errors name what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest

from pellucid import _engine
from pellucid.parts import Parts, floats
from pellucid.plan import Part
from pellucid.tables import Tables
from pellucid.weights import Tensor
from tests.families.cases import BY_NAME
from tests.families.test_families_strict import Files


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(BY_NAME["deepseek_v3"], tmp_path)


OLDER = {
    "attention.key_length": 48, "attention.value_length": 24, "attention.head_count_kv": 4,
    "attention.key_length_mla": None, "attention.value_length_mla": None,
}  # fmt: skip


def put_in_one(files: Files, rows: int | None = None) -> None:
    """Keys and values of each layer in one tensor, as converters before April 2025 wrote them."""
    for i in range(3):
        k, v = (files.tensors.pop(f"blk.{i}.attn_{part}_b.weight") for part in "kv")
        both = np.concatenate([k.swapaxes(1, 2), v], axis=1)
        files.tensors[f"blk.{i}.attn_kv_b.weight"] = both.reshape(-1, both.shape[2])[:rows]


@pytest.mark.parametrize("keys", [OLDER, {}])
def test_files_of_older_converters(files: Files, keys: dict[str, int | None]) -> None:
    """Bit for bit as those of newer ones. Some have the keys of newer ones."""
    expected = files.as_gguf({})
    assert not isinstance(expected, str)
    put_in_one(files)
    np.testing.assert_array_equal(files.as_gguf(keys), expected)


@pytest.mark.parametrize("kind", sorted(_engine.quantizers()))
def test_keys_of_any_format_are_transposed(kind: str) -> None:
    heads, rank, nope, value = 3, 512, 20, 7
    x = np.random.default_rng(1).standard_normal((heads * (nope + value), rank)).astype(np.float32)
    coded = _engine.quantize("F32", x.reshape(-1).view(np.uint8), rank, kind)
    decoded = _engine.quantize(kind, coded, rank, "F32").view(np.float32).reshape(heads, nope + value, rank)
    tables = Tables({"both.weight": Tensor("both.weight", kind, x.shape, coded, 0, "")}, frozenset({kind}))
    made = tables.matrices[tables.turned("keys", heads, rank, nope, Part("both", 0, nope + value))]
    assert (made.type, made.rows, made.k, made.stack) == (kind if kind in ("F16", "BF16") else "F32", rank, nope, heads)
    expected, data = decoded[:, :nope].swapaxes(1, 2), cast("Parts", made.data)
    found = floats(Tensor("keys", made.type, expected.shape, data, 0, ""))
    np.testing.assert_array_equal(found, expected)
    row = data.size // (heads * rank)
    rows = data[700 * row : 1100 * row]  # of two heads
    found = floats(Tensor("keys", made.type, (400, nope), rows, 0, ""))
    np.testing.assert_array_equal(found, expected.reshape(-1, nope)[700:1100])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention.key_length", 16), ("attention.key_length", 47), ("attention.value_length", 25),
        ("attention.head_count_kv", 2),
    ],
)  # fmt: skip
def test_sizes_of_older_files(files: Files, key: str, value: int) -> None:
    put_in_one(files)
    found = files.as_gguf({**OLDER, key: value})
    assert isinstance(found, str) and (f"deepseek2.{key}" in found or "blk.0.attn_" in found), found


@pytest.mark.parametrize("layer", [0, 1])
def test_a_layer_without_keys_and_values(files: Files, layer: int) -> None:
    put_in_one(files)
    del files.tensors[f"blk.{layer}.attn_kv_b.weight"]
    found = files.as_gguf(OLDER)
    assert isinstance(found, str) and f"blk.{layer}.attn_kv_b.weight: no such tensor" in found, found


def test_a_part_of_keys_and_values_is_missing(files: Files) -> None:
    put_in_one(files, rows=-1)
    found = files.as_gguf(OLDER)
    assert isinstance(found, str) and "attn_kv_b.weight" in found and "shape (223, 64)" in found, found


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
