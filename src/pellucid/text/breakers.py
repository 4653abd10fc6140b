"""Where text that ends a repetition stands among tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable

__all__ = ["Breakers"]


class Breakers:
    """Marks tokens that hold a sequence breaker, or the end of one that began in tokens before.

    ``piece``: the bytes that an id stands for (a tokeniser's ``piece``). How text was cut into tokens makes no
    difference, but that all of a token is marked. Tokens come in order, in one call or several.
    """

    __slots__ = ("_piece", "_tail", "_tail_bytes", "_texts")

    def __init__(self, piece: Callable[[int], bytes], texts: Iterable[str]) -> None:
        self._piece = piece
        self._texts = [text.encode("utf-8", "surrogatepass") for text in texts]
        self._tail_bytes = max((len(text) for text in self._texts), default=1) - 1  # that may begin a breaker
        self._tail = b""

    def marks(self, ids: Iterable[int]) -> bytes:
        """A byte per id: 1 for a marked one, else 0."""
        out = bytearray()
        for id in ids:
            known = len(self._tail)
            text = self._tail + self._piece(id)
            out.append(any(text.find(t, max(0, known - len(t) + 1)) >= 0 for t in self._texts))
            self._tail = text[max(0, len(text) - self._tail_bytes) :]
        return bytes(out)
