"""Tensors that are computed from those of a folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid.errors import ModelFileError, UnsupportedModelError
from pellucid.parts import Made, Parts, floats
from pellucid.weights.base import Tensor

_UNITS = {"F32": np.uint32, "F16": np.uint16, "BF16": np.uint16}


def changed(t: Tensor, change: Callable[[Any], Any]) -> Tensor:
    """A tensor with its rows and columns in another order: in memory, or, of a stack of experts' matrices, made of one
    at a time whenever they are asked for. Raises UnsupportedModelError, and ModelFileError where its shape does not
    suit."""
    if t.type not in _UNITS:
        raise UnsupportedModelError(feature=f"weight format {t.type} ({t.name})", supported=", ".join(_UNITS))
    unit = _UNITS[t.type]
    stacked = len(t.shape) == 3 and "experts" in t.name and t.shape[0] > 0
    try:
        if not stacked:
            values = np.ascontiguousarray(change(t.data.view(unit).reshape(t.shape)))
            return t._replace(shape=values.shape, data=values.reshape(-1).view(np.uint8))
        shape = change(np.broadcast_to(np.zeros((), unit), (1, *t.shape[1:]))).shape[1:]
    except ValueError:
        raise ModelFileError(f"has shape {t.shape}", file=t.file, field=t.name, offset=t.offset) from None
    size = t.data.size // t.shape[0]
    row = size // shape[0] if shape[0] else 0

    def rows(data: Any, first: int, end: int) -> npt.NDArray[np.uint8]:
        found = change(data.view(unit).reshape(1, *t.shape[1:]))[0, first:end]
        return np.ascontiguousarray(found).reshape(-1).view(np.uint8)

    experts = (t.data[e * size : (e + 1) * size] for e in range(t.shape[0]))
    return t._replace(
        shape=(t.shape[0], *shape), data=Parts(tuple(Made(partial(rows, data), row, size) for data in experts))
    )


def plus(t: Tensor, offset: float) -> Tensor:
    """The weight of a norm plus the offset, in float32."""
    return of_floats(t.name, floats(t) + np.float32(offset))


def of_floats(name: str, values: Any) -> Tensor:
    """A float32 tensor in memory, of no file."""
    return Tensor(name, "F32", values.shape, np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint8), 0, "")
