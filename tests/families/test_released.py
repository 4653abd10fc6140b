"""Files and folders as they are released: more keys than the tests' writers know, and keys that must be there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model
from pellucid.plan import Kind
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
