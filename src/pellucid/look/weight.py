"""A model's tensors by name."""

from __future__ import annotations

import difflib
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid import checks
from pellucid._engine import Engine
from pellucid.errors import WrongValue, shown

__all__ = ["weight"]


def weight(engine: Engine, name: Any) -> npt.NDArray[np.float32]:
    """``Model.weight``."""
    name = checks.string("name", name)
    plan = engine.plan
    matrices = {m.name: i for i, m in enumerate(plan.matrices)}
    vectors = {v.name: v.data for v in plan.vectors}
    for full in (name, f"{name}.weight"):
        if full in matrices:
            return engine.matrix(matrices[full])
        if full in vectors:
            return vectors[full].copy()
    near = [] if len(name) > 200 else difflib.get_close_matches(name, [*matrices, *vectors], n=3, cutoff=0.5)
    hint = f": did you mean {' or '.join(near)}?" if near else ""
    raise WrongValue("name", f"={shown(name)}: the model has no such tensor{hint}")
