"""Text out of tokens as they come: whole characters only, and nothing of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable

__all__ = ["TextStream"]


class TextStream:
    """Turns ids into text that may be shown at once.

    ``piece``: the bytes that an id stands for (a tokeniser's ``piece``). ``stop``: strings that end the text (one
    alone may be given as a ``str``). A character is held back until all of its bytes are there, and an end of the
    text until it can no longer begin a stop string. The first stop string to be complete wins, of those that are
    complete with the same character the longest; how the text was cut into tokens makes no difference.

    Without a stop, what ``push`` and ``flush`` return is, joined, the joined pieces decoded as UTF-8 with U+FFFD for
    what is none. No space is dropped at the start: the text continues another.

    ``stopped``: the stop string that was met, or None. Raises ``ValueError`` for an empty stop string, ``TypeError``
    for one that is no string.
    """

    __slots__ = ("_decode", "_held", "_piece", "_stops", "stopped")

    def __init__(self, piece: Callable[[int], bytes], stop: Iterable[str] = ()) -> None:
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        for one in stops:
            if not isinstance(one, str):
                raise TypeError(f"stop must hold strings, not {type(one).__name__}")
            if not one:
                raise ValueError("stop must not hold an empty string")
        self._piece = piece
        self._stops = stops
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._held = ""
        self.stopped: str | None = None

    def push(self, id: int) -> str:
        """Text that is safe to show now that ``id`` came; often ``""``. Always ``""`` after a stop."""
        if self.stopped is not None:
            return ""
        return self._advance(self._decode(self._piece(id)), last=False)

    def flush(self) -> str:
        """All that was held back; an incomplete character becomes U+FFFD. The generation is over."""
        if self.stopped is not None:
            return ""
        return self._advance(self._decode(b"", True), last=True)

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
        """Length of the longest end of ``text`` that a stop string begins with."""
        longest = max(map(len, self._stops)) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return size
        return 0
