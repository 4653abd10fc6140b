"""Text from tokens as they are generated: whole characters only, and no part of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable
from typing import Protocol

from pellucid.errors import TokenizerError

__all__ = ["TextStream", "spell_out"]


class TextStream:
    """Turns ids into text that can be displayed immediately.

    ``piece``: the bytes of an id (a tokenizer's ``piece``). ``stop``: strings that end the text, or one ``str``. A
    character is held back until all of its bytes have arrived, and the end of the text until it can no longer begin a
    stop string. The stop string that is complete first wins, and the longest of several that are complete at the same
    character; the division of the text into tokens makes no difference.

    Without a stop, the joined results of ``push`` and ``flush`` are the joined pieces decoded as UTF-8, with U+FFFD for
    bytes that are not UTF-8. No space is dropped at the start, because the text continues another.

    ``stopped``: the stop string that was found, or None. ``settled``: how many of the ids pushed so far have all of
    their text shown, and end with a whole character, so that no later stop string can reach into them. ``tail``: the
    text shown after them. Raises ``ValueError`` for an empty stop string, ``TypeError`` for one that is not a string.
    """

    # fmt: off
    __slots__ = (
        "_begun", "_decoded", "_decoder", "_ends", "_held", "_piece", "_shown", "_stops", "settled", "stopped", "tail",
    )
    # fmt: on

    def __init__(self, piece: Callable[[int], bytes], stop: Iterable[str] = ()) -> None:
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        for one in stops:
            if not isinstance(one, str):
                raise TypeError(f"stop must hold strings, not {type(one).__name__}")
            if not one:
                raise ValueError("stop must not hold an empty string")
        self._piece = piece
        self._stops = stops
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun = False  # of a character, whose other bytes are to come
        self._held = ""
        self._decoded = self._shown = 0  # characters
        self._ends: list[
            tuple[int, bool]
        ] = []  # of the ids that are not settled: characters up to there, are they whole
        self.settled = 0
        self.tail = ""
        self.stopped: str | None = None

    def push(self, id: int) -> str:
        """The text that can be shown after ``id``, often ``""``; always ``""`` after a stop."""
        if self.stopped is not None:
            return ""
        new = self._decode(self._piece(id))
        if not self._stops:
            self.settled += 1
            return new
        self._decoded += len(new)
        self._ends.append((self._decoded, not self._begun))
        text = self._advance(new, last=False)
        self._settle(text)
        return text

    def _decode(self, raw: bytes) -> str:
        """The characters completed by these bytes."""
        if not self._begun:
            try:
                return raw.decode()
            except UnicodeDecodeError:  # it begins a character, or is not UTF-8
                pass
        new = self._decoder.decode(raw)
        self._begun = bool(self._decoder.getstate()[0])
        return new

    def flush(self) -> str:
        """Ends the generation: returns the text held back, with U+FFFD for an incomplete character."""
        if self.stopped is not None:
            return ""
        return self._advance(self._decoder.decode(b"", True), last=True)

    def _settle(self, text: str) -> None:
        self._shown += len(text)
        self.tail += text
        for i in range(len(self._ends) - 1, -1, -1):
            end, whole = self._ends[i]
            if whole and end <= self._shown:
                self.settled += i + 1
                self.tail = self.tail[len(self.tail) - (self._shown - end) :]
                del self._ends[: i + 1]
                break

    def _advance(self, new: str, last: bool) -> str:
        if not self._stops:
            return new
        text = self._held + new
        found = [(start + len(stop), start, stop) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            _, start, self.stopped = min(found)
            self._held = ""
            return text[:start]
        keep = 0 if last else self._beginning(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _beginning(self, text: str) -> int:
        """Length of the longest suffix of ``text`` with which a stop string begins."""
        longest = max(map(len, self._stops)) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return size
        return 0


class _Encoder(Protocol):
    def encode(self, text: str, add_special: bool = True) -> list[int]: ...
    def piece(self, id: int) -> bytes: ...


def spell_out(tokenizer: _Encoder, text: str) -> list[int]:
    """Ids whose joined pieces are exactly this text; none if the vocabulary cannot represent it."""
    wanted = text.encode()
    for before in ("", "\n"):  # some vocabularies put a space before the text
        try:
            ids = tokenizer.encode(before + text, add_special=False)
        except TokenizerError:
            return []
        for i in range(len(ids)):
            if b"".join(map(tokenizer.piece, ids[i:])) == wanted:
                return ids[i:]
    return []
