"""Stored reference values of attributions of every kind, for small models of each kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.look import inside

PATH = Path(__file__).resolve().parent / "attributed.npz"
NAMES = inside.NAMES
POSITIONS = (3, 11)
TARGETS: tuple[Any, ...] = (5, (5, 7), 9)  # tokens, and two against each other
SENDER = 1  # its head; the layer is the first that attends
RECEIVER = 3


def load(name: str) -> dict[str, npt.NDArray[Any]]:
    """Quantity -> its values; with /N, of layer N alone."""
    with np.load(PATH, allow_pickle=False) as stored:
        return {key.partition("/")[2]: stored[key] for key in stored.files if key.startswith(f"{name}/")}
