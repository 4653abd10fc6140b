"""Copies of collections that other threads change, and finalizers."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TypeVar

__all__ = ["snapshot"]

T = TypeVar("T")


def snapshot(items: Iterable[T]) -> list[T]:
    """What is in a deque or a weak set now. A copy says RuntimeError where the original grows meanwhile, as by another
    thread, or by a finalizer in a collection that the copy sets off."""
    while True:
        with suppress(RuntimeError):
            return list(items)
