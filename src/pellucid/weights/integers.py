"""Matrices of folders that hold integers with scales: their bytes in the engine's formats, computed when they are read.

w[row][column] = scale[row][group of column] * (code - zero[row][group of column]).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from pellucid import _engine
from pellucid.errors import ModelFileError
from pellucid.parts import Made
from pellucid.weights.base import Data, Tensor

__all__ = ["Integers", "Joined", "in_parts", "nibbles", "numbers"]

T = TypeVar("T")
Array = npt.NDArray[Any]
_BLOCK = 32  # columns of the engine's blocks
_ROW_BYTES = {"F32": lambda k: 4 * k, "INT4": lambda k: k // _BLOCK * 19, "Q8_0": lambda k: k // _BLOCK * 34}


class Joined(NamedTuple):
    """A matrix. order: the column of the original in each place, None: unchanged; plain: for a matrix in INT4 or Q8_0,
    the same in float32 with its columns in their original places; why: why a matrix in F32 has no smaller format."""

    tensor: Tensor
    order: npt.NDArray[np.int32] | None = None
    plain: Tensor | None = None
    why: str = ""


@dataclass(frozen=True)
class Integers:
    """The layout of the codes (csrc/quantize/integers.h), and their scales and zero points, each (rows, groups)."""

    name: str  # of the weight
    codes: Tensor
    rows: int
    k: int
    bits: int
    step_column: int  # bytes between words
    step_row: int
    columns: int  # per word
    rows_of_word: int
    flip: int
    group: npt.NDArray[np.int32]  # (k): of each column
    scale: Callable[[], Array]
    zero: Callable[[], Array]

    def joined(self) -> Joined:
        """The matrix in INT4 or Q8_0 if these represent it exactly, else in F32."""
        scale, zero = self.scale(), self.zero()
        if not np.isfinite(scale).all():
            raise self._fail("has a scale that is not finite")
        order = None
        if (np.diff(self.group) < 0).any():  # act-order: the columns of a group are not adjacent
            order = np.argsort(self.group, kind="stable").astype(np.int32)
        group = self.group if order is None else self.group[order]
        why = ""
        with np.errstate(over="ignore"):
            if self.k % _BLOCK or (group.reshape(-1, _BLOCK) != group[::_BLOCK, None]).any():
                why = f"groups that are not multiples of {_BLOCK} columns"
            elif not np.array_equal(scale.astype(np.float16).astype(np.float32), scale):
                why = "scales that are not F16 numbers"
            elif self.bits == 8 and (zero != 128).any():
                why = "8-bit weights with zero points"
            elif zero.min() < 0 or zero.max() > 255:
                why = "zero points outside of 0 to 255"
        if why:
            return Joined(self._tensor("F32", None, self.group), why=why)
        type = "INT4" if self.bits == 4 else "Q8_0"
        return Joined(self._tensor(type, order, group), order, self._tensor("F32", None, self.group))

    def _fail(self, message: str) -> ModelFileError:
        return ModelFileError(message, file=self.codes.file, field=self.name, offset=self.codes.offset)

    def _tensor(self, type: str, order: npt.NDArray[np.int32] | None, group: npt.NDArray[np.int32]) -> Tensor:
        group = np.ascontiguousarray(group, np.int32)

        def make(first: int, end: int) -> npt.NDArray[np.uint8]:
            codes = self.codes.data.view(np.uint8)
            scale = np.ascontiguousarray(self.scale(), np.float32)
            zero = np.ascontiguousarray(self.zero(), np.int16)

            def some(at: int, stop: int) -> Any:
                return _engine.make_integers(
                    type, codes, self.bits, self.step_column, self.step_row, self.columns, self.rows_of_word,
                    self.flip, order, group, scale, zero, at, stop,
                )  # fmt: skip

            found = in_parts(some, first, end)
            return np.concatenate(found) if len(found) != 1 else found[0]

        row = _ROW_BYTES[type](self.k)
        data = Made(make, row, self.rows * row)
        return Tensor(self.name, type, (self.rows, self.k), data, self.codes.offset, self.codes.file)


def in_parts(some: Callable[[int, int], T], first: int, end: int) -> list[T]:
    """The result of `some` for parts of the rows [first, end), one thread each; all but the last have a multiple of 16
    rows."""
    threads = _engine.topology()[0]
    step = max(-(-(end - first) // threads // 16) * 16, 16)
    starts = range(first, end, step)
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(some, starts, (min(at + step, end) for at in starts)))


def nibbles(data: Data, rows: int, k: int) -> Made:
    """Signed bytes of -8 to 7, (rows, k), k even -> their sums with 8, two in a byte, the first in its low half."""

    def make(first: int, end: int) -> npt.NDArray[np.uint8]:
        codes = (data[first * k : end * k].view(np.int8) + np.int8(8)).view(np.uint8).reshape(-1, 2)
        return codes[:, 0] | codes[:, 1] << np.uint8(4)

    return Made(make, k // 2, rows * k // 2)


def numbers(t: Tensor) -> npt.NDArray[np.float32]:
    """The values of scales as float32, in their shape. E8M0 bytes are powers of two."""
    if t.type in ("F8_E8M0", "U8"):
        values = np.ldexp(np.float32(1), t.data.view(np.uint8).astype(np.int32) - 127)
    elif t.type == "BF16":
        values = (t.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        values = t.data.view({"F16": np.float16, "F32": np.float32, "F64": np.float64}[t.type])
    return np.asarray(values, np.float32).reshape(t.shape)
