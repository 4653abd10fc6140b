"""Configurations of single families that once took minutes, gigabytes or a traceback: refused by name, at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.families.cases import BY_NAME
from tests.families.test_families_strict import Files
from tests.weights.using import bounded

pytestmark = pytest.mark.usefixtures("warm")

HUNYUAN = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 1.0, "alpha": 5.0}
NO_BASE = {"rope_type": "default", "rope_theta": []}
FOLDERS: list[tuple[str, dict[str, Any], str]] = [
    ("granite_swa_bases", {"layer_rope_theta": [10**400] * 3}, r"config.layer_rope_theta\[0\]"),
    ("apertus", {"hidden_size": 1 << 24}, "config.hidden_size"),
    ("lfm3", {"head_dim": 1 << 31}, "config.head_dim"),
    ("gemma4", {"per_layer_config": None, "global_head_dim": 1 << 31}, "head_dim"),
    ("granite_swa_bases", {"rope_parameters": NO_BASE}, "rope_parameters.rope_theta"),
    ("hunyuan", {"head_dim": 2, "rope_parameters": HUNYUAN}, "config.rope_parameters.alpha = 5.0"),
    ("lfm2", {"full_attn_idxs": [7] * 1_000_000, "layer_types": None, "num_hidden_layers": 4096}, "no such tensor"),
    ("qwen3moe", {"mlp_only_layers": [9999] * 1_000_000, "num_hidden_layers": 4096}, "no such tensor"),
]  # fmt: skip
GGUF: list[tuple[str, dict[str, Any], str]] = [
    (
        "qwen3next_ragged",
        {"ssm.state_size": 4096, "ssm.group_count": 4096, "ssm.time_step_rank": 4096, "ssm.inner_size": 1 << 24},
        r"blk.0.ssm_in.weight .*has shape \(300, 64\)",
    ),
    ("olmo3", {"embedding_length": 1 << 24}, "olmo2.embedding_length .*heads have 4194304 columns"),
    ("exaone4", {"attention.sliding_window": [1, 2]}, "exaone4.attention.sliding_window .*a list of 2"),
    ("ministral3", {"context_length": 1 << 24, "rope.scaling.original_context_length": 1}, "at least 256"),
    ("mistral4", {"context_length": 1 << 24, "attention.temperature_length": 1}, "at least 256"),
]


@pytest.mark.parametrize(("name", "changes", "words"), FOLDERS)
def test_folders(name: str, changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    files = Files(BY_NAME[name], tmp_path)
    assert not isinstance(files.as_folder(), str)
    with bounded():
        found = files.as_folder(**changes)
    assert isinstance(found, str) and re.search(words, found), found


@pytest.mark.parametrize(("name", "keys", "words"), GGUF)
def test_files(name: str, keys: dict[str, Any], words: str, tmp_path: Path) -> None:
    files = Files(BY_NAME[name], tmp_path)
    assert not isinstance(files.as_gguf({}), str)
    with bounded():
        found = files.as_gguf(keys)
    assert isinstance(found, str) and re.search(words, found), found
