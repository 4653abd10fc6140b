"""What was verified when a model was downloaded, and whether it is still the same.

Beside a model in the cache is a record, ``.NAME.verified``: for each file its size, modification time, SHA-256, and a
fingerprint, the SHA-256 of its first 64 KB and of 16 blocks of 4 KB spread evenly over the rest. Comparing size, time
and fingerprint takes less than a millisecond and detects a file that was cut, replaced or written to. If only the time
differs, as in a copy, every byte is read once and the record is renewed; archives, and so the layers of container
images, store times without fractions of a second, which count as equal. Bits that changed on the disk without a write,
outside of the sampled blocks, are not detected: for that, `pellucid pull` reads every byte.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pellucid.errors import FetchError, one_line

_HEAD = 1 << 16
_BLOCK = 1 << 12
_BLOCKS = 16
_CHUNK = 1 << 20
_MOST_RECORD = 1 << 20  # bytes


@dataclass(frozen=True)
class Seal:
    """A verified file: ``size`` in bytes, ``mtime`` in nanoseconds, both digests in hexadecimal."""

    size: int
    mtime: int
    sha256: str
    fingerprint: str


def digest(path: Path, start: Any = None, show: Callable[[int], None] = lambda done: None) -> str:
    """The hexadecimal digest of a whole file: SHA-256, or that of the hash object ``start``. show: called with the
    bytes read so far."""
    hashed, done = start or hashlib.sha256(), 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            hashed.update(chunk)
            done += len(chunk)
            show(done)
    return str(hashed.hexdigest())


def fingerprint(path: Path, size: int) -> str:
    """The SHA-256 of the file's beginning and of blocks of it, in hexadecimal."""
    hashed = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        hashed.update(file.read(_HEAD))
        for i in range(1, _BLOCKS + 1):
            # Whole pages, which a load reads anyway; the last block ends with the file.
            file.seek(max(0, (size * i // _BLOCKS - _BLOCK) & ~(_BLOCK - 1) if i < _BLOCKS else size - _BLOCK))
            hashed.update(file.read(_BLOCK))
    return hashed.hexdigest()


def seal(path: Path, sha256: str) -> Seal:
    """The seal of a file that was just found to have this SHA-256."""
    stat = os.stat(path)
    return Seal(stat.st_size, stat.st_mtime_ns, sha256, fingerprint(path, stat.st_size))


class Record:
    """The seals of a model's files by name, from its record: none if that is missing or damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seals = _read(path)

    def put(self, name: str, seal: Seal | None) -> None:
        """Writes a seal, or removes it (None). A folder that cannot be written keeps the old record."""
        import json

        self.seals = {key: value for key, value in {**_read(self.path), name: seal}.items() if value is not None}
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
        with suppress(OSError):
            try:
                with open(draft, "w", encoding="ascii") as file:
                    json.dump({key: asdict(value) for key, value in self.seals.items()}, file)
                os.replace(draft, self.path)
            finally:
                draft.unlink(missing_ok=True)

    def is_same(self, file: Path, name: str, sha256: str | None = None) -> bool:
        """Whether a file is still as verified: by its seal, or by every byte if its modification time differs, or if it
        has no seal and its ``sha256`` is known. True for a file about which nothing is known. Raises OSError."""
        known = self.seals.get(name)
        if known is not None and (sha256 is None or known.sha256 == sha256):
            stat = os.stat(file)
            if stat.st_size != known.size or fingerprint(file, stat.st_size) != known.fingerprint:
                return False
            if stat.st_mtime_ns in (known.mtime, known.mtime - known.mtime % 10**9):  # whole seconds: from an archive
                return True
            sha256 = known.sha256
        return sha256 is None or self.verify(file, name, sha256)

    def verify(
        self, file: Path, name: str, sha256: str | None = None, show: Callable[[int], None] = lambda done: None
    ) -> bool:
        """Whether a file has this SHA-256 (else the one of its seal), by reading every byte; its seal is renewed. True
        for a file about which nothing is known; it gets its first seal. Raises OSError."""
        known = self.seals.get(name)
        found = digest(file, show=show)
        if found != (sha256 or (known.sha256 if known else found)):
            return False
        if (new := seal(file, found)) != known:
            self.put(name, new)
        return True


def record_of(folder: Path, name: str) -> Record:
    """The record of the model ``name`` in ``folder``."""
    return Record(folder / f".{name}.verified")


def changed(name: str, file: Path) -> FetchError:
    """The error for a file that has changed since it was verified."""
    return FetchError(
        f"{one_line(str(file), 200)} is damaged, or was changed after it was verified: run"
        f" `pellucid pull {one_line(name, 100)}`, which downloads it again",
        name=name,
    )


def _read(record: Path) -> dict[str, Seal]:
    import json

    try:
        with open(record, "rb") as file:
            entries = json.loads(file.read(_MOST_RECORD))
        seals = {name: Seal(**entry) for name, entry in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
    return {
        name: seal
        for name, seal in seals.items()
        if type(seal.size) is type(seal.mtime) is int
        and all(re.fullmatch(r"[0-9a-f]{64}", str(text)) for text in (seal.sha256, seal.fingerprint))
    }
