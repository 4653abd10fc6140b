"""Matrices of folders in FP8 (e4m3), with scales of blocks, rows or whole matrices, as float32.

Sources: transformers' integrations/finegrained_fp8.py, compressed-tensors 0.20.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from pellucid import _engine
from pellucid.errors import ModelFileError
from pellucid.parts import Made, Parts
from pellucid.weights.base import Tensor
from pellucid.weights.integers import in_parts, numbers

__all__ = ["matrix", "stack"]

Block = tuple[int, int]  # rows and columns
_DEFAULT = (128, 128)  # transformers' default, if weight_block_size is absent


def matrix(weight: Tensor, scale: Tensor, block: Block | None, default: bool = False) -> Tensor:
    """A matrix in float32, computed for the rows that are read.

    block: from the configuration; None: not given, and the shape of the scales decides whether they are of blocks, rows
    or the whole matrix. default: then blocks may have transformers' default size, the last ones less. Raises
    ModelFileError for scales of another shape, or that are not finite.
    """
    return _decoded(weight, scale, _block(weight.shape, scale, scale.shape, block, default))


def stack(weight: Tensor, scale: Tensor, block: Block | None, default: bool = False) -> Tensor:
    """The same for a stack of matrices, (experts, rows, k), whose scales have one more dimension."""
    n, rows, k = weight.shape
    if not scale.shape or scale.shape[0] != n:
        raise _fail(scale, f"has shape {scale.shape}", f"scales for each of {n} experts")
    shape = scale.shape[1:]
    of = _block((rows, k), scale, shape, block, default)

    def one(e: int) -> Tensor:
        codes, scales = (t.data[e * t.data.size // n : (e + 1) * t.data.size // n] for t in (weight, scale))
        return _decoded(weight._replace(shape=(rows, k), data=codes), scale._replace(shape=shape, data=scales), of)

    return weight._replace(type="F32", data=Parts(tuple(one(e).data for e in range(n))))


def _block(weight: tuple[int, ...], scale: Tensor, shape: tuple[int, ...], block: Block | None, default: bool) -> Block:
    """The rows and columns that share a scale. shape: of a matrix's scales."""
    rows, k = weight
    if not np.isfinite(numbers(scale)).all():
        raise _fail(scale, "has a scale that is not finite")
    wanted = (rows, 1) if block is None else _grid(rows, k, block)
    if math.prod(shape) == 1:
        return rows, k
    if block is not None and shape == wanted:
        return block
    if shape in ((rows,), (rows, 1)):
        return 1, k
    if block is None and default and shape == _grid(rows, k, _DEFAULT):
        return _DEFAULT
    if block is None and len(shape) == 2 and 0 not in shape and rows % shape[0] == 0 and k % shape[1] == 0:
        return rows // shape[0], k // shape[1]
    before = scale.shape[: len(scale.shape) - len(shape)]
    raise _fail(scale, f"has shape {scale.shape}", f"shape {(*before, *wanted)}")


def _grid(rows: int, k: int, block: Block) -> tuple[int, int]:
    return -(-rows // block[0]), -(-k // block[1])


def _decoded(weight: Tensor, scale: Tensor, block: Block) -> Tensor:
    rows, k = weight.shape

    def make(first: int, end: int) -> npt.NDArray[np.uint8]:
        codes = weight.data[first * k : end * k].view(np.uint8).reshape(end - first, k)
        grid = numbers(scale).reshape(_grid(rows, k, block))
        out = np.empty(codes.shape, np.float32)

        def some(at: int, stop: int) -> None:
            part = slice(at - first, stop - first)
            _engine.make_fp8(codes[part], grid, block, at, out[part])

        in_parts(some, first, end)
        return out.reshape(-1).view(np.uint8)

    return Tensor(weight.name, "F32", weight.shape, Made(make, 4 * k, 4 * k * rows), weight.offset, weight.file)


def _fail(t: Tensor, message: str, expected: str | None = None) -> ModelFileError:
    return ModelFileError(message, file=t.file, field=t.name, offset=t.offset, expected=expected)
