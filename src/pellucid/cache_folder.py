"""The prefix cache in a folder, kept from one run of a program to the next.

Each sequence is a file, in a subfolder for its model, version and settings (`saved.identity`). Names are digests of
these and of the tokens. A file's time is that of its last use, so that the least recently used are removed first when
the folder exceeds its limit. A fault of the folder or of a file is not an error: it is logged, and the file is not
used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
import weakref
from array import array
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pellucid import saved
from pellucid.core import Core
from pellucid.errors import OutOfMemoryError, PellucidError, one_line, os_reason
from pellucid.schedule import run
from pellucid.schedule.prefix import common

__all__ = ["load", "save"]

FOLDER = re.compile(r"[0-9a-f]{32}")
FILE = re.compile(r"[0-9a-f]{64}\.sequence")
DRAFT = re.compile(r"\.[0-9a-f]{64}\.sequence\..*\.part")  # left by a process that was killed
STALE = 3600.0  # seconds after which nobody is still writing such a file
ORDER = 1e-4  # seconds between the times of files that are saved together, to record their order
WORTH = 64  # a sequence is written if it has so many tokens that no other file has


Tell = Callable[[str], object]


# The files that this process wrote or read for a model, by its subfolder and their paths, and what they hold.
_known: weakref.WeakKeyDictionary[Core, dict[str, dict[str, tuple[str, array[int]]]]] = weakref.WeakKeyDictionary()


class _File(NamedTuple):
    used: float  # time.time of its last use
    path: str
    size: int


def save(core: Core, folder: str, limit: int, tell: Tell) -> int:
    """Writes the sequences of a model's prefix cache that the folder lacks, the most recently used first. Removes files
    whose tokens another file now has, and the least recently used, so that the folder takes at most `limit` bytes. One
    sequence at a time is kept in memory while it is written. tell: logs a line. -> how many sequences of the model the
    folder then has."""
    now = time.time()
    try:
        own = _own(core, folder)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        os.makedirs(own, mode=0o700, exist_ok=True)
        scheduler = run.of(core)
        kept = scheduler.kept()
        whole = scheduler.reuse is not None and scheduler.reuse.whole
        if whole:
            kept = _worth(kept)
        known = _known.setdefault(core, {}).setdefault(own, {})
        for place, (root, ids) in enumerate(kept):
            used = now - place * ORDER
            path = os.path.join(own, _name(root, ids))
            if not os.path.isfile(path):
                sequence = scheduler.copy(root, ids)
                if sequence is None:
                    continue
                size = _size(ids, sequence)
                if size > limit:
                    continue  # others may fit
                if not _make_room(folder, limit - size, used):
                    break
                saved.write(path, core, sequence, ids, root)
                del sequence
            with contextlib.suppress(FileNotFoundError):  # another process has removed it, as in what follows
                os.utime(path, (used, used))
            if whole:
                _remove_shorter(known, path, root, ids)
        _make_room(folder, limit, now + 1)
        there = {file.path for file in _files(own)}
        for path in known.keys() - there:
            known.pop(path, None)
        return len(there)
    except (OSError, PellucidError) as error:
        tell(f"the prefix cache cannot be written to {one_line(folder, 200)}: {one_line(str(error))}")
        return 0


def load(core: Core, folder: str, tell: Tell) -> int:
    """Loads the sequences that earlier runs wrote to the folder into a model's prefix cache -> how many. Damaged files
    are removed."""
    found: list[tuple[str, list[int], Any]] = []
    limit, size = core.facts.cache_limit if core.prefix_bytes is None else core.prefix_bytes, 0
    try:
        _clean(folder)
        own = _own(core, folder)
        for file in reversed(_files(own)):
            if limit is not None and size + file.size > limit:
                continue  # others may fit
            size += file.size
            try:
                sequence, ids, root = saved.read_cached(file.path, core)
            except OutOfMemoryError:
                break
            except OSError as error:  # too many open files, or another process has removed it
                tell(one_line(f"{file.path}: {os_reason(error)}"))
                continue
            except PellucidError as error:
                tell(one_line(str(error)))
                with contextlib.suppress(OSError):
                    os.unlink(file.path)
                continue
            found.append((root, ids, sequence))
            _known.setdefault(core, {}).setdefault(own, {})[file.path] = root, array("i", ids)
    except (OSError, PellucidError) as error:
        tell(f"the prefix cache cannot be read from {one_line(folder, 200)}: {one_line(str(error))}")
    scheduler = run.of(core)
    for root, ids, sequence in reversed(found):  # the least recently used first
        scheduler.put(root, ids, sequence)
    return len(found)


def _own(core: Core, folder: str) -> str:
    """The subfolder of a model."""
    words = json.dumps(saved.identity(core), sort_keys=True).encode()
    return os.path.join(folder, hashlib.blake2b(words, digest_size=16).hexdigest())


def _name(root: str, ids: list[int]) -> str:
    found = hashlib.blake2b(digest_size=32)
    for part in (root.encode("utf-8", "surrogatepass"), np.array(ids, "<i4").tobytes()):
        found.update(len(part).to_bytes(8, "little") + part)
    return f"{found.hexdigest()}.sequence"


def _worth(kept: list[tuple[str, list[int]]]) -> list[tuple[str, list[int]]]:
    """The sequences that have enough tokens that no earlier one has; all can be rewound to any length."""
    out: list[tuple[str, list[int]]] = []
    for root, ids in kept:
        if len(ids) - max((common(ids, other) for key, other in out if key == root), default=0) >= WORTH:
            out.append((root, ids))
    return out


def _remove_shorter(known: dict[str, tuple[str, array[int]]], path: str, root: str, ids: list[int]) -> None:
    """Removes the files whose tokens are the beginning of this one's, such as a conversation's earlier turns."""
    tokens = array("i", ids)
    for other, (key, shorter) in list(known.items()):
        if other != path and key == root and len(shorter) <= len(tokens) and shorter == tokens[: len(shorter)]:
            known.pop(other, None)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(other)
    known[path] = root, tokens


def _files(folder: str) -> list[_File]:
    """A subfolder's files, the least recently used first."""
    found = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if FILE.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    info = entry.stat(follow_symlinks=False)
                    found.append(_File(info.st_mtime, entry.path, info.st_size))
    return sorted(found)


def _subfolders(folder: str) -> list[str]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        return [e.path for e in entries if FOLDER.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]
    return []


def _size(ids: list[int], sequence: Any) -> int:
    """Bytes of a sequence's file, or a little more."""
    pages: list[tuple[int, int]] = sequence.pages()
    return sum(size for _, size in pages) + 64 * len(pages) + 4 * len(ids) + 4096


def _make_room(folder: str, limit: int, before: float) -> bool:
    """Removes the least recently used files, of those used before a time, until all take at most `limit` bytes ->
    whether they do."""
    files = sorted(file for own in _subfolders(folder) for file in _files(own))
    size = sum(file.size for file in files)
    for file in files:
        if size <= limit or file.used >= before:
            break
        with contextlib.suppress(FileNotFoundError):
            os.unlink(file.path)
        size -= file.size
    return size <= limit


def _clean(folder: str) -> None:
    """Removes files that were never finished."""
    for own in _subfolders(folder):
        with os.scandir(own) as entries:
            for entry in entries:
                if DRAFT.fullmatch(entry.name):
                    with contextlib.suppress(FileNotFoundError):
                        if time.time() - entry.stat(follow_symlinks=False).st_mtime > STALE:
                            os.unlink(entry.path)
