"""Calls of Rust packages that let other threads run meanwhile.

When the interpreter exits, it ends each daemon thread, as soon as that thread returns to Python, by unwinding its
stack. Rust's frames do not survive that: the process crashes. So the exit waits for such calls, and no new ones begin.
"""

from __future__ import annotations

import atexit
import os
import threading
import time

__all__ = ["native"]


class _Native:
    """Used as ``with native:`` around a call. Raises SystemExit, which ends a thread quietly, if the interpreter is
    exiting."""

    def __init__(self) -> None:
        self._depths: dict[int, int] = {}  # of nested calls, by thread
        self._ends: int | None = None  # the thread that runs the exit: its own calls go on, as from atexit's functions

    def __enter__(self) -> None:
        me = threading.get_ident()
        depth = self._depths.get(me, 0)
        self._depths[me] = depth + 1  # set before checking whether the interpreter is exiting
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
        """Waits for the calls of other threads, and keeps new ones from beginning."""
        self._ends = threading.get_ident()
        while any(one != self._ends for one in list(self._depths)):
            time.sleep(0.001)

    def after_fork(self) -> None:
        """In the child, which has only this thread."""
        me = threading.get_ident()
        self._depths = {me: self._depths[me]} if me in self._depths else {}


native = _Native()
atexit.register(native.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=native.after_fork)
