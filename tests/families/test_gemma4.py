"""Gemma 4's forms of files, beside those of test_families.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pellucid import Model
from pellucid.errors import ModelFileError, UnsupportedModelError
from tests.engine.models import same
from tests.families.case import load_golden, write_folder, write_gguf
from tests.families.cases import BY_NAME

IDS = [1, 5, 96, 0, 7, 7, 30] * 6


def folder(name: str, path: Path) -> Path:
    return write_folder(BY_NAME[name], load_golden(BY_NAME[name]), path)


def logits(path: Path, **options: Any) -> Any:
    with Model.load(path, threads=2, **options) as model:
        return model.logits(IDS)


def change(path: Path, **keys: Any) -> dict[str, Any]:
    """Changes keys of config.json; None removes one."""
    config = {**json.loads((path / "config.json").read_text()), **keys}
    config = {key: value for key, value in config.items() if value is not None}
    (path / "config.json").write_text(json.dumps(config))
    return config


@pytest.mark.parametrize(("name", "keys"), [
    ("gemma4", {"global_head_dim": 32}),
    ("gemma4_equal", {"global_head_dim": 32, "num_global_key_value_heads": 2}),
    ("gemma4_experts", {"global_head_dim": 32, "num_global_key_value_heads": 1}),
])  # fmt: skip
def test_older_keys_of_heads(name: str, keys: dict[str, int], tmp_path: Path) -> None:
    """Of the releases: global_head_dim and num_global_key_value_heads in place of per_layer_config."""
    path = folder(name, tmp_path / "m")
    expected = logits(path)
    given = change(path, per_layer_config=None, **keys)
    assert same(logits(path), expected)
    sliding = {str(i): {"head_dim": 64} for i, kind in enumerate(given["layer_types"]) if kind == "sliding_attention"}
    for wrong, message in (
        ({"0": {"head_dim": 16}, "1": {"head_dim": 48}}, "per_layer_config"),
        ({"1": {"intermediate_size": 8}}, "per_layer_config.1.intermediate_size"),
        ({"99": {"head_dim": 16}}, "per_layer_config.99"),
        ({"x": {"head_dim": 16}}, "per_layer_config.x"),
        ({"1": 3}, "per_layer_config.1"),
        (sliding, "q_proj"),
    ):
        change(path, per_layer_config=wrong)
        with pytest.raises((ModelFileError, UnsupportedModelError), match=message):
            logits(path)


def test_keys_and_values_that_are_not_read(tmp_path: Path) -> None:
    """Files may hold k_proj and the like for the layers that reuse those of others."""
    path = folder("gemma4", tmp_path / "m")
    expected, tensors = logits(path), load_file(path / "model.safetensors")
    for name in ("k_proj", "v_proj", "k_norm"):
        tensors[f"model.layers.4.self_attn.{name}.weight"] = np.full((8, 8), 1e9, np.float32)
    save_file(tensors, path / "model.safetensors")
    assert same(logits(path), expected)


def test_kinds_of_layers_without_keys(tmp_path: Path) -> None:
    path = folder("gemma4", tmp_path / "m")
    for shared, message in ((5, "num_kv_shared_layers: it is 5"), (6, "num_kv_shared_layers: it is 6")):
        change(path, num_kv_shared_layers=shared)
        with pytest.raises(ModelFileError, match=message):
            logits(path)


def test_rotation_of_gguf_files(tmp_path: Path) -> None:
    """Without rope_freqs the pairs that do not turn would turn."""
    case = BY_NAME["gemma4"]
    with pytest.raises(ModelFileError, match="rope_freqs.weight: no such tensor"):
        logits(write_gguf(without_factors(case), load_golden(case), tmp_path / "m.gguf"))


def without_factors(case: Any) -> Any:
    return replace(case, gguf=replace(case.gguf, extra=lambda config: {}))


def test_parts_of_the_rotation(tmp_path: Path) -> None:
    """The part of the pairs that turn, and the factor, are read."""
    path = folder("gemma4", tmp_path / "m")
    ropes = json.loads((path / "config.json").read_text())["rope_parameters"]
    found = [logits(path)]
    for changed in ({"partial_rotary_factor": 0.5}, {"factor": 2.0}, {"partial_rotary_factor": 0.0}):
        change(path, rope_parameters={**ropes, "full_attention": {**ropes["full_attention"], **changed}})
        found.append(logits(path))
    assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(found) for b in found[:i])
    for kind, wrong in (("full", "linear"), ("sliding", "proportional"), ("sliding", "linear")):
        rope = {**ropes[f"{kind}_attention"], "rope_type": wrong, "factor": 2.0}
        change(path, rope_parameters={**ropes, f"{kind}_attention": rope})
        with pytest.raises(UnsupportedModelError, match=f"{kind}_attention.rope_type"):
            logits(path)


def test_equal_values_take_no_memory(tmp_path: Path) -> None:
    """The matrix of keys is packed once; a second embedding stays as the file has it."""
    with Model.load(folder("gemma4_equal", tmp_path / "a"), threads=1) as model:
        plan = model.core.engine.plan
        names = [m.name for m in plan.matrices]
        assert len(names) == len({*names}) and "blk.2.attn_v.weight" not in names
        segments = [[s.matrix for s in plan.segments[op.seg : op.seg + op.n_seg]]
                    for op in plan.ops if op.name == "attn_qkv" and op.layer == 2]  # fmt: skip
        assert [len({*one}) for one in segments] == [2]
    with Model.load(folder("gemma4", tmp_path / "b"), threads=1) as model:
        table = next(m for m in model.core.engine.plan.matrices if m.name == "per_layer_token_embd.weight")
        assert table.plain
