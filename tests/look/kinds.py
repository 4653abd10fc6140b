"""Models of each kind whose inner quantities are compared with those of transformers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.families.case import Case, token_ids
from tests.families.cases import BY_NAME

PATH = Path(__file__).resolve().parent / "kinds.npz"
LENGTH = 12
# Where a layer's feed-forward network adds to the residual stream: the module whose output it adds.
MLP = {
    "olmo2": "post_feedforward_layernorm",
    "gemma2": "post_feedforward_layernorm",
    "lfm2": "feed_forward",
    "lfm2moe": "feed_forward",
    "granitehybrid": "shared_mlp",
    "gemma4": "post_feedforward_layernorm",
}
NAMES = ("gpt_oss", "qwen3moe", "mixtral", "lfm2", "qwen35", "granitehybrid", "phi2", "cohere", "olmo2", "gemma2",
         "granite", "olmoe", "lfm2moe", "qwen3next", "qwen35moe", "qwen2moe", "phimoe", "ernie4_5_moe", "glm4moe",
         "deepseek_v3", "gemma4")  # fmt: skip
# Of these, what recurrent layers have; tests/look/inside.py has the other quantities of all but Mamba 2.
RECURRENT = ("falcon_h1", "nemotron_h", "mamba2", "kimi_linear")
CASES: dict[str, Case] = {name: BY_NAME[name] for name in (*NAMES, *RECURRENT)}


def ids_of(case: Case, vocab: int) -> list[int]:
    return token_ids(replace(case, tokens=0), vocab)[:LENGTH]  # so few have no near tie


def load(name: str) -> dict[str, npt.NDArray[Any]]:
    """Quantity -> its values; with /N, of layer N alone."""
    with np.load(PATH, allow_pickle=False) as stored:
        return {key.partition("/")[2]: stored[key] for key in stored.files if key.startswith(f"{name}/")}
