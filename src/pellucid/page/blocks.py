"""Named arrays as text in a page. static/source.js reads them.

For numbers of several bytes, the first bytes of all numbers come first, then the second bytes, and so on; if that is
shorter, each number is first replaced by its difference from the one before, with its bits read as an integer. Bytes
that resemble their neighbours, such as weights, can be divided into eight groups by the size of the byte before:
deflate then uses separate codes for each group. Then follow raw deflate and base 85, five letters for four bytes, which
adds a quarter where base64 adds a third.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["TYPES", "VERSION", "decode", "encode", "half", "kind_of", "raw"]

VERSION = 2  # of the metadata and the blocks; a page of any other version is refused

# Type of a block -> NumPy's, little-endian on every machine.
TYPES = {"u8": "<u1", "u16": "<u2", "u32": "<u4", "f16": "<f2", "f32": "<f4", "f64": "<f8"}
GROUPS = 8
_GROUP = np.array([min(code.bit_length(), GROUPS - 1) for code in range(256)], np.uint8)  # of the byte after each byte
_WHOLE = {2: "<u2", 4: "<u4"}
# Printable ASCII without characters that have a meaning in HTML, a string or a template.
_LETTERS = np.array([code for code in range(33, 127) if chr(code) not in "\"&'<=>\\`~"], np.uint8)
_NAMES = {np.dtype(value): name for name, value in TYPES.items()}


def kind_of(array: npt.NDArray[Any]) -> str:
    """The name of an array's type."""
    return _NAMES[array.dtype.newbyteorder("<")]


def raw(array: npt.NDArray[Any]) -> bytes:
    """The numbers in order, little-endian."""
    return array.astype(TYPES[kind_of(array)], copy=False).tobytes()


def encode(array: npt.NDArray[Any], *, grouped: bool = False) -> tuple[str, str]:
    """-> (type, text). For differences, the type is that of the numbers followed by " delta"; for bytes in groups, if
    `grouped` requests them, "u8 grouped"."""
    if grouped:
        return "u8 grouped", _letters(_deflate(*_groups(np.ravel(array)), strategy=zlib.Z_RLE))
    kind, numbers = kind_of(array), np.ravel(array).astype(TYPES[kind_of(array)], copy=False)
    packed = _deflate(_planes(numbers))
    if numbers.itemsize in _WHOLE and len(numbers):
        whole = numbers.view(_WHOLE[numbers.itemsize])
        differences = _deflate(_planes(np.diff(whole, prepend=whole.dtype.type(0))))
        if len(differences) < len(packed):
            kind, packed = f"{kind} delta", differences
    return kind, _letters(packed)


def decode(kind: str, text: str) -> npt.NDArray[Any]:
    """The numbers of :func:`encode`, in one dimension."""
    name, _, how = kind.partition(" ")
    kept, packed = np.dtype(TYPES[name]), zlib.decompress(_bytes(text), -15)
    if how == "grouped":
        return _ungrouped(packed)
    data = np.frombuffer(packed, np.uint8).reshape(kept.itemsize, -1)
    numbers = np.frombuffer(data.T.tobytes(), kept)
    if how == "delta":
        whole = numbers.view(_WHOLE[kept.itemsize])
        numbers = np.cumsum(whole, dtype=whole.dtype).view(kept)
    return numbers


def _planes(numbers: npt.NDArray[Any]) -> bytes:
    return numbers.view(np.uint8).reshape(-1, numbers.itemsize).T.tobytes()


def _groups(numbers: npt.NDArray[np.uint8]) -> list[bytes]:
    """The sizes of the groups (uint32), then each group."""
    before = np.concatenate([np.zeros(min(len(numbers), 1), np.uint8), numbers[:-1]])
    group = _GROUP[before]
    parts = [numbers[group == i] for i in range(GROUPS)]
    return [np.array([len(part) for part in parts], "<u4").tobytes(), *(part.tobytes() for part in parts)]


def _ungrouped(data: bytes) -> npt.NDArray[np.uint8]:
    sizes = np.frombuffer(data, "<u4", GROUPS)
    at: list[int] = (4 * GROUPS + np.cumsum(sizes) - sizes).tolist()
    group, byte, out = _GROUP.tolist(), 0, bytearray(int(sizes.sum()))
    for i in range(len(out)):
        g = group[byte]
        out[i] = byte = data[at[g]]
        at[g] += 1
    return np.frombuffer(bytes(out), np.uint8)


def _letters(data: bytes) -> str:
    """Five letters for four bytes, most significant first; for the last n < 4 bytes, n + 1 letters."""
    rest = -len(data) % 4
    left = np.frombuffer(data + bytes(rest), ">u4").astype(np.uint32)
    digits = np.empty((len(left), 5), np.uint8)
    for i in range(4, -1, -1):
        left, digits[:, i] = np.divmod(left, np.uint32(85))
    return _LETTERS[digits].tobytes()[: 5 * len(digits) - rest].decode("ascii")


def _bytes(text: str) -> bytes:
    rest = -len(text) % 5
    codes = np.frombuffer(text.encode("ascii") + b"}" * rest, np.uint8)
    digits = np.searchsorted(_LETTERS, codes).reshape(-1, 5).astype(np.uint64)
    whole = digits @ np.array([85**4, 85**3, 85**2, 85, 1], np.uint64)
    data = whole.astype(">u4").tobytes()
    return data[: len(data) - rest]


def half(values: npt.ArrayLike) -> npt.NDArray[np.float16]:
    """float16; values beyond its range become its largest number."""
    most = float(np.finfo(np.float16).max)
    return np.asarray(np.clip(np.asarray(values), -most, most), np.float16)


def _deflate(*parts: bytes, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    """Compresses each part with its own codes."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -15, 9, strategy)
    found = [packer.compress(part) + packer.flush(zlib.Z_BLOCK) for part in parts[:-1]]
    return b"".join([*found, packer.compress(parts[-1]), packer.flush()])
