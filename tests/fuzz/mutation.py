"""Mutations of bytes and JSON values that often break parsers."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

__all__ = ["exercise", "mangled", "number", "text", "varied"]

NUMBERS = [0, 1, 2, 3, 7, 31, 32, 63, 64, 127, 255, 256, 1 << 15, (1 << 16) - 1, 1 << 20, (1 << 31) - 1, 1 << 31]
NUMBERS += [(1 << 32) - 1, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
FLOATS = [0.0, -0.0, 1.0, 1e-45, 1e-30, 0.5, 1e30, 3.5e38, 1e308, float("inf"), float("-inf"), float("nan")]
TEXTS = [
    "",
    "a",
    "\0",
    "\n",
    "\x1b]0;x\x07",
    "\u202e",
    "\ud800",
    "é" * 300,
    "a" * 5000,
    "<s>",
    "..",
    "/etc/passwd",
    "-1",
]


def number(rng: random.Random) -> int:
    """An integer near a limit, of either sign."""
    found = rng.choice(NUMBERS) + rng.choice((0, 0, 0, -1, 1))
    return -found if rng.random() < 0.2 else found


def text(rng: random.Random) -> str:
    return rng.choice(TEXTS)


def mangled(rng: random.Random, data: bytes, first: int = 0, last: int | None = None) -> bytes:
    """Bytes with a few places changed between `first` and `last`, or cut off."""
    last = len(data) if last is None else min(last, len(data))
    if rng.random() < 0.1:
        return data[: rng.randint(first, last)]
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if last <= first:
            break
        at = min(rng.randrange(first, last), len(out) - 1)
        kind = rng.randrange(4)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at : at + 8] = (number(rng) & (1 << 64) - 1).to_bytes(8, "little")
        elif kind == 2:
            out[at : at + rng.randint(1, 32)] = bytes([rng.choice((0, 0x7F, 0x80, 0xFF))]) * rng.randint(1, 32)
        else:
            out[at:at] = out[at : at + rng.randint(1, 64)]
    return bytes(out)


def varied(rng: random.Random, value: Any) -> Any:
    """A JSON value with one place in it changed. Lists and tables are copied on the way to it."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        out = dict(value)
        kind = rng.random()
        if kind < 0.1:
            del out[key]
        elif kind < 0.15:
            out[text(rng)] = out.pop(key)
        elif kind < 0.25:
            out[key] = out[rng.choice(list(out))]
        else:
            out[key] = varied(rng, value[key])
        return out
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        changed = varied(rng, value[at])
        return rng.choice(
            (
                [*value[:at], changed, *value[at + 1 :]],
                value[:at] + value[at + 1 :],
                value * rng.choice((2, 50)) if len(value) < 2000 else value[:at],
                [*value, value],
            )
        )
    return rng.choice(
        (
            None, True, False, number(rng), rng.choice(FLOATS), text(rng), [], {},
            [number(rng)] * rng.choice((1, 3, 999)), str(value),
            -value if isinstance(value, (int, float)) else [value], {"a": value},
        )
    )  # fmt: skip


def exercise(*calls: Callable[[], object]) -> None:
    """Makes all calls; at the end, raises the first error that Pellucid raised on purpose."""
    from pellucid.errors import PellucidError

    first: Exception | None = None
    for call in calls:
        try:
            call()
        except (PellucidError, ValueError, TypeError) as error:
            first = first or error
    if first is not None:
        raise first
