"""Exports traces: to files, pandas and BertViz."""

from __future__ import annotations

import json
import math
import os
import zipfile
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from pellucid import checks
from pellucid.errors import MOST, one_line, shown
from pellucid.look.recorded import AXES, PREDICTIONS, Array, Recorded, Token
from pellucid.weights.base import check_regular
from pellucid.weights.writer import whole_file

__all__ = ["bertviz", "load", "save", "table", "to_pandas"]

VERSION = 1


def save(trace: Recorded, path: str, compressed: bool = False) -> None:
    """``Trace.save``: writes arrays under their names, everything else as JSON under "meta"."""
    meta = {
        "pellucid_trace": VERSION,
        "name": trace.name,
        "tokens": [[token.id, token.piece, token.bytes.hex()] for token in trace.tokens],
        "layers": trace.layers,
        "heads": trace.heads,
        "positions": trace.positions,
    }
    arrays: dict[str, Any] = {}
    for name, array in trace.arrays.items():
        if isinstance(array, list):  # layers differ: one array each
            arrays |= {f"{name}.{i}": one for i, one in enumerate(array)}
        else:
            arrays[name] = array
    with whole_file(path) as file:
        write = np.savez_compressed if compressed else np.savez
        write(file, meta=np.array(json.dumps(meta)), **arrays)


def load(path: str, vocab: int | None, limit: int) -> Recorded:
    """``Trace.load``. vocab: the vocabulary size of the model, if there is one."""
    where = one_line(path, 200)
    try:
        with open(path, "rb", opener=_at_once) as opened, _archive(path, opened) as file:
            taken = sum(info.file_size for info in file.infolist() if info.compress_type != zipfile.ZIP_STORED)
            if taken > limit:
                raise ValueError(f"its arrays would take {taken:,} bytes, more than limit={limit}")
            meta = json.loads(str(_array(file, "meta")))
            if meta["pellucid_trace"] != VERSION:
                raise ValueError(f"version {meta['pellucid_trace']!r}, expected {VERSION}")
            names = {info.filename.removesuffix(".npy") for info in file.infolist()}
            arrays: dict[str, Array] = {name: _array(file, name) for name in (*AXES, *PREDICTIONS) if name in names}
            for name in {name.removesuffix(".0") for name in names if name.endswith(".0")} & AXES.keys():
                arrays[name] = [_array(file, f"{name}.{i}") for i in range(len(meta["layers"]))]
        tokens = [Token(int(id), str(piece), bytes.fromhex("".join(more))) for id, piece, *more in meta["tokens"]]
        layers, heads, positions = (tuple(int(i) for i in meta[name]) for name in ("layers", "heads", "positions"))
        _check(arrays, len(tokens), len(layers), len(heads), len(positions))
        name = str(meta["name"])
    except OSError:
        raise
    except Exception as e:  # zipfile, zlib and json have many exceptions
        raise ValueError(one_line(f"{where}: not a saved trace ({e})", MOST)) from None
    for token in tokens:
        if vocab is not None and not 0 <= token.id < vocab:
            raise ValueError(f"{where}: token id {shown(token.id)} is not an id of this model")
    return Recorded(tokens, (layers, heads, positions), arrays, name)


def _at_once(path: str, flags: int) -> int:
    """Opens a file; does not block on a FIFO without a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _archive(path: str, opened: IO[bytes]) -> zipfile.ZipFile:
    check_regular(path, os.fstat(opened.fileno()).st_mode, "a saved trace")
    return zipfile.ZipFile(opened)


def _array(file: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    """An array as written by `save`. It takes no more memory than the file declares, which `load` has compared with its
    limit, and, if not compressed, no more than the file's size."""
    info = file.getinfo(f"{name}.npy")
    stored_whole = info.compress_type == zipfile.ZIP_STORED
    if not stored_whole and info.compress_type != zipfile.ZIP_DEFLATED:
        raise ValueError(f"{name} is compressed by a method that traces do not use")
    with file.open(info) as stored:
        if np.lib.format.read_magic(stored) != (1, 0):
            raise ValueError(f"{name} is in a newer format of NumPy")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stored)
        assert file.fp is not None
        held = min(info.file_size, os.fstat(file.fp.fileno()).st_size) if stored_whole else info.file_size
        if math.prod(shape) * dtype.itemsize > held:
            raise ValueError(f"{name} has shape {shape}, more than the file holds")
    with file.open(info) as stored:
        array: npt.NDArray[Any] = np.lib.format.read_array(stored, allow_pickle=False)
    return array


def _check(arrays: dict[str, Array], n: int, layers: int, heads: int, positions: int) -> None:
    known = {"layer": layers, "after": layers + 1, "head": heads, "position": positions, "token": n}
    each = [(name, array) for name, array in arrays.items() if not isinstance(array, list)]
    each += [(name, one[None]) for name, array in arrays.items() if isinstance(array, list) for one in array]
    for name, array in each:
        axes = AXES.get(name, ("position",))
        if isinstance(arrays[name], list):
            axes = ("one", *axes[1:])
        expected = tuple(known.get(axis, size) for axis, size in zip(axes, array.shape, strict=False))
        if array.ndim != len(axes) or array.shape != expected:
            raise ValueError(f"{name} has shape {array.shape}, expected {expected}")
        if array.dtype != (np.int32 if name == "next_rank" else np.float32):
            raise ValueError(f"{name} has type {array.dtype}")


def table(trace: Recorded, quantity: str) -> tuple[list[str], list[list[int]], list[Any], npt.NDArray[Any]]:
    """(names of the index levels, their values, columns, values (rows, columns)) for a kept quantity."""
    array = getattr(trace, quantity)
    if isinstance(array, list):
        raise ValueError(f"quantity={quantity!r}: the traced layers differ in its sizes; trace each kind separately")
    own: dict[str, list[int]] = {
        "layer": list(trace.layers),
        "head": list(trace.heads),
        "position": list(trace.positions),
        "after": [-1, *trace.layers],  # -1: the embeddings
    }
    axes = AXES[quantity]
    values = [own.get(axis, list(range(size))) for axis, size in zip(axes, array.shape, strict=True)]
    return list(axes[:-1]), values[:-1], values[-1], array.reshape(-1, array.shape[-1])


def to_pandas(trace: Recorded, quantity: str) -> Any:
    """``Trace.to_pandas``."""
    quantity = checks.string("quantity", quantity)
    if quantity != "tokens" and quantity not in AXES:
        raise checks.wrong_value("quantity", quantity, f"tokens or one of {', '.join(trace.kept)}")
    try:
        import pandas
    except ImportError:
        raise ImportError("to_pandas needs pandas: pip install pandas") from None
    if quantity == "tokens":
        tokens = [trace.tokens[i] for i in trace.positions]
        columns = {"id": [t.id for t in tokens], "piece": [t.piece for t in tokens]}
        columns |= {name: getattr(trace, name) for name in PREDICTIONS}
        return pandas.DataFrame(columns, index=pandas.Index(trace.positions, name="position"))
    names, levels, last, values = table(trace, quantity)
    index = pandas.MultiIndex.from_product(levels, names=names)
    return pandas.DataFrame(values, index=index, columns=pandas.Index(last, name=AXES[quantity][-1]))


def bertviz(trace: Recorded) -> tuple[tuple[npt.NDArray[np.float32], ...], list[str]]:
    """``Trace.bertviz``."""
    if trace.positions != tuple(range(len(trace))):
        raise ValueError("positions: BertViz needs the attention of all positions")
    tokens = [token.piece or f"<{token.id}>" for token in trace.tokens]
    return tuple(layer[None] for layer in trace.attention), tokens
