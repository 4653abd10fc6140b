"""Importance files ("imatrix"): for each matrix, the mean squares of the inputs that its columns were multiplied by.

Two formats are read: GGUF files with `NAME.in_sum2` (sums of squares) and `NAME.counts` (rows summed, for each expert),
and the older binary file. The first is written. Source: llama.cpp's tools/imatrix (facts only).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pellucid.errors import ModelFileError, os_reason
from pellucid.weights.base import open_regular, read_file
from pellucid.weights.gguf import open_gguf
from pellucid.weights.writer import Planned, Value, write_gguf

__all__ = ["Importance", "read_importances", "write_importances"]

_EXPECTED = "an importance file: GGUF of the type imatrix, or the older .dat"
_SUMS, _COUNTS = ".in_sum2", ".counts"
_MOST_BYTES = 1 << 30  # of a file in the older format
_MOST_ENTRIES, _LONGEST_NAME = 1 << 20, 1024


class Importance(NamedTuple):
    """The importance of one matrix. ``sums``: (experts, k) float32, sums of squares of the inputs; experts is 1 for
    other matrices. ``counts``: (experts,) float32, rows summed."""

    sums: npt.NDArray[np.float32]
    counts: npt.NDArray[np.float32]

    def means(self) -> npt.NDArray[np.float32]:
        """(experts, k): mean squares; ones for an expert that no row reached.

        A column that was always zero gets a millionth of the mean, since its weights have no other criterion.
        """
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            means = self.sums / self.counts[:, None]
            means[~(self.counts > 0)] = 0
            level = means.mean(axis=1, keepdims=True)
        means = np.where(level > 0, np.maximum(means, level * np.float32(1e-6)), np.float32(1))
        return means.astype(np.float32)


def read_importances(path: str | os.PathLike[str]) -> dict[str, Importance]:
    """Name of a tensor -> its importance. Raises ModelFileError for anything but an importance file."""
    path = os.fsdecode(path)
    fd, _ = open_regular(path, _EXPECTED)
    try:
        magic = os.read(fd, 4)
    except OSError as error:
        raise ModelFileError(os_reason(error), file=path) from None
    finally:
        os.close(fd)
    found = _read_gguf(path) if magic == b"GGUF" else _read_dat(path)
    if not found:
        raise ModelFileError("no importances", file=path, expected=_EXPECTED)
    for name, (sums, counts) in found.items():
        if not (np.isfinite(sums).all() and (sums >= 0).all() and np.isfinite(counts).all() and (counts >= 0).all()):
            raise ModelFileError("a sum or count that is negative or not finite", file=path, field=name)
        if not np.isfinite(found[name].means()).all():
            raise ModelFileError("a mean that is not finite", file=path, field=name)
    return found


def _read_gguf(path: str) -> dict[str, Importance]:
    with open_gguf(path) as file:
        if file.get_str("general.type", "") != "imatrix":
            raise ModelFileError("a GGUF file of another type", file=path, field="general.type", expected="imatrix")
        found = {}
        for name, tensor in file.tensors.items():
            if not name.endswith(_SUMS):
                continue
            own = name.removesuffix(_SUMS)
            counts = file.tensor(own + _COUNTS)
            for one in (tensor, counts):
                if one.type != "F32":
                    message = f"a tensor in {one.type}"
                    raise ModelFileError(message, file=path, field=one.name, offset=one.offset, expected="F32")
            sums = tensor.data.view(np.float32).reshape(-1, tensor.shape[-1])
            number = counts.data.view(np.float32)
            if number.size != len(sums):
                message = f"{number.size} counts for {len(sums)} experts"
                raise ModelFileError(message, file=path, field=counts.name, offset=counts.offset)
            found[own] = Importance(sums, number)
        return found


class _Bytes:
    def __init__(self, path: str) -> None:
        self.path, self.raw, self.at = path, read_file(path, _MOST_BYTES, _EXPECTED), 0

    def take(self, n: int, field: str) -> bytes:
        if n < 0 or n > len(self.raw) - self.at:
            message = f"{n} bytes, {len(self.raw) - self.at} remain"
            raise ModelFileError(message, file=self.path, field=field, offset=self.at, expected=_EXPECTED)
        self.at += n
        return self.raw[self.at - n : self.at]

    def number(self, field: str, most: int) -> int:
        (n,) = struct.unpack("<i", self.take(4, field))
        if not 0 <= n <= most:
            expected = f"0 to {most}" if self.at > 4 else f"0 to {most}, as in {_EXPECTED}"
            raise ModelFileError(f"it is {n}", file=self.path, field=field, offset=self.at - 4, expected=expected)
        return int(n)


def _read_dat(path: str) -> dict[str, Importance]:
    """Number of entries; of each: name, calls, number of values, values: mean squares times calls."""
    file = _Bytes(path)
    found = {}
    for i in range(file.number("entries", _MOST_ENTRIES)):
        field = f"entries[{i}]"
        try:
            name = file.take(file.number(f"{field}.name", _LONGEST_NAME), f"{field}.name").decode()
        except UnicodeDecodeError:
            raise ModelFileError("not UTF-8", file=path, field=f"{field}.name", expected=_EXPECTED) from None
        calls = max(file.number(f"{field}.calls", 1 << 30), 1)
        n = file.number(f"{field}.values", 1 << 28)
        values = np.frombuffer(file.take(4 * n, f"{field}.values"), "<f4")
        if n == 0 or name in found:
            what = "no values" if n == 0 else "a second entry of this name"
            raise ModelFileError(what, file=path, field=name, offset=file.at, expected=_EXPECTED)
        found[name] = Importance(values.reshape(1, -1).astype(np.float32), np.array([calls], np.float32))
    return found


def write_importances(
    path: str | os.PathLike[str],
    found: Mapping[str, Importance],
    *,
    datasets: Sequence[str] = (),
    chunk_size: int = 0,
    chunks: int = 0,
) -> int:
    """Writes a GGUF importance file -> its bytes. datasets: names of the texts; chunk_size: tokens of each of the
    `chunks` parts that they were run in. Raises ModelFileError if it cannot be written."""
    metadata = {
        "general.type": Value("string", "imatrix"),
        "imatrix.datasets": Value("array of string", list(datasets)),
        "imatrix.chunk_count": Value("uint32", chunks),
        "imatrix.chunk_size": Value("uint32", chunk_size),
    }
    tensors = []
    for name in sorted(found):
        sums, counts = (np.ascontiguousarray(part, np.float32) for part in found[name])
        shape = (len(sums), sums.shape[1]) if len(sums) > 1 else (1, sums.shape[1])
        tensors += [
            Planned(name + _SUMS, "F32", shape, lambda sums=sums: [sums.reshape(-1).view(np.uint8)]),  # type: ignore[misc]
            Planned(name + _COUNTS, "F32", (len(sums), 1), lambda counts=counts: [counts.view(np.uint8)]),  # type: ignore[misc]
        ]
    return write_gguf(path, metadata, tensors)
