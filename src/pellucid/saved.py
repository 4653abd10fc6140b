"""Contexts in files: the contents of a sequence, with what proves that they are intact and of the same model.

The layout of a file: MAGIC; the header's length (uint32); the header, JSON; then the ids (int32) and the pages, as they
lie in memory. Numbers are little-endian. The header, the ids and each page are each followed by their BLAKE2b digest,
which includes their place in the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any, BinaryIO

import numpy as np

from pellucid import _engine
from pellucid.core import Core
from pellucid.errors import ModelFileError, os_reason
from pellucid.weights.base import open_regular
from pellucid.weights.writer import whole_file

__all__ = ["identity", "read", "read_cached", "write"]

MAGIC = b"PLContxt"
VERSION = 1
DIGEST = 32
MOST_HEADER = 64 << 20


def write(path: str, core: Core, sequence: _engine.Sequence, ids: list[int], root: str | None = None) -> None:
    """Writes a sequence and its ids, the last of which may not be in the sequence. root: for a sequence of the prefix
    cache, its key there. A file of this name is replaced only when the new one is complete. Raises ModelFileError if
    the file cannot be written."""
    with whole_file(path) as file:
        for part in _parts(core, sequence, ids, root):
            file.write(part)


def _parts(core: Core, sequence: _engine.Sequence, ids: list[int], root: str | None) -> Iterator[Any]:
    pages = sequence.pages()
    header = json.dumps(
        {
            "version": VERSION,
            "model": identity(core),
            "ids": len(ids),
            "length": sequence.length,
            "extents": sequence.extents(),
            "pages": [size for _, size in pages],
            **({} if root is None else {"root": root}),
        }
    ).encode()
    first = MAGIC + struct.pack("<I", len(header)) + header
    yield first
    yield _digest(0, first)
    stored = np.array(ids, "<i4").tobytes()
    yield stored
    yield _digest(1, stored)
    for place, block in enumerate(sequence.blocks(), 2):
        yield block
        yield _digest(place, block)


def _digest(place: int, data: Any) -> bytes:
    found = hashlib.blake2b(struct.pack("<Q", place), digest_size=DIGEST)
    found.update(data)
    return found.digest()


def identity(core: Core) -> dict[str, str]:
    """What must be equal for pages of one model to be usable by another."""
    return {
        "pellucid": sys.modules["pellucid"].__version__,  # already imported, since it imports this module
        "architecture": core.config.architecture,
        "isa": core.open().info()["isa"],
        "kv": core.facts.kv,
        "precision": core.facts.precision,
        "plan": _plan(core),
        "weights": _weights(core),
    }


def _plan(core: Core) -> str:
    """A digest of the operations and their numbers, without the matrices."""
    plan = core.open().plan
    found = hashlib.blake2b(digest_size=DIGEST)
    tables = (plan.ops, plan.buffers, plan.segments, plan.caches, plan.states)
    shapes = [(m.name, m.rows, m.k, m.type) for m in plan.matrices]
    ropes = [r._replace(freq=np.empty(0)) for r in plan.ropes]
    found.update(repr((plan.vocab, plan.dim, tables, ropes, shapes)).encode())
    for values in (*(v.data for v in plan.vectors), *(r.freq for r in plan.ropes)):
        array = np.ascontiguousarray(values, np.float64)
        found.update(struct.pack("<Q", array.size))
        found.update(array.tobytes())
    return found.hexdigest()


def _weights(core: Core) -> str:
    """A digest of all matrices; computed once, at about 1 GB a second."""
    if core.weights_digest is None:
        found = hashlib.blake2b(digest_size=DIGEST)
        engine = core.open()

        def add(data: memoryview) -> None:
            found.update(struct.pack("<Q", data.nbytes))
            found.update(data)

        for i, _ in enumerate(engine.plan.matrices):
            engine.read_matrix(i, add)
        core.weights_digest = found.hexdigest()
    return core.weights_digest


# ---- reading --------------------------------------------------------------------------------------------------------


def read(path: str, core: Core) -> tuple[_engine.Sequence, list[int]]:
    """-> (a sequence, its ids), after the whole file has been verified. Raises ModelFileError if the file cannot be
    read, is damaged, or is from another model, version or setting; OutOfMemoryError."""
    try:
        with open(open_regular(path, "a saved context")[0], "rb") as file:
            return _Reader(path, file, core).read()
    except OSError as error:
        raise ModelFileError(os_reason(error), file=path) from None


def read_cached(path: str, core: Core) -> tuple[_engine.Sequence, list[int], str]:
    """As `read`, for a sequence of the prefix cache: returns its key there, too. The file must be a regular one. Raises
    OSError if it cannot be read, perhaps only for now."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ModelFileError("not a regular file", file=path)
        reader = _Reader(path, file, core)
        sequence, ids = reader.read()
        if not ids or sequence.length != len(ids) or not isinstance(reader.root, str):
            raise ModelFileError("not from a prefix cache", file=path)
        return sequence, ids, reader.root


class _Reader:
    def __init__(self, path: str, file: BinaryIO, core: Core) -> None:
        self._file, self._core, self._size = file, core, os.fstat(file.fileno()).st_size
        self._error = partial(ModelFileError, file=path)
        self.root: Any = None

    def read(self) -> tuple[_engine.Sequence, list[int]]:
        header = self._header()
        self.root = header.get("root")
        n, length = self._sizes(header)
        sequence = _engine.Sequence(self._core.decoder())
        pages = header.get("pages")
        ids = self._ids(n, pages)
        try:
            sequence.restore(length, _extents(header.get("extents")))
        except (ValueError, OverflowError):
            raise self._error("impossible for this model", field="extents") from None
        try:
            if pages != [size for _, size in sequence.pages()]:
                raise self._error("impossible for this model", field="pages")
            self._fill(sequence)
        except BaseException:  # its traceback may keep the sequence alive
            sequence.rewind(0)
            raise
        return sequence, ids

    def _fill(self, sequence: _engine.Sequence) -> None:
        for place, page in enumerate(sequence.blocks(), 2):
            with page:
                if self._file.readinto(page) != page.nbytes:  # type: ignore[attr-defined]
                    raise self._error("the file ends within a page", offset=self._file.tell())
                self._check(place, page, f"pages[{place - 2}]")

    def _take(self, n: int, field: str) -> bytes:
        data = self._file.read(n)
        if len(data) != n:
            raise self._error("the file ends here", field=field, offset=self._file.tell(), expected=f"{n} bytes")
        return data

    def _check(self, place: int, data: Any, field: str) -> None:
        if self._take(DIGEST, field) != _digest(place, data):
            raise self._error("damaged: its digest is another", field=field, offset=self._file.tell() - DIGEST)

    def _header(self) -> dict[str, Any]:
        start = self._file.read(len(MAGIC) + 4)
        if start[: len(MAGIC)] != MAGIC or len(start) < len(MAGIC) + 4:
            raise self._error("not a saved context", expected=f"a file that begins with {MAGIC.decode()}")
        (n,) = struct.unpack("<I", start[len(MAGIC) :])
        if n > min(MOST_HEADER, self._size):
            raise self._error("impossible", field="header", expected=f"at most {MOST_HEADER} bytes")
        data = self._take(n, "header")
        self._check(0, start + data, "header")
        try:
            header = json.loads(data)
        except (ValueError, RecursionError):
            raise self._error("not JSON", field="header") from None
        if not isinstance(header, dict) or type(header.get("version")) is not int:
            raise self._error("has no version", field="header")
        if header["version"] != VERSION:
            raise self._error(f"={header['version']}", field="version", expected=f"{VERSION}")
        found, own = header.get("model"), identity(self._core)
        if not isinstance(found, dict):
            raise self._error("missing", field="model")
        for name, value in own.items():
            if found.get(name) != value:
                shown = "" if name in ("plan", "weights") else f"{found.get(name)!r:.80}, and the model has {value!r}"
                raise self._error(shown or "those of another model", field=f"model.{name}")
        return header

    def _sizes(self, header: dict[str, Any]) -> tuple[int, int]:
        n, length, most = header.get("ids"), header.get("length"), self._core.context_length
        if type(n) is not int or n < 0:
            raise self._error("impossible", field="ids", expected="their number")
        if n > most + 1:
            raise self._error(f"{n} tokens", field="ids", expected=f"at most {most + 1}, by the context of this model")
        if type(length) is not int or not 0 <= length <= n:
            raise self._error("impossible", field="length", expected=f"0 to {n}")
        if length > most:
            raise self._error(
                f"{length} tokens", field="length", expected=f"at most {most}, by the context of this model"
            )
        return n, length

    def _ids(self, n: int, pages: Any) -> list[int]:
        if not isinstance(pages, list) or any(type(size) is not int or size < 0 for size in pages):
            raise self._error("impossible", field="pages", expected="sizes in bytes")
        end = self._file.tell() + 4 * n + DIGEST + sum(pages) + len(pages) * DIGEST
        if self._size != end:
            raise self._error(f"the file has {self._size} bytes", expected=f"{end}")
        data = self._take(4 * n, "ids")
        self._check(1, data, "ids")
        ids: list[int] = np.frombuffer(data, "<i4").tolist()
        if ids and not 0 <= min(ids) <= max(ids) < self._core.config.vocab:
            raise self._error("not ids of the model", field="ids", expected=f"0 to {self._core.config.vocab - 1}")
        return ids


def _extents(given: Any) -> list[tuple[int, int, int, list[int]]]:
    """Raises ValueError."""
    out = []
    for one in given if isinstance(given, list) else [None]:
        if not isinstance(one, list) or len(one) != 4 or not isinstance(one[3], list):
            raise ValueError
        if any(type(n) is not int for n in (*one[:3], *one[3])):
            raise ValueError
        out.append((one[0], one[1], one[2], one[3]))
    return out
