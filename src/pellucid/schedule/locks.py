"""Locks and events that are safe even if a finalizer or a signal handler runs at any point.

Order: first a Request's turn to read; then its lock, or that of the scheduler, but never both.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sized
from contextlib import suppress
from typing import Any

__all__ = ["After", "Signal", "acquire"]


class Signal:
    """An event for a single waiter, which a finalizer may set, whatever it interrupted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def is_set(self) -> bool:
        return not self._lock.locked()

    def set(self) -> None:
        with suppress(RuntimeError):  # it is already set
            self._lock.release()

    def clear(self) -> None:
        self._lock.acquire(blocking=False)

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until it is set, and clears it -> whether it was."""
        return self._lock.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX))


class After:
    """Lets whoever releases a lock do what others could not do while it was held, so that nobody has to wait. Used as
    ``with after, lock``. The lock's own methods take and release it, because no signal handler can run between these
    and the block; a handler may run, and raise, wherever a Python function begins, and after each call in it.

    left: what is to be done; sweep: a method of the lock's owner that does it, as far as the lock is free.
    """

    __slots__ = ("_left", "_sweep")

    def __init__(self, left: Sized, sweep: weakref.WeakMethod[Callable[[], None]]) -> None:
        self._left = left
        self._sweep = sweep

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        if self._left and (sweep := self._sweep()) is not None:
            sweep()


def acquire(taken: list[bool], lock: Any, *arguments: Any) -> None:
    """``lock.acquire(*arguments)``, whose result is appended to a list, so that whoever releases the lock knows that it
    was taken even if a signal handler raises immediately afterwards."""
    taken.extend(map(lock.acquire, *([one] for one in arguments)))
