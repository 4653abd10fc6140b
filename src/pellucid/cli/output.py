"""Writing to stdout and stderr, and reporting a failed run."""

from __future__ import annotations

import errno
import json
import os
import select
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, TextIO

from pellucid.errors import MOST, one_line

__all__ = [
    "UsageError",
    "aside",
    "can_ask",
    "columns",
    "confirmed",
    "document",
    "end_line",
    "error",
    "fail",
    "flush",
    "forget_stdout",
    "is_terminal",
    "line",
    "note",
    "prepare",
    "sentence",
    "shown",
    "table",
    "typed_line",
    "visible",
    "write",
]

# Format characters that writing systems, emoji and hyphenation need, and that neither hide text nor reorder much of it:
# soft hyphen, zero-width (non-)joiner, left-to-right, right-to-left and Arabic letter marks, Arabic number signs.
_KEPT = "\n\t\u00ad\u061c\u200c\u200d\u200e\u200f\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u08e2"


class UsageError(Exception):
    """A wrong command line: exit code 2."""


_LEAST_ROOM = 20  # columns for the last column of a table of three or more, unless its cells need fewer

_open_line = False  # the last character written to stdout was not a line end


def prepare() -> None:
    """Makes stdout and stderr accept any text: characters that the encoding lacks become "?"; file names keep their
    bytes."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            utf8 = (stream.encoding or "").lower().replace("-", "") == "utf8"
            # Generated text has no surrogates; a file's name may have some, which represent its bytes.
            errors = "surrogateescape" if utf8 else "replace"
            stream.reconfigure(errors=errors if stream is sys.stdout else "backslashreplace")


def _stdout() -> TextIO:
    if sys.stdout is None:
        raise OSError(errno.EBADF, "standard output is closed")
    return sys.stdout


class _Escapes(dict[int, str]):
    """For str.translate: maps each character to what is written to a terminal."""

    def __missing__(self, code: int) -> str:
        import unicodedata

        character = chr(code)
        unsafe = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in _KEPT
        self[code] = repr(character)[1:-1] if unsafe else character
        return self[code]


_ESCAPES = _Escapes()


def visible(text: str) -> str:
    """Text that is safe to write to a terminal: characters that control it, or that hide or reorder the text around
    them, are escaped, as in "\\x1b". Newline, tab and characters that writing systems need stay. Each character is
    judged alone, so that it does not matter how text is cut into pieces."""
    return text.translate(_ESCAPES)


def is_terminal() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def write(text: str, *, styled: bool = False) -> None:
    """Writes text to stdout and flushes it; on a terminal it is made :func:`visible`. styled: it already is, and has
    colours."""
    global _open_line
    if text:
        out = _stdout()
        out.write(visible(text) if out.isatty() and not styled else text)
        out.flush()
        _open_line = not text.endswith("\n")


def line(text: str) -> None:
    """Writes a line (or several) to stdout."""
    write(text + "\n")


def document(value: Any) -> None:
    """Writes one JSON document to stdout, in ASCII, so that every encoding can hold it."""
    line(json.dumps(value, indent=2, allow_nan=False).replace("\x7f", "\\u007f"))


def aside(text: str) -> None:
    """Writes text to stderr and flushes it."""
    if text and sys.stderr is not None:
        sys.stderr.write(visible(text) if sys.stderr.isatty() else text)
        sys.stderr.flush()


def end_line(*, interrupted: bool = False) -> None:
    """Ends an open line on a terminal, so that what follows starts on a new one. A pipe of its own is left as it is.

    interrupted: the terminal shows ^C at the end of the line.
    """
    if sys.stdout is not None and (sys.stdout.isatty() or _same_file()):
        if _open_line or interrupted:
            write("\n")
    elif interrupted and sys.stderr is not None and sys.stderr.isatty():
        note("")


def _same_file() -> bool:
    """Whether stdout and stderr go to the same file or pipe (2>&1)."""
    try:
        return sys.stderr is not None and os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())
    except (OSError, ValueError):
        return False


def flush() -> None:
    """Flushes stdout, so that an error of writing appears while it can still be reported."""
    if sys.stdout is not None:
        sys.stdout.flush()


def forget_stdout() -> None:
    """Discards what is left in stdout's buffer, so that Python ends quietly."""
    if sys.stdout is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def note(text: str) -> None:
    """Writes a line (or several) to stderr; on a terminal it is made :func:`visible` and wrapped between words."""
    if sys.stderr is not None and sys.stderr.isatty():
        text = _folded(text)
    _to_stderr(text)


def error(message: str) -> None:
    """Writes what went wrong as a single line to stderr."""
    _to_stderr(f"pellucid: {shown(message)}")


def _to_stderr(text: str) -> None:
    if sys.stderr is not None:
        try:
            sys.stderr.write((visible(text) if sys.stderr.isatty() else text) + "\n")
            sys.stderr.flush()
        except OSError:  # stderr is closed; the exit code still reports the error
            pass


def sentence(text: str) -> None:
    """Writes a sentence to stdout; on a terminal it is wrapped between words."""
    line(_folded(text) if is_terminal() else text)


def _folded(text: str) -> str:
    """Lines wrapped between words to the terminal's width, with their indentation."""
    wrapper = textwrap.TextWrapper(columns(), break_long_words=False, break_on_hyphens=False)
    folded = []
    for part in visible(text).split("\n"):
        wrapper.subsequent_indent = part[: len(part) - len(part.lstrip(" "))]
        folded.append(wrapper.fill(part))
    return "\n".join(folded)


def can_ask() -> bool:
    """Whether a question can be asked: stdin is a terminal, and stderr is open."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr is not None


def confirmed(question: str) -> bool:
    """Asks on the terminal; anything but y or yes is no. False, without asking, if :func:`can_ask` is."""
    if not can_ask():
        return False
    sys.stderr.write(f"{visible(question)} [y/N] ")
    sys.stderr.flush()
    return typed_line().strip().lower() in ("y", "yes")


def typed_line() -> str:
    """The next line typed on the terminal, "" at its end; bytes that are not text become surrogates.

    Waits a tenth of a second at a time, since a Ctrl-C just before a blocking read would be noticed only after it;
    reads a byte at a time, so that none waits in a buffer that `select` does not see.
    """
    typed = bytearray()
    while not typed.endswith(b"\n"):
        if select.select([sys.stdin], [], [], 0.1)[0]:
            byte = os.read(sys.stdin.fileno(), 1)
            if not byte:
                break
            typed += byte
    return typed.decode(sys.stdin.encoding, "surrogateescape")


def fail(message: str, code: int) -> int:
    """Prints what went wrong as one line, and returns the exit code."""
    try:
        end_line()
        flush()
    except OSError:
        forget_stdout()
    error(message)
    return code


def shown(message: str) -> str:
    """A message, which may quote a file or a server, as one printable line. With "pellucid: " before it, it is at most
    as long as an error may be."""
    return one_line(" ".join(message.split()), MOST - len("pellucid: "))


def columns() -> int:
    """Width of the terminal; 80 without one."""
    return shutil.get_terminal_size((80, 24)).columns


def table(rows: Sequence[Sequence[str]], *, right: tuple[int, ...] = (), gap: int = 2, named: bool = True) -> None:
    """Writes a table to stdout, as wide as the terminal (80 columns elsewhere); the last column is folded. If that
    leaves it no room, the first column has lines of its own, above the others; if that is not enough, each cell has a
    line, after its column's name.

    A row of one cell is a heading. named: the first row of several cells has the columns' names, and so has the first
    one after an empty heading. right: columns of numbers. gap: spaces between columns. Control characters in cells are
    always escaped.
    """
    rows = [[visible(cell).replace("\n", "\\n").replace("\t", "\\t") for cell in row] for row in rows]
    full = [row for row in rows if len(row) > 1]
    widths = [max(map(len, column)) for column in list(zip(*full, strict=True))[:-1]]
    taken = [width + gap for width in widths]
    longest = max(len(row[-1]) for row in full)
    apart = len(widths) > 1 and columns() - sum(taken) < min(_LEAST_ROOM, longest)
    listed = apart and columns() - sum(taken[1:]) - gap < min(_LEAST_ROOM // 2, longest)
    names: Sequence[str] = []
    for row in rows:
        if len(row) == 1:
            line(row[0])
            names = names if row[0] else []
        elif listed and named and not names:
            names = row
        elif listed:
            line(row[0])
            for name, cell in zip(names[1:] or [""] * len(widths), row[1:], strict=True):
                if cell:
                    _row([" " * (gap - 1), *filter(None, [name])], cell, 1)
        else:
            cells = [
                c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row[:-1], widths, strict=True))
            ]
            if apart:
                line(row[0])
                cells[0] = ""
            _row(cells, row[-1], gap)


def _row(cells: list[str], last: str, gap: int) -> None:
    before = "".join(cell + " " * gap for cell in cells)
    first, *more = textwrap.wrap(last, max(columns() - len(before), 10), break_on_hyphens=False) or [""]
    line((before + first).rstrip())
    for text in more:
        line(" " * len(before) + text)
