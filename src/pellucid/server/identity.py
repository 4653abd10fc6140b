"""system_fingerprint: what an answer depends on besides the request."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

from pellucid.info import ModelInfo
from pellucid.weights.reference import parts_of

__all__ = ["fingerprint"]

PIECES, PIECE = 64, 65_536  # of each file that are hashed


def fingerprint(info: ModelInfo, template: str | None = None) -> str:
    """A hash of the model's files (their sizes, and 64 evenly spaced parts of 64 KiB of each), the library's version,
    how it computes, and a chat template in place of the files' own. All parts of a split file count. The same
    fingerprint, prompt, options and seed give the same answer."""
    from pellucid import __version__

    words = [__version__, info.isa, info.kv, info.precision, info.quantisation]
    digest = hashlib.blake2b(digest_size=8)
    for word in words if template is None else [*words, template]:
        digest.update(str(word).encode() + b"\0")
    for path in _files(info.path):
        _sample(path, digest)
    return f"fp_{digest.hexdigest()}"


def _files(path: str) -> Iterator[str]:
    if not os.path.isdir(path):
        yield from parts_of(path)
        return
    for name in sorted(os.listdir(path)):
        if name.endswith((".json", ".safetensors", ".jinja", ".model", ".txt")):
            yield os.path.join(path, name)


def _sample(path: str, digest: hashlib.blake2b) -> None:
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(size.to_bytes(8, "little"))
            step = max(size // PIECES, PIECE)
            for at in range(0, size, step):
                file.seek(at)
                digest.update(file.read(PIECE))
    except OSError:  # the file was removed after loading
        digest.update(b"\0")
