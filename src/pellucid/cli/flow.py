"""Prints text as it is generated; on a terminal, lines break between words."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

from pellucid.cli import output

__all__ = ["Flow"]

_NO_BREAK = "\u00a0\u202f"
_JOINER = "\u200d"
_TAB = 8


class Flow:
    """Writes pieces of text to stdout: unchanged to a pipe, wrapped between words on a terminal.

    On a terminal a word is held back until it is complete; leaving the ``with`` block writes the last one. A word
    longer than a line is broken by the terminal itself.
    """

    def __init__(self, write: Callable[[str], None] | None = None, columns: Callable[[], int] = output.columns) -> None:
        """write: writes text; default: to stdout. columns: returns the width of the terminal."""
        self._wraps = write is not None or output.is_terminal()
        self._write = write or output.write
        self._columns = columns
        self._column = 0  # the cursor's; equal to the width if the line is full
        self._blanks = ""  # between the last word written and the next
        self._word = ""
        self._width = 0  # of the word
        self._long = False  # the word is longer than a line, and its beginning has been written

    def __enter__(self) -> Flow:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def write(self, text: str) -> None:
        if not self._wraps:
            self._write(text)
            return
        out: list[str] = []
        most = max(self._columns(), 1)
        for character in output.visible(text):
            if character == "\n":
                self._flush(out, most)
                out.append("\n")
                self._column, self._blanks = 0, ""
            elif _is_blank(character):
                self._flush(out, most)
                self._blanks += character
            else:
                self._add(character, out, most)
        self._write("".join(out))

    def end(self) -> None:
        """Writes the text that is held back."""
        if self._word or self._blanks:
            out: list[str] = []
            self._flush(out, max(self._columns(), 1))
            self._write("".join(out) + self._blanks)
            self._column += len(self._blanks)
            self._blanks = ""

    def _add(self, character: str, out: list[str], most: int) -> None:
        width = _width(character)
        if self._word and _may_break(self._word[-1], character):
            self._flush(out, most)
        if self._long:
            out.append(character)
            self._column = self._column + width if self._column + width <= most else width
            return
        self._word += character
        self._width += width
        if self._width > most:
            self._flush(out, most)
            self._long = True

    def _flush(self, out: list[str], most: int) -> None:
        """Writes the word with the blanks before it, or on a line of its own."""
        self._long = False
        if not self._word:
            return
        blanks = _expanded(self._blanks, self._column)
        if self._column + len(blanks) + self._width > most and self._column + len(blanks) > 0:
            if self._column:
                out.append("\n")
            blanks, self._column = "", 0
        out.append(blanks + self._word)
        self._column += len(blanks) + self._width
        if self._column > most:
            self._column = (self._column - 1) % most + 1
        self._blanks, self._word, self._width = "", "", 0


def _expanded(blanks: str, column: int) -> str:
    """Blanks with tabs expanded to spaces; column: where they begin."""
    return (" " * column + blanks).expandtabs(_TAB)[column:]


def _is_blank(character: str) -> bool:
    return character in " \t" or (unicodedata.category(character) == "Zs" and character not in _NO_BREAK)


def _width(character: str) -> int:
    """Columns of a character: 2 for wide East Asian characters and emoji, 0 for marks."""
    if character.isascii():
        return 1
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _may_break(before: str, after: str) -> bool:
    """Whether a line may break between two characters without a blank: next to wide ones, as in languages written
    without blanks, but not before closing or after opening punctuation."""
    if before == _JOINER or _width(after) == 0 or _width(before) == 0:
        return False
    if _width(before) < 2 and _width(after) < 2:
        return False
    opens, closes = ("Ps", "Pi"), ("Pe", "Pf", "Po", "Lm")
    return unicodedata.category(before) not in opens and unicodedata.category(after) not in closes
