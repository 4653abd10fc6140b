"""The bytes of stacked matrices and of computed matrices; the values of a tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid.errors import UnsupportedModelError


class Parts:
    """The bytes of separate matrices, each in memory, computed, or in a file (weights.base.FileBytes), as if they were
    consecutive."""

    __slots__ = ("parts",)

    def __init__(self, parts: tuple[Any, ...]) -> None:
        self.parts = parts

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(part.size for part in self.parts)

    def view(self, dtype: Any, /) -> npt.NDArray[Any]:
        """All bytes as an array of `dtype`. Raises what reading a part raises."""
        return np.concatenate([part.view(np.uint8) for part in self.parts]).view(dtype)

    def tobytes(self) -> bytes:
        return self.view(np.uint8).tobytes()

    def __getitem__(self, part: slice, /) -> Parts:
        start, stop, step = part.indices(self.size)
        if step != 1:
            raise ValueError("a slice of the bytes must have step 1")
        found, at = [], 0
        for data in self.parts:
            if at < stop and at + data.size > start:
                found.append(data[max(start - at, 0) : stop - at])
            at += data.size
        return Parts(tuple(found))


class Made:
    """The bytes of a matrix that are computed, some rows at a time, each time they are needed.

    make(first, end) -> uint8: rows [first, end), of `row` bytes each.
    """

    __slots__ = ("make", "row", "size", "start")

    def __init__(self, make: Callable[[int, int], npt.NDArray[np.uint8]], row: int, size: int, start: int = 0) -> None:
        self.make, self.row, self.size, self.start = make, row, size, start

    def view(self, dtype: Any, /) -> npt.NDArray[Any]:
        """The bytes as an array of `dtype`. Raises what `make` raises."""
        if not self.size:
            return np.empty(0, dtype)
        first = self.start // self.row
        end = -(-(self.start + self.size) // self.row)
        at = self.start - first * self.row
        return self.make(first, end)[at : at + self.size].view(dtype)

    def tobytes(self) -> bytes:
        return self.view(np.uint8).tobytes()

    def __getitem__(self, part: slice, /) -> Made:
        start, stop, step = part.indices(self.size)
        if step != 1:
            raise ValueError("a slice of the bytes must have step 1")
        return Made(self.make, self.row, max(stop - start, 0), self.start + start)


def rows_of(data: Any, stack: int, first: int, end: int, of: int) -> Any:
    """Rows [first, end) of each of `stack` matrices of `of` rows."""
    if first == 0 and end == of:
        return data
    each = data.size // stack
    row = each // of
    if isinstance(data, Parts):
        return Parts(tuple(part[first * row : end * row] for part in data.parts))
    return Parts(tuple(data[e * each + first * row : e * each + end * row] for e in range(stack)))


def floats(t: Any) -> npt.NDArray[np.float32]:
    """The values of a tensor (weights.Tensor) as float32, in its shape. Raises UnsupportedModelError for a quantised
    format."""
    if t.type == "F32":
        values = t.data.view(np.float32)
    elif t.type == "F16":
        values = t.data.view(np.float16).astype(np.float32)
    elif t.type == "BF16":
        values = (t.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        raise UnsupportedModelError(feature=f"weight format {t.type} for {t.name}", supported="F32, F16, BF16")
    found: npt.NDArray[np.float32] = values.reshape(t.shape)
    return found
