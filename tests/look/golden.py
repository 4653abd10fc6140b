"""Stored reference values of everything a trace can hold, for one tiny F32 model of each architecture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.reference import tiny

PATH = Path(__file__).resolve().parent / "golden.npz"
MODELS = [model for model in tiny.TINY if model.name in ("llama_gqa", "gemma3", "qwen3")]
LENGTH = 12  # tokens: beyond Gemma's window of 8


def ids_of(model: tiny.Tiny) -> list[int]:
    return tiny.token_ids(model, LENGTH)


def load(model: tiny.Tiny) -> dict[str, npt.NDArray[np.float32]]:
    """Quantity -> its values; fails where the stored ones were made with other weights."""
    with np.load(PATH, allow_pickle=False) as stored:
        assert str(stored[f"{model.name}/weights_sha256"]) == tiny.weights_sha256(model)
        prefix = f"{model.name}/"
        return {
            name.removeprefix(prefix): stored[name]
            for name in stored.files
            if name.startswith(prefix) and not name.endswith("sha256")
        }


def distance(found: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]) -> float:
    """max |x - r| / max |r|."""
    assert found.shape == reference.shape
    return float(np.abs(found - reference).max() / np.abs(reference).max())
