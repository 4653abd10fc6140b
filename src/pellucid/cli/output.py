"""What goes to stdout and stderr, and how a run that fails says so."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, TextIO

from pellucid.errors import one_line

__all__ = [
    "UsageError",
    "document",
    "end_line",
    "fail",
    "flush",
    "forget_stdout",
    "line",
    "note",
    "prepare",
    "shown",
    "table",
    "write",
]


MOST_MESSAGE = 4000  # characters


class UsageError(Exception):
    """A command line that asks for something impossible: exit code 2."""


_open_line = False  # stdout's last character was no line end


def prepare() -> None:
    """Makes stdout and stderr take any text: what an encoding lacks becomes "?", file names pass byte by byte."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            utf8 = (stream.encoding or "").lower().replace("-", "") == "utf8"
            # Generated text has no surrogates; a file's name may have some, which stand for its bytes.
            errors = "surrogateescape" if utf8 else "replace"
            stream.reconfigure(errors=errors if stream is sys.stdout else "backslashreplace")


def _stdout() -> TextIO:
    if sys.stdout is None:
        raise OSError(errno.EBADF, "standard output is closed")
    return sys.stdout


def write(text: str) -> None:
    """Text to stdout, at once."""
    global _open_line
    if text:
        out = _stdout()
        out.write(text)
        out.flush()
        _open_line = not text.endswith("\n")


def line(text: str) -> None:
    """A line (or several) to stdout."""
    write(text + "\n")


def document(value: Any) -> None:
    """One JSON document to stdout, in ASCII: whole whatever the encoding."""
    line(json.dumps(value, indent=2, allow_nan=False))


def end_line(*, interrupted: bool = False) -> None:
    """Ends a line on a terminal, so that what follows starts on its own. In a pipe of its own the text stays as it is.

    interrupted: the terminal shows ^C, after whatever stood there.
    """
    if sys.stdout is not None and (sys.stdout.isatty() or _same_file()):
        if _open_line or interrupted:
            write("\n")
    elif interrupted and sys.stderr is not None and sys.stderr.isatty():
        note("")


def _same_file() -> bool:
    """Whether stdout and stderr go to one file or pipe (2>&1), where lines of both stand below each other."""
    try:
        return sys.stderr is not None and os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())
    except (OSError, ValueError):
        return False


def flush() -> None:
    """Brings out an error of writing now, while it can still be told."""
    if sys.stdout is not None:
        sys.stdout.flush()


def forget_stdout() -> None:
    """Lets what is left in stdout's buffer go nowhere, quietly, when Python ends."""
    if sys.stdout is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def note(text: str) -> None:
    """A line to stderr."""
    if sys.stderr is not None:
        try:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
        except OSError:  # nobody reads it: the exit code remains
            pass


def fail(message: str, code: int) -> int:
    """Says what went wrong, in one line, and returns the exit code."""
    try:
        end_line()
        flush()
    except OSError:
        forget_stdout()
    note(f"pellucid: {shown(message)}")
    return code


def shown(message: str) -> str:
    """A message in one line that no terminal obeys: what files and servers say may be in it."""
    return one_line(" ".join(message.split()), MOST_MESSAGE)


def table(rows: Sequence[Sequence[str]], *, right: tuple[int, ...] = (), gap: int = 2) -> None:
    """A table to stdout, as wide as the terminal (80 columns where there is none): the last column folds.

    A row of one cell is a heading. right: columns of numbers. gap: spaces between columns.
    """
    full = [row for row in rows if len(row) > 1]
    widths = [max(map(len, column)) for column in list(zip(*full, strict=True))[:-1]]
    indent = sum(widths) + gap * len(widths)
    room = max(shutil.get_terminal_size((80, 24)).columns - indent, 20)
    for row in rows:
        if len(row) == 1:
            line(row[0])
            continue
        cells = [
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row[:-1], widths, strict=True))
        ]
        first, *more = textwrap.wrap(row[-1], room, break_on_hyphens=False) or [""]
        line((" " * gap).join([*cells, first]).rstrip())
        for text in more:
            line(" " * indent + text)
