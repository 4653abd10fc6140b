"""Stored reference distributions: the 32 likeliest tokens of every position, and the mass of all others.

Log probabilities are kept as whole multiples of -1/2048 nat in 16 bits: rounded by at most 0.00025, down to -31.99,
at half the size of float32. Every position's codes ascend, and differences of neighbours compress better.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

TOP = 32
GRID = 2048  # steps per nat


@dataclass(frozen=True)
class Golden:
    """What a golden file holds; w windows of n positions."""

    windows: npt.NDArray[np.int32]  # (w, n), the token ids to run
    ids: npt.NDArray[np.int32]  # (w, n, TOP), likeliest first
    log_p: npt.NDArray[np.float64]  # (w, n, TOP)
    rest: npt.NDArray[np.float64]  # (w, n), log of the mass of all other tokens
    made_of: dict[str, str]  # sha256 of the model and of the text, versions


def save(path: Path, golden: Golden) -> None:
    """Writes a golden file; ValueError when a log probability does not fit or a row is not in order."""
    codes = np.rint(-golden.log_p * GRID)
    if codes.min() < 0 or codes.max() > 65535:
        raise ValueError(
            f"log probabilities must lie in [-31.99, 0], found {golden.log_p.min()} .. {golden.log_p.max()}"
        )
    steps = np.diff(codes.astype(np.int64), axis=-1, prepend=0)
    if steps.min() < 0:
        raise ValueError("log probabilities must descend within a position")
    np.savez_compressed(
        path,
        windows=golden.windows.astype(np.int32),
        ids_low=(golden.ids & 0xFFFF).astype(np.uint16),
        ids_high=(golden.ids >> 16).astype(np.uint8),
        log_p_steps=steps.astype(np.uint16),
        rest=golden.rest.astype(np.float32),
        made_of=np.array(sorted(f"{key}={value}" for key, value in golden.made_of.items())),
    )


def load(path: Path) -> Golden:
    """Reads what `save` wrote."""
    with np.load(path, allow_pickle=False) as file:
        ids = file["ids_low"].astype(np.int32) | (file["ids_high"].astype(np.int32) << 16)
        log_p = np.cumsum(file["log_p_steps"], axis=-1, dtype=np.int64) / -GRID
        made_of = dict(str(item).split("=", 1) for item in file["made_of"])
        return Golden(file["windows"], ids, log_p, file["rest"].astype(np.float64), made_of)
