"""Named arrays as text in a page: raw deflate, then base64. static/source.js reads them."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["TYPES", "VERSION", "decode", "encode", "half", "kind_of", "raw"]

VERSION = 1  # of the meta data and the blocks; a page of another one is refused

# Type of a block -> NumPy's, little-endian on every machine.
TYPES = {"u8": "<u1", "u16": "<u2", "u32": "<u4", "f16": "<f2", "f32": "<f4", "f64": "<f8"}
_NAMES = {np.dtype(value): name for name, value in TYPES.items()}


def kind_of(array: npt.NDArray[Any]) -> str:
    """The name of an array's type."""
    return _NAMES[array.dtype.newbyteorder("<")]


def raw(array: npt.NDArray[Any]) -> bytes:
    """The numbers one after the other, little-endian."""
    return array.astype(TYPES[kind_of(array)], copy=False).tobytes()


def encode(array: npt.NDArray[Any]) -> tuple[str, str]:
    """-> (type, text)."""
    return kind_of(array), base64.b64encode(_deflate(raw(array))).decode("ascii")


def decode(kind: str, text: str) -> npt.NDArray[Any]:
    """The numbers of :func:`encode`, in one dimension."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text), -15), TYPES[kind])


def half(values: npt.ArrayLike) -> npt.NDArray[np.float16]:
    """float16; what is beyond its range becomes its largest number."""
    most = float(np.finfo(np.float16).max)
    return np.asarray(np.clip(np.asarray(values), -most, most), np.float16)


def _deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()
