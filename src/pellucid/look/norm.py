"""A norm as a linear map, with the scale of given rows: from parts of its input to parts of its output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid._engine import NORMS
from pellucid.plan import Op, Plan

__all__ = ["NormMap"]

Values = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class NormMap:
    """The norm of an operation, without its bias, with its scale for given rows held fixed."""

    gain: Values  # (rows, d): factor of each column
    centred: bool  # whether the mean of a row is subtracted first (LayerNorm)

    @classmethod
    def of(cls, plan: Plan, op: Op, x: Values) -> NormMap:
        """x: the input rows (rows, d) of the norm. For an operation without a norm this is the identity. A factor of
        the operation before it adds counts as part of the norm."""
        times = op.scale if op.kind.adds else 1.0
        if op.norm == NORMS["none"] or (op.kind.adds and op.vec < 0):
            return cls(np.full((1, x.shape[-1]), times, np.float32), False)
        centred = op.norm == NORMS["layer"]
        wide = x.astype(np.float64)
        if centred:
            wide -= wide.mean(axis=-1, keepdims=True)
        squares = np.square(wide)
        mean = (np.sum if op.norm == NORMS["l2"] else np.mean)(squares, axis=-1, keepdims=True)
        weight = plan.vectors[op.vec].data if op.vec >= 0 else np.ones(x.shape[-1], np.float32)
        return cls(times * weight / np.sqrt(mean + op.eps), centred)

    def forward(self, parts: Values) -> Values:
        """Parts (..., rows, d) of the input -> the corresponding parts of the output."""
        return (parts - parts.mean(axis=-1, keepdims=True) if self.centred else parts) * self.gain

    def back(self, direction: Values) -> Values:
        """The transposed map: a direction (..., rows, d) in the output -> the direction in the input whose product with
        a part of the input equals the product of the output's direction with the corresponding part of the output."""
        pulled = direction * self.gain
        return pulled - pulled.mean(axis=-1, keepdims=True) if self.centred else pulled
