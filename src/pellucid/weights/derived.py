"""Tensors computed from those of a folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid.errors import ModelFileError, UnsupportedModelError
from pellucid.parts import Made, Parts, floats
from pellucid.weights.base import Tensor

FLOATS = ("F32", "F16", "BF16")
_UNITS = {"F32": np.uint32, "F16": np.uint16, "BF16": np.uint16}


def changed(t: Tensor, change: Callable[[Any], Any]) -> Tensor:
    """A tensor with its rows and columns in another order: in memory or, for a stack of experts, one matrix at a time
    when they are read. A quantised matrix of which only rows move keeps its format; its rows are reordered in the same
    way. Raises UnsupportedModelError, and ModelFileError if its shape does not fit."""
    if t.type not in _UNITS:
        places = rows_moved(t, change)
        if places is not None:
            return _gathered(t, places)
        raise UnsupportedModelError(feature=f"weight format {t.type} ({t.name})", supported=", ".join(_UNITS))
    unit = _UNITS[t.type]
    stacked = len(t.shape) == 3 and "experts" in t.name and t.shape[0] > 0
    try:
        if not stacked:
            values = np.ascontiguousarray(change(t.data.view(unit).reshape(t.shape)))
            return t._replace(shape=values.shape, data=values.reshape(-1).view(np.uint8))
        shape = change(np.broadcast_to(np.zeros((), unit), (1, *t.shape[1:]))).shape[1:]
    except (ValueError, IndexError, TypeError):
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


def rows_moved(t: Tensor, change: Callable[[Any], Any]) -> npt.NDArray[np.intp] | None:
    """The row of a matrix that is in each place after `change`; None if `change` also moves single columns. Raises
    ModelFileError if its shape does not fit."""
    if len(t.shape) != 2:
        return None
    try:
        found = change(np.arange(2 * t.shape[0]).reshape(-1, 2))
    except (ValueError, IndexError, TypeError):
        raise ModelFileError(f"has shape {t.shape}", file=t.file, field=t.name, offset=t.offset) from None
    first = found[..., 0]
    if found.shape[-1] != 2 or (first % 2).any() or not np.array_equal(found[..., 1], first + 1):
        return None
    return np.asarray(first // 2)


def _gathered(t: Tensor, places: npt.NDArray[np.intp]) -> Tensor:
    order, row = places.reshape(-1), t.data.size // max(t.shape[0], 1)

    def make(first: int, end: int) -> npt.NDArray[np.uint8]:
        part = order[first:end]
        runs = np.split(part, np.flatnonzero(np.diff(part) != 1) + 1)  # of consecutive rows
        return np.concatenate([t.data[run[0] * row : (run[-1] + 1) * row].view(np.uint8) for run in runs])

    return t._replace(shape=(*places.shape, t.shape[1]), data=Made(make, row, order.size * row))


def wide(t: Tensor) -> Tensor:
    """A matrix in F32, F16 or BF16 as float32, computed for the rows that are read."""
    if t.type == "F32":
        return t
    rows, k = t.shape[0], t.data.size // 2 // max(t.shape[0], 1)

    def make(first: int, end: int) -> npt.NDArray[np.uint8]:
        part = t._replace(shape=(end - first, k), data=t.data[2 * first * k : 2 * end * k])
        return floats(part).reshape(-1).view(np.uint8)

    return t._replace(type="F32", data=Made(make, 4 * k, 4 * k * rows))


def plus(t: Tensor, offset: float) -> Tensor:
    """The weight of a norm plus the offset, in float32."""
    return of_floats(t.name, floats(t) + np.float32(offset))


def of_floats(name: str, values: Any) -> Tensor:
    """A float32 tensor in memory, which belongs to no file."""
    return Tensor(name, "F32", values.shape, np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint8), 0, "")
