"""Files and folders as they are released: more keys than the tests' writers know, and keys that must be there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model, arch
from pellucid.folder import ANY, Folder, Same
from pellucid.plan import Kind
from tests.families.case import text_config
from tests.families.cases import BY_NAME
from tests.families.test_families_strict import MODELS, Files, golden_of

# Sizes of recurrent layers, in files of Granite 4 without such layers.
RECURRENT = {f"ssm.{name}": 4 for name in ("conv_kernel", "state_size", "group_count", "time_step_rank", "inner_size")}
DENSE = {"expert_count": 0, "expert_used_count": 0, "expert_shared_feed_forward_length": 96}
MORE: dict[str, dict[str, Any]] = {
    "nemotron": {"attention.layer_norm_rms_epsilon": 1e-3},
    "modernbert": {"attention.layer_norm_rms_epsilon": 1e-4},
    "granite": {**RECURRENT, **DENSE, "rope.scaling.finetuned": True, "attention.head_count_kv": [2, 2, 2]},
    "granitemoe": {**RECURRENT, "rope.scaling.finetuned": True, "attention.head_count_kv": [2, 2, 2]},
    "granitehybrid": DENSE,
}


def files_of(name: str, path: Path) -> Files:
    return Files(MODELS[name], path, golden_of(name))


@pytest.mark.parametrize("name", MORE)
def test_more_keys_than_a_model_needs(name: str, tmp_path: Path) -> None:
    files = files_of(name, tmp_path)
    np.testing.assert_array_equal(files.as_gguf(MORE[name]), files.as_gguf({}))


def test_granite_whose_shared_width_is_another(tmp_path: Path) -> None:
    found = files_of("granite", tmp_path).as_gguf({"expert_shared_feed_forward_length": 64})
    assert isinstance(found, str) and "granite.expert_shared_feed_forward_length = 64" in found


@pytest.mark.parametrize("rotated", [True, False])
def test_granite_that_is_not_rotated(rotated: bool, tmp_path: Path) -> None:
    files = files_of("granite", tmp_path)
    assert not isinstance(files.as_gguf({"rope.scaling.finetuned": rotated}), str)
    with Model.load(files.file, threads=1) as model:
        ropes = [op.rope >= 0 for op in model.core.engine.plan.ops if op.kind == Kind.ROPE_APPEND]
    assert ropes == [rotated] * 3


@pytest.mark.parametrize(
    ("keys", "named", "width"),
    [
        ({"attention.key_length": 23}, "qwen3moe.attention.key_length", 23),
        ({"rope.dimension_count": 5}, "qwen3moe.rope.dimension_count", 5),
        ({"attention.key_length": None, "attention.head_count": 3}, "qwen3moe.attention.head_count", 21),
    ],
)
def test_an_odd_width_to_rotate_names_what_it_is_from(
    keys: dict[str, Any], named: str, width: int, tmp_path: Path
) -> None:
    found = files_of("qwen3moe", tmp_path).as_gguf({**keys, "attention.head_count_kv": 1})
    assert isinstance(found, str) and re.search(rf"{named}( \(byte \d+\))?: a head has {width} columns", found), found


def test_a_linear_factor_beside_longrope(tmp_path: Path) -> None:
    files = Files(BY_NAME["phi3_longrope"], tmp_path)
    assert not isinstance(files.as_gguf({}), str)
    found = files.as_gguf({"rope.scaling.type": "longrope", "rope.scaling.factor": 2.0})
    assert isinstance(found, str) and "phi3.rope.scaling.factor = 2.0" in found


def test_choice_bias_as_a_row(tmp_path: Path) -> None:
    files = files_of("ernie4_5_moe", tmp_path)
    rows = {name: value[None] for name, value in files.tensors.items() if name.endswith("exp_probs_b.bias")}
    assert rows
    np.testing.assert_array_equal(files.as_gguf({}, rows), files.as_gguf({}))


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("granite", "logit_scale"),
        ("granitemoe", "logit_scale"),
        ("granite_swa", "logit_scale"),
        ("granite_swa", "attention.sliding_window_pattern"),
        ("cohere", "logit_scale"),
        ("cohere2", "logit_scale"),
        ("gptneox", "use_parallel_residual"),
        ("deepseek_v3", "expert_group_used_count"),
    ],
)
def test_keys_that_must_be_there(name: str, key: str, tmp_path: Path) -> None:
    """Without them logits would be others, and no default is the file's."""
    files = files_of(name, tmp_path)
    assert not isinstance(files.as_gguf({}), str)
    found = files.as_gguf({key: None})
    assert isinstance(found, str) and key in found, found


# ---- folders -----------------------------------------------------------------------------------------------------

# model_type -> its table, of those whose released folders have keys that transformers does not read.
INERT = {
    kind: table for kind, (_, table) in arch.folders().items() if isinstance(table, Folder) and table.inert
}  # fmt: skip
CASES = {text_config(golden_of(name).config)["model_type"]: name for name in MODELS}


def agreeing(table: Folder, config: dict[str, Any]) -> dict[str, Any]:
    """A value for each of the keys that agrees with what the model computes."""
    found = {}
    for key, only in table.inert.items():
        if isinstance(only, Same):
            only = config.get(only.key, table.defaults.get(only.key, only.default))
        found[key] = 7 if only is ANY else only
    return found


@pytest.mark.parametrize("kind", INERT)
def test_keys_that_transformers_does_not_read(kind: str, tmp_path: Path) -> None:
    """They load with the values that released folders have, and any other one is refused by name."""
    files, table = files_of(CASES[kind], tmp_path), INERT[kind]
    keys = agreeing(table, text_config(files.golden.config))
    assert None not in keys.values()
    np.testing.assert_array_equal(files.as_folder(**keys), files.as_folder())
    for key, only in table.inert.items():
        other = not keys[key] if isinstance(keys[key], bool) else f"{keys[key]}x"
        found = files.as_folder(**{**keys, key: other})
        assert isinstance(found, str) == (only is not ANY), key
        assert only is ANY or re.search(rf"config\.(text_config\.)?{key} = ", str(found)), found


@pytest.mark.live
@pytest.mark.parametrize("kind", INERT)
def test_transformers_does_not_read_them(kind: str) -> None:
    """Neither a field nor another name of one; what a folder's `tie_embedding` says must agree."""
    import transformers

    config = type(transformers.AutoConfig.for_model(kind))
    known = {*config.__dataclass_fields__, *config.attribute_map}
    assert not known & {*INERT[kind].inert}


def test_a_dynamic_rotation_with_keys_of_yarn(tmp_path: Path) -> None:
    """As released folders of Hunyuan have it."""
    files = files_of("hunyuan", tmp_path)
    rope = files.golden.config["rope_parameters"]
    assert rope["rope_type"] == "dynamic"
    more = {"beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0}
    np.testing.assert_array_equal(files.as_folder(rope_parameters={**rope, **more}), files.as_folder())


@pytest.mark.parametrize("older", ["su", "yarn"])
@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_older_names_of_longrope(older: str, key: str, tmp_path: Path) -> None:
    """As Phi-3's first folders had it; transformers takes both for longrope."""
    files = Files(BY_NAME["phi3_longrope"], tmp_path)
    rope = {name: value for name, value in files.golden.config["rope_parameters"].items() if name != "rope_type"}
    found = files.as_folder(rope_parameters=None, rope_scaling={**rope, key: older})
    np.testing.assert_array_equal(found, files.as_folder())


def test_a_window_without_a_pattern(tmp_path: Path) -> None:
    """Every fourth layer of EXAONE 4 is a full one, which is not rotated; a window of 0 is none."""
    files = files_of("exaone4", tmp_path)
    assert files.keys["attention.sliding_window_pattern"] == [True, True, True, False]
    np.testing.assert_array_equal(files.as_gguf({"attention.sliding_window_pattern": None}), files.as_gguf({}))
    none = {"attention.sliding_window_pattern": None, "attention.sliding_window": 0}
    without = {"attention.sliding_window_pattern": None, "attention.sliding_window": None}
    np.testing.assert_array_equal(files.as_gguf(none), files.as_gguf(without))


def test_a_pattern_beside_layer_types(tmp_path: Path) -> None:
    """As EXAONE 4's folders have it: transformers reads the pattern only without layer_types."""
    files = Files(BY_NAME["exaone4"], tmp_path)
    assert files.golden.config["layer_types"]
    np.testing.assert_array_equal(files.as_folder(sliding_window_pattern=None), files.as_folder())
    found = files.as_folder(sliding_window_pattern=None, layer_types=None)
    assert isinstance(found, str) and "config.sliding_window_pattern" in found, found


def test_windows_of_smollm3_need_use_sliding_window(tmp_path: Path) -> None:
    """Without it, transformers' eager attention has the windows that layer_types names, flash attention has not."""
    files, kinds = Files(BY_NAME["smollm3_windows"], tmp_path), ["sliding_attention", "full_attention"]
    config = files.golden.config
    assert config["use_sliding_window"] and config["layer_types"] == [*kinds, kinds[0]]
    full = {"layer_types": [kinds[1]] * 3}
    assert not np.array_equal(files.as_folder(sliding_window=4), files.as_folder(sliding_window=4, **full))
    for off in ({"use_sliding_window": False}, {"use_sliding_window": ...}, {"sliding_window": None}):
        np.testing.assert_array_equal(files.as_folder(**off, **full), files.as_folder(**full))
        found = files.as_folder(**off)
        assert isinstance(found, str) and "config.layer_types = " in found, found


@pytest.mark.parametrize("name", ["cohere", "cohere2"])
def test_all_columns_of_heads_are_rotated(name: str, tmp_path: Path) -> None:
    """transformers ignores partial_rotary_factor with the default rotation, and fails with others."""
    files = files_of(name, tmp_path)
    rope = files.golden.config["rope_parameters"]
    for factor in (1.0, 0.5):
        for changed in ({"partial_rotary_factor": factor},
                        {"rope_parameters": {**rope, "partial_rotary_factor": factor}}):  # fmt: skip
            found = files.as_folder(**changed)
            if factor == 1.0:
                np.testing.assert_array_equal(found, files.as_folder())
            else:
                assert isinstance(found, str) and "partial_rotary_factor = 0.5" in found, found
