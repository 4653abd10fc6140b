"""Where tokens begin in a text."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from pellucid.core import Core

__all__ = ["Offsets"]


class Offsets:
    """Counts the characters of a choice's text, token by token. All tokens of one character begin where it does. A
    special token has no characters, unless the text spells it, as a prompt may."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._at = 0
        self._text, self._next = "", 0  # the last text, and how much of it has been counted
        self._early = 0  # characters that were counted before their text was made

    def add(self, text: str, ids: Sequence[int]) -> list[int]:
        """Where each of these tokens begins. text: the text made with them; some of it may follow later."""
        known = min(self._early, len(text))
        self._early -= known
        self._text, self._next = self._text[self._next :] + text[known:], 0
        return [self._begin(id) for id in ids]

    def _begin(self, id: int) -> int:
        at, piece = self._at, self._core.piece(id)
        shown = self._decoder.decode(piece) if piece else self._core.spell(id)
        if not self._text.startswith(shown, self._next):
            if not piece:
                shown = ""
            elif shown[:1] == " " and self._next < len(self._text) and self._text.startswith(shown[1:], self._next):
                shown = shown[1:]  # the space in front of a text, which a tokenizer added
        self._at += len(shown)
        self._next += len(shown)
        self._early += max(0, self._next - len(self._text))
        self._next = min(self._next, len(self._text))
        return at
