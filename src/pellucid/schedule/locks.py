"""What threads wait for, where a finalizer may come between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sized
from contextlib import suppress
from typing import Any

__all__ = ["Guard", "Signal"]


class Signal:
    """An event for one waiter, which a finalizer may set, whatever it interrupted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def is_set(self) -> bool:
        return not self._lock.locked()

    def set(self) -> None:
        with suppress(RuntimeError):  # it is set
            self._lock.release()

    def clear(self) -> None:
        self._lock.acquire(blocking=False)

    def wait(self, timeout: float | None = None) -> None:
        """Waits until it is set, and clears it."""
        self._lock.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX))


class Guard:
    """A lock. What others could not do while it was held is done by who releases it, so that nobody has to wait.

    left: what is to be done; sweep: does it, as far as `acquire(blocking=False)` lets it.
    """

    __slots__ = ("_left", "_lock", "_sweep")

    def __init__(self, lock: Any, left: Sized, sweep: Callable[[], None]) -> None:
        self._lock = lock
        self._left = left
        self._sweep = sweep

    def acquire(self, blocking: bool = True) -> bool:
        taken: bool = self._lock.acquire(blocking)
        return taken

    def release(self) -> None:
        """Without the sweep."""
        self._lock.release()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()
        if self._left:
            self._sweep()
