"""Checks of the arguments of a model's methods."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pellucid import _engine, checks
from pellucid.errors import ArgumentError, WrongType, WrongValue

if TYPE_CHECKING:
    from pellucid.weights.store import Progress

MOST_THREADS = 1024


def check_ids(ids: Any, name: str, vocab: int, *, empty: bool = False) -> list[int]:
    """A list of token ids below vocab. name: the argument, or a part of it, as in "ids[3]"."""
    argument, bracket, rest = name.partition("[")
    part = bracket + rest
    if isinstance(ids, (bytes, bytearray)) or not hasattr(type(ids), "__iter__") or getattr(ids, "ndim", 1) == 0:
        raise WrongType(argument, f"{part} must be a list of token ids, not {type(ids).__name__}")
    out = []
    for i, id in enumerate(ids):
        try:
            out.append(checks.integer(argument, id, 0, vocab - 1, at=f"{part}[{i}]"))
        except WrongType:
            found = f"{part}[{i}] must be a token id, not {type(id).__name__}"
            raise WrongType(argument, found) from None
        except WrongValue:
            limits = f"token ids go from 0 to {vocab - 1} (vocabulary size {vocab})"
            raise WrongValue(argument, f"{part}[{i}]={checks.shown(id)}: {limits}") from None
    if not out and not empty:
        raise WrongValue(argument, f"{part} is empty: expected at least one token")
    return out


def wrong_part(kind: type[ArgumentError], name: str, found: str) -> ArgumentError:
    """The error for an argument or a part of it, as in "prompt[3]"."""
    argument, bracket, rest = name.partition("[")
    return kind(argument, bracket + rest + found)


def several(value: Any) -> bool:
    """Whether it is a list of prompts or sequences, not one of ids. (An array of one id can be an index too.)"""
    if not isinstance(value, (list, tuple)) or not value:
        return False
    return hasattr(value[0], "__len__") or not hasattr(value[0], "__index__")


def threads(asked: Any) -> tuple[int, str]:
    """How many threads, and why."""
    if asked is not None:
        return checks.integer("threads", asked, 1, MOST_THREADS), "asked for"
    text = os.environ.get("PELLUCID_THREADS", "")
    if text:
        if not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= MOST_THREADS:
            raise checks.wrong_value("PELLUCID_THREADS", text, f"a number from 1 to {MOST_THREADS}")
        return int(text), "PELLUCID_THREADS"
    return _engine.topology()


def resolve(source: Any, progress: Progress | None) -> str:
    """A path from a path or a model's name."""
    if not isinstance(source, (str, os.PathLike)):
        raise WrongType("source", f" must be a path or a catalogue name, not {type(source).__name__}")
    text = os.fsdecode(source)
    if not text:
        raise WrongValue("source", " is empty: expected a path or a catalogue name")
    if isinstance(source, str) and not os.path.exists(text):
        from pellucid.weights import catalog

        return str(catalog.resolve(text, progress=progress))
    return os.fsdecode(text)
