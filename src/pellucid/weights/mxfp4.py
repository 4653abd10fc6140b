"""Matrices of Hugging Face folders in MXFP4 (OCP Microscaling Formats 1.0), as in gpt-oss, converted to GGUF's layout.

A folder has two tensors of bytes for a stack of matrices: X_blocks (experts, rows, k / 32, 16), a block of 32 weights
in 16 bytes with neighbours in the two halves of a byte, and X_scales (experts, rows, k / 32), an exponent for each
block. GGUF has the exponent before the bytes, and in each byte the weights i and i + 16 of its block. Bytes are
combined when they are read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid.errors import ModelFileError
from pellucid.parts import Made
from pellucid.weights.base import Tensor

BLOCKS, SCALES = "blocks", "block_scales"  # suffixes of the names that a folder's table gives the two tensors


def joined(found: dict[str, Tensor], own: Callable[[str], str], file: str, order: Callable[[str], Any]) -> int:
    """Replaces each pair of tensors by one tensor in MXFP4 -> the number of pairs.

    found: tensors by GGUF's names; modified. own: a GGUF name -> the folder's name. order: the name of a stack -> what
    reorders its rows, (experts, rows, ...) -> the same. Raises ModelFileError for a tensor that is missing or does not
    fit the other.
    """
    stems = {name.rpartition(".")[0] for name in found if name.rpartition(".")[2] in (BLOCKS, SCALES)}
    for stem in stems:
        parts = [f"{stem}.{end}" for end in (BLOCKS, SCALES)]
        for part, other in zip(parts, reversed(parts), strict=True):
            if part not in found:
                message = f"no such tensor beside {found[other].name}"
                raise ModelFileError(message, file=file, field=own(part))
        blocks, scales = (found.pop(part) for part in parts)
        if f"{stem}.weight" in found:
            message = "a second tensor for the same weight"
            raise ModelFileError(message, file=blocks.file, field=blocks.name, offset=blocks.offset)
        found[f"{stem}.weight"] = _joined(blocks, scales, order(stem))
    return len(stems)


def _joined(blocks: Tensor, scales: Tensor, order: Callable[[Any], Any]) -> Tensor:
    for t, fits, expected in (
        (
            blocks,
            len(blocks.shape) == 4 and blocks.shape[3] == 16 and 0 not in blocks.shape,
            "(experts, rows, k / 32, 16)",
        ),
        (scales, scales.shape == blocks.shape[:3], str(blocks.shape[:3])),
    ):
        if t.type != "U8" or not fits:
            message, expected = f"is {t.type} of shape {t.shape}", f"U8 of shape {expected}"
            raise ModelFileError(message, file=t.file, field=t.name, offset=t.offset, expected=expected)
    stack, rows, n, _ = blocks.shape
    for e in range(stack):
        d = _bytes(scales, e * rows, (e + 1) * rows, n)
        if d.size and d.max() == 255:
            at = scales.offset + e * d.size + int(d.argmax())
            raise ModelFileError("a scale is not a number", file=scales.file, field=scales.name, offset=at)
    places = order(np.arange(rows).reshape(1, rows, 1)).reshape(-1)

    def make(first: int, end: int) -> npt.NDArray[np.uint8]:
        out = np.empty((end - first, n, 17), np.uint8)
        at = first
        while at < end:  # the rows of one matrix
            e, row = divmod(at, rows)
            source = places[row : row + end - at]
            low, high = int(source.min()), int(source.max()) + 1
            b, d = (_bytes(t, e * rows + low, e * rows + high, n)[source - low] for t in (blocks, scales))
            part = out[at - first : at - first + len(source)]
            part[..., :1] = d
            half, other = b[..., :8], b[..., 8:]  # 16 weights each
            part[..., 1::2] = half & 15 | other << 4
            part[..., 2::2] = half >> 4 | other & 240
            at += len(source)
        return out.reshape(-1)

    data = Made(make, n * 17, stack * rows * n * 17)
    return Tensor(blocks.name, "MXFP4", (stack, rows, n * 32), data, blocks.offset, blocks.file)


def _bytes(t: Tensor, first: int, end: int, n: int) -> npt.NDArray[np.uint8]:
    """Rows [first, end) of all matrices, one after the other: (end - first, n, bytes of a block)."""
    row = t.data.size // max(t.shape[0] * t.shape[1], 1)
    return t.data[first * row : end * row].view(np.uint8).reshape(end - first, n, -1)
