"""An area with every kind of defect, which shows that the harness finds them."""

from __future__ import annotations

import os
import random
import time

from pellucid.errors import PellucidError

__all__ = ["known", "mutate", "run"]

WORDS = (b"abort", b"exit", b"loop", b"sleep", b"key", b"panic", b"memory", b"error", b"unprintable", b"value", b"fine")


class Panic(BaseException):
    """A panic as packages in Rust raise it: not an Exception."""


class Unprintable(PellucidError):
    def __str__(self) -> str:
        return "two\nlines"


def known() -> dict[str, bytes]:
    return {"a known one": b"key"}


def mutate(rng: random.Random) -> bytes:
    return rng.randbytes(20) + rng.choice(WORDS) + rng.randbytes(30)


def run(data: bytes) -> None:
    if b"abort" in data:
        os.write(2, b"thread panicked\n")
        os.abort()
    if b"exit" in data:
        os._exit(0)
    while b"loop" in data:
        pass
    if b"sleep" in data:
        time.sleep(1000)
    if b"key" in data:
        raise KeyError(1)
    if b"panic" in data:
        raise Panic
    if b"memory" in data:
        bytearray(b"x") * (400 << 20)
    if b"error" in data:
        raise PellucidError("as it should be")
    if b"unprintable" in data:
        raise Unprintable
    if b"value" in data:
        raise ValueError("also")
