"""A model's tensors by name."""

from __future__ import annotations

import difflib
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["weight"]


def weight(engine: Any, name: Any) -> npt.NDArray[np.float32]:
    """``Model.weight``."""
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, not {type(name).__name__}")
    plan = engine.plan
    matrices = {m.name: i for i, m in enumerate(plan.matrices)}
    vectors = {v.name: v.data for v in plan.vectors}
    for full in (name, f"{name}.weight"):
        if full in matrices:
            return engine.matrix(matrices[full])
        if full in vectors:
            return vectors[full].copy()
    near = difflib.get_close_matches(name, [*matrices, *vectors], n=3, cutoff=0.5)
    hint = f": did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"name={name!r}: the model has no such tensor{hint}")
