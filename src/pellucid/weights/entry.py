"""What the catalogue knows of a model, and what brings one has to know."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A file inside a wheel. ``wheel_bytes``: the wheel's size, for progress and free space alone."""

    package: str
    version: str
    member: str
    wheel_bytes: int


@dataclass(frozen=True)
class Entry:
    """A model of the catalogue: the bytes of its parts, one after the other, are the file. ``size``: in bytes.

    ``terms``: address of terms of use that must be accepted before the model is fetched; "" where the licence asks
    nothing of who merely uses it.
    """

    name: str
    description: str
    licence: str
    size: int
    sha256: str
    parts: tuple[Part, ...]
    terms: str = ""
