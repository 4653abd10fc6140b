"""A progress bar for downloading and packing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pellucid.cli.output import note
from pellucid.weights.store import size

__all__ = ["progress"]

_NARROW = 60  # columns; on narrower terminals, only the first word of the description is shown
_DUMB = ("dumb", "unknown")  # terminals that erase nothing: the bar would leave a line behind
_PATIENCE = 0.5  # seconds; shorter work shows no bar, and does not import the library that draws it


@contextmanager
def progress(first: str = "", say: Callable[[str], None] = note) -> Iterator[Callable[[int, int, str], None] | None]:
    """Yields a callback (bytes done, total bytes, description), or None if stderr is not a terminal that can erase a
    line and `first` is empty. The bar disappears at the end. first: a line for `say` when the work begins."""
    shows = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") not in _DUMB
    if not (shows or first):
        yield None
        return
    bar = _Bar(first, shows, say)
    try:
        yield bar.show
    finally:
        bar.stop()


class _Bar:
    def __init__(self, first: str, shows: bool, say: Callable[[str], None]) -> None:
        self._first = first
        self._say = say
        self._shows = shows
        self._start = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def show(self, done: int, total: int, what: str) -> None:
        if self._first:
            self._say(self._first)
            self._first = ""
        if self._bar is None:
            if not self._shows or time.monotonic() - self._start < _PATIENCE or done >= total:
                return
            self._open()
        if self._bar.console.width < _NARROW:
            what = what.partition(" ")[0]
        counts = f"{size(done)} of {size(total)}"
        self._bar.update(self._task, description=what, completed=done, total=max(total, 1), bytes=counts)
        self._bar.start()

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        # A description, a bar, and bytes in the units of the announcement.
        columns = (TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.fields[bytes]}"))
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True, expand=True)
        self._task = self._bar.add_task("", total=None, bytes="")

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
