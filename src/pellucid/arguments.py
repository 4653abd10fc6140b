"""Checks of what is asked of a model: errors that name the argument and say what was expected."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pellucid import _engine

if TYPE_CHECKING:
    from pellucid.weights.store import Progress


def check_ids(ids: Any, name: str, vocab: int, *, empty: bool = False) -> list[int]:
    """A list of token ids below vocab."""
    if isinstance(ids, (bytes, bytearray)) or not hasattr(ids, "__iter__"):
        raise TypeError(f"{name} must be a list of token ids, not {type(ids).__name__}")
    out = []
    for i, id in enumerate(ids):
        if isinstance(id, (bool, float)) or not hasattr(id, "__index__"):
            raise TypeError(f"{name}[{i}] must be a token id, not {type(id).__name__}")
        try:
            value = id.__index__()
        except TypeError:  # an array of several
            raise TypeError(f"{name}[{i}] must be a token id, not {type(id).__name__}") from None
        if not 0 <= value < vocab:
            raise ValueError(f"{name}[{i}]={value}: token ids go from 0 to {vocab - 1} (vocabulary size {vocab})")
        out.append(value)
    if not out and not empty:
        raise ValueError(f"{name} is empty: expected at least one token")
    return out


def several(value: Any) -> bool:
    """Whether it is a list of prompts or sequences, not one of ids. (An array of one id can be an index too.)"""
    if not isinstance(value, (list, tuple)) or not value:
        return False
    return hasattr(value[0], "__len__") or not hasattr(value[0], "__index__")


def positive(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name}={value}: expected at least 1")
    return value


def threads(asked: Any) -> tuple[int, str]:
    """How many threads, and why."""
    if asked is not None:
        return _at_most_1024("threads", positive("threads", asked)), "asked for"
    text = os.environ.get("PELLUCID_THREADS", "")
    if text:
        if not text.isdecimal() or len(text) > 9 or int(text) < 1:
            raise ValueError(f"PELLUCID_THREADS={text!r:.60}: expected a number from 1 to 1024")
        return _at_most_1024("PELLUCID_THREADS", int(text)), "PELLUCID_THREADS"
    return _engine.topology()


def _at_most_1024(name: str, n: int) -> int:
    if n > 1024:
        raise ValueError(f"{name}={n}: expected at most 1024")
    return n


def resolve(source: Any, progress: Progress | None) -> str:
    """A path from a path or a model's name."""
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"source must be a path or a catalogue name, not {type(source).__name__}")
    text = os.fspath(source)
    if not text:
        raise ValueError("source is empty: expected a path or a catalogue name")
    if isinstance(source, str) and not os.path.exists(text):
        from pellucid.weights import catalog

        return str(catalog.resolve(text, progress=progress))
    return os.fsdecode(text)
