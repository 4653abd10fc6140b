"""Checks of arguments, one per kind of value. They raise ``WrongType`` or ``WrongValue`` naming the argument.

`argument` is its name; `at` is the part in question, as in "[3]". Values may be of any class, even one whose conversion
raises; the result is a plain ``int``, ``float``, ``bool`` or ``str``.
"""

from __future__ import annotations

import math
import numbers
import operator
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from pellucid.errors import WrongType, WrongValue, shown

__all__ = ["choice", "file_name", "flag", "integer", "items", "number", "shown", "string", "wrong_type", "wrong_value"]

MOST_INT32 = 2**31 - 1
MOST_FLOAT32 = float(np.finfo(np.float32).max)
MOST_ITEMS = 2**20  # of a sequence; more than any vocabulary has, so that an endless iterator is refused


def wrong_type(argument: str, value: object, expected: str, at: str = "") -> WrongType:
    return WrongType(argument, f"{at}={shown(value)}: expected {expected}, not {type(value).__name__}")


def wrong_value(argument: str, value: object, expected: str, at: str = "") -> WrongValue:
    return WrongValue(argument, f"{at}={shown(value)}: expected {expected}")


def integer(argument: str, value: Any, low: float, high: float = math.inf, *, at: str = "") -> int:
    """An integer in [low, high]: an int, a NumPy integer or anything else with __index__, but not a bool."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        found = int.__int__(operator.index(value))  # a subclass of int may override __int__
    except Exception:
        raise wrong_type(argument, value, "an integer", at) from None
    if not low <= found <= high:
        raise wrong_value(argument, value, _range(found, low, high), at)
    return found


def number(argument: str, value: Any, low: float = -MOST_FLOAT32, high: float = MOST_FLOAT32, *, at: str = "") -> float:
    """A finite number in [low, high], by default the range of float32. -0.0 becomes 0.0."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise wrong_type(argument, value, "a number", at)
    try:
        found = float.__float__(value) if isinstance(value, float) else float(value)
    except OverflowError:
        found = math.inf
    except Exception:
        raise wrong_type(argument, value, "a number", at) from None
    if not math.isfinite(found) or not low <= found <= high:
        raise wrong_value(argument, value, _range(found, low, high), at)
    return found + 0.0


def _range(found: float, low: float, high: float) -> str:
    if high in (math.inf, MOST_INT32, MOST_FLOAT32) and found < low:
        return f"at least {low:g}"
    if high == math.inf:
        return f"at least {low}"
    if high == MOST_FLOAT32:
        return "a finite number" if low == -MOST_FLOAT32 else f"a finite number of at least {low:g}"
    return f"{low} to {high}"


def flag(argument: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise wrong_type(argument, value, "True or False")
    return bool(value)


def string(argument: str, value: Any, expected: str = "a string", *, at: str = "") -> str:
    if not isinstance(value, str):
        raise wrong_type(argument, value, expected, at)
    return str.__str__(value)


def choice(argument: str, value: Any, allowed: Iterable[str]) -> str:
    """One of the allowed names."""
    names = [repr(name) for name in allowed]
    expected = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
    found = string(argument, value, expected)
    if repr(found) not in names:
        raise wrong_value(argument, value, expected)
    return found


def file_name(path: Any, argument: str = "path", what: str = "file") -> str:
    """The path of a file or folder as text."""
    if not isinstance(path, (str, os.PathLike)):
        raise WrongType(argument, f" must be the path of a {what}, not {type(path).__name__}")
    name = os.fsdecode(path)
    if not name or "\0" in name:
        raise WrongValue(argument, f"={shown(name)}: expected the path of a {what}")
    return name


def items(argument: str, value: Any, expected: str, most: int = MOST_ITEMS) -> Iterator[tuple[str, Any]]:
    """Yields (place, item) for each item of an iterable other than text, bytes or a mapping; place: as in "[3]"."""
    if isinstance(value, (str, bytes, bytearray, Mapping)) or not hasattr(type(value), "__iter__"):
        raise wrong_type(argument, value, expected)
    try:
        iterator = iter(value)
    except Exception:  # an array with no dimensions, or the caller's class
        raise wrong_type(argument, value, expected) from None
    for i, item in enumerate(islice(iterator, most)):
        yield f"[{i}]", item
    if next(iterator, iterator) is not iterator:
        raise WrongValue(argument, f" has more than {most} items")
