"""A progress bar for downloading and packing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["progress"]

_PATIENCE = 0.5  # seconds: shorter work shows no bar, and does not import what draws one


@contextmanager
def progress() -> Iterator[Callable[[int, int, str], None] | None]:
    """Yields a callback (bytes done, bytes in all, what), or None where stderr is not a terminal. The bar disappears at
    the end."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    bar = _Bar()
    try:
        yield bar.show
    finally:
        bar.stop()


class _Bar:
    def __init__(self) -> None:
        self._start = time.monotonic()
        self._bar: Any = None
        self._task: Any = None
        self._phase = ""

    def show(self, done: int, total: int, what: str) -> None:
        if self._bar is None:
            if time.monotonic() - self._start < _PATIENCE or done >= total:
                return
            self._open()
        if what != self._phase:
            self._phase = what
            self._bar.update(self._task, description=what)
        self._bar.update(self._task, completed=done, total=max(total, 1))

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=None)
        self._bar.start()

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
