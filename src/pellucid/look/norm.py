"""A norm at one place, as the linear map that it is there: from parts of its input to parts of its output."""

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
    """The norm of an operation, with the size of the rows that it saw held fixed; its bias is left out."""

    gain: Values  # (rows, d), what each column is multiplied by
    centred: bool  # LayerNorm subtracts the mean of a row first

    @classmethod
    def of(cls, plan: Plan, op: Op, x: Values) -> NormMap:
        """x: the rows (rows, d) that are normed. An operation without a norm passes them on as they are."""
        if op.vec < 0:
            return cls(np.ones((1, x.shape[-1]), np.float32), False)
        centred = op.norm == NORMS["layer"]
        wide = x.astype(np.float64)
        if centred:
            wide -= wide.mean(axis=-1, keepdims=True)
        mean = np.mean(np.square(wide), axis=-1, keepdims=True)
        return cls(plan.vectors[op.vec].data / np.sqrt(mean + op.eps), centred)

    def forward(self, parts: Values) -> Values:
        """Parts (..., rows, d) of the input -> their parts of the output."""
        return (parts - parts.mean(axis=-1, keepdims=True) if self.centred else parts) * self.gain

    def back(self, direction: Values) -> Values:
        """A direction (..., rows, d) in the output -> the one in the input along which parts push as far."""
        pulled = direction * self.gain
        return pulled - pulled.mean(axis=-1, keepdims=True) if self.centred else pulled
