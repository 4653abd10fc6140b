"""Checks of the arguments of a model's methods."""

from __future__ import annotations

from typing import Any

from pellucid import checks
from pellucid.errors import ArgumentError, WrongType, WrongValue

__all__ = ["check_ids", "several", "wrong_part"]


def check_ids(ids: Any, name: str, vocab: int, *, empty: bool = False) -> list[int]:
    """The ids as a list of integers in 0 .. vocab - 1. name: of the argument, or a part of it, as in "ids[3]". Raises
    WrongType, WrongValue."""
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
    """An error about an argument or a part of it, as in "prompt[3]"."""
    argument, bracket, rest = name.partition("[")
    return kind(argument, bracket + rest + found)


def several(value: Any) -> bool:
    """Whether it is a list of prompts or sequences, not a list of ids. Some ids also have __index__: NumPy arrays of
    one element."""
    if not isinstance(value, (list, tuple)) or not value:
        return False
    return hasattr(value[0], "__len__") or not hasattr(value[0], "__index__")
