"""Calls of packages in Rust that let other threads run meanwhile.

When the interpreter ends, it ends each daemon thread as soon as that wants to run Python again, by unwinding its stack.
Rust's frames do not survive that: the process crashes. So the end waits for such calls, and none begins after it.
"""

from __future__ import annotations

import atexit
import os
import threading
import time

__all__ = ["native"]


class _Native:
    """``with native:`` around a call. SystemExit, which ends a thread quietly, where the interpreter ends."""

    def __init__(self) -> None:
        self._depths: dict[int, int] = {}  # of threads in calls
        self._ends: int | None = None  # the thread that ends the interpreter: its calls go on, as in atexit's functions

    def __enter__(self) -> None:
        me = threading.get_ident()
        depth = self._depths.get(me, 0)
        self._depths[me] = depth + 1  # before it looks whether the interpreter ends
        if not depth and self._ends not in (None, me):
            del self._depths[me]
            raise SystemExit

    def __exit__(self, *_: object) -> None:
        me = threading.get_ident()
        depth = self._depths[me] - 1
        if depth:
            self._depths[me] = depth
        else:
            del self._depths[me]

    def end(self) -> None:
        """Waits for the calls of other threads, and keeps them from beginning others."""
        self._ends = threading.get_ident()
        while any(one != self._ends for one in list(self._depths)):
            time.sleep(0.001)

    def after_fork(self) -> None:
        """In the child, which has no thread but this."""
        me = threading.get_ident()
        self._depths = {me: self._depths[me]} if me in self._depths else {}


native = _Native()
atexit.register(native.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=native.after_fork)
