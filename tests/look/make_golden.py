"""Makes tests/look/golden.npz (extra `reference`): python -m tests.look.make_golden. Takes ten seconds."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from tests.look import golden
from tests.look.hf import observe
from tests.reference import hf, tiny


def main() -> None:
    """Runs the models through transformers in float64 (norms, rotations and softmax stay float32 there)."""
    arrays = {}
    for model in golden.MODELS:
        arrays[f"{model.name}/weights_sha256"] = np.array(tiny.weights_sha256(model))
        with tempfile.TemporaryDirectory() as folder:
            reference = hf.load_folder(tiny.write_folder(model, Path(folder)), torch.float64)
            for name, value in observe(reference, golden.ids_of(model)).items():
                arrays[f"{model.name}/{name}"] = value.astype(np.float32)
    arrays["made_of"] = np.array(sorted(f"{key}={value}" for key, value in hf.versions().items()))
    np.savez_compressed(golden.PATH, **arrays)  # type: ignore[arg-type]
    print(f"{golden.PATH.name}: {golden.PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
