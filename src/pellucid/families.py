"""Families of models: which of them run, how each was checked, and which are refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

__all__ = ["REFUSED", "Family", "checked"]


@dataclass(frozen=True, slots=True)
class Family:
    """Models that run. `architecture`: general.architecture of GGUF files; `model_types`: of folders; `wrappers`:
    model_types of folders whose text model alone runs; `folders`, `files`: how many tiny models with random weights
    were compared with transformers as a folder, and as a GGUF file."""

    name: str
    architecture: str
    model_types: tuple[str, ...]
    wrappers: tuple[str, ...]
    folders: int
    files: int


# Families that do not run, and the names that such models have as an architecture or model_type.
REFUSED = {
    "DeepSeek 3.2, 4": ("deepseek_v32", "deepseek_v4"),
    "diffusion models": ("dream", "llada", "llada-moe", "diffusion_gemma"),
    "Gemma 3n": ("gemma3n",),
    "GLM-5": ("glm-dsa", "glm_moe_dsa"),
    "Llama 4": ("llama4",),
    "Mamba 1, Jamba": ("mamba", "jamba"),
    "MiniMax": ("minimax-m2", "minimax", "minimax_m2"),
    "RecurrentGemma": ("recurrent_gemma",),
    "RWKV": ("rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7", "rwkv"),
    "T5": ("t5", "t5encoder"),
}


@cache
def checked() -> tuple[Family, ...]:
    """The families that run. Their table is made from that of the tests: python docs/families.py."""
    rows = json.loads(resources.files("pellucid").joinpath("families.json").read_text("utf-8"))
    return tuple(
        Family(**{**row, "model_types": tuple(row["model_types"]), "wrappers": tuple(row["wrappers"])}) for row in rows
    )
