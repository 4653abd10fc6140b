"""Stored reference values of quantities, edits, attributions and patching, for small models of each kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid.look.recorded import AXES
from tests.families.case import Case
from tests.families.cases import BY_NAME
from tests.look import golden, kinds
from tests.reference import tiny

PATH = Path(__file__).resolve().parent / "inside.npz"
FEW_PATH = PATH.with_name("inside_few.npz")
DENSE = {model.name: model for model in golden.MODELS}
KINDS = ("gpt_oss", "qwen3moe", "lfm2", "qwen35", "olmo2", "phi2", "gemma2")
# Of these the values at the last position are stored; all of them are compared where transformers runs.
FEW = (
    "apertus", "arcee", "cohere", "cohere2", "deepseek_v2", "deepseek_v3", "ernie4_5", "ernie4_5_moe", "exaone4",
    "falcon_h1", "gemma", "gemma4", "gemma4_experts", "glm4", "glm4_moe_lite", "glm4moe", "gpt2", "gptneox",
    "granite", "granite_swa", "granitehybrid", "granitehybrid_experts", "granitemoe", "hunyuan", "kimi_linear",
    "lfm2moe", "lfm3", "minicpm3", "ministral3", "mistral4", "mixtral", "nemotron", "nemotron_h", "nemotron_h_moe",
    "olmo3", "olmoe", "phi3", "phimoe", "qwen2", "qwen2moe", "qwen35moe", "qwen3next", "seed_oss", "smollm3",
    "stablelm", "stablelm_parallel", "starcoder2",
)  # fmt: skip
ROWS = [11]
NAMES = (*DENSE, *KINDS, *FEW)
CASES: dict[str, Case] = {name: BY_NAME[name] for name in (*KINDS, *FEW)}
LENGTH = 12


def ids_of(name: str, vocab: int, seed: int = 0) -> list[int]:
    """seed 1: another prompt of the same length."""
    if seed:
        return [int(i) for i in np.random.default_rng(seed).integers(3, vocab, LENGTH)]
    return tiny.token_ids(DENSE[name], LENGTH) if name in DENSE else kinds.ids_of(CASES[name], vocab)


def load(name: str) -> tuple[list[dict[str, Any]], dict[str, npt.NDArray[Any]]]:
    """(the edits, name -> array)."""
    with np.load(FEW_PATH if name in FEW else PATH, allow_pickle=False) as stored:
        edits = json.loads(str(stored[f"{name}/edits"]))
        if name in FEW:
            return edits, unpacked(str(stored[f"{name}/shapes"]), stored[f"{name}/values"])
        found = {key.partition("/")[2]: stored[key] for key in stored.files if key.startswith(f"{name}/")}
        return edits, found


def packed(found: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Small arrays as one: a file with an entry for each would be larger by half."""
    shapes = json.dumps({key: array.shape for key, array in found.items()})
    return {"shapes": np.array(shapes), "values": np.concatenate([array.ravel() for array in found.values()])}


def unpacked(shapes: str, values: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    found, start = {}, 0
    for key, shape in json.loads(shapes).items():
        end = start + int(np.prod(shape))
        found[key], start = values[start:end].reshape(shape), end
    return found


def few(key: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """What is stored of an array."""
    quantity, _, layer = key.partition("/")
    if quantity == "patching":
        return array
    axes = AXES["logits" if quantity == "edit" else quantity]
    axes = axes[1:] if layer and quantity != "edit" else axes
    return array.take(ROWS, axes.index("position" if "position" in axes else "token"))


def values(call: dict[str, Any], number: int) -> dict[str, Any]:
    """The arguments of an edit, with its arrays."""
    made = {key: value for key, value in call.items() if key != "do"}
    rng = np.random.default_rng(number)
    for key in ("values", "vector", "weights"):
        if key in made:
            made[key] = rng.normal(size=made[key]).astype(np.float32)
    if "weights" in made:
        made["weights"] = np.abs(made["weights"])
    return made
