"""Copies of collections that other threads and finalizers change."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TypeVar

__all__ = ["snapshot"]

T = TypeVar("T")


def snapshot(items: Iterable[T]) -> list[T]:
    """A list of what is in a deque or a weak set. Copying raises RuntimeError if the original grows meanwhile, through
    another thread or through a finalizer in a garbage collection that the copy triggers; then it is repeated."""
    while True:
        with suppress(RuntimeError):
            return list(items)
