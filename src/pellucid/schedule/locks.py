"""What threads wait for, where a finalizer or a signal's handler may come between.

Order: a Request's turn to read; then its lock, or that of the scheduler, which nobody holds together with it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sized
from contextlib import suppress
from typing import Any

__all__ = ["After", "Signal", "acquire"]


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

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until it is set, and clears it -> whether it was."""
        return self._lock.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX))


class After:
    """What others could not do while a lock was held is done by who releases it, so that nobody has to wait: used as
    ``with after, lock``. The lock's own methods take and release it, for a signal's handler cannot run between these
    and the block; it may, and raise, wherever a function of Python begins, and after each that it calls.

    left: what is to be done; sweep: does it, as far as the lock is free, of who has the lock.
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
    """``lock.acquire(*arguments)``, whose result is added to a list, so that who releases the lock knows of it though a
    signal's handler raises as soon as that is taken."""
    taken.extend(map(lock.acquire, *([one] for one in arguments)))
