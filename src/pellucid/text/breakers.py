"""Finds the tokens that end a repetition, for the DRY penalty."""

from __future__ import annotations

from collections.abc import Callable, Iterable

__all__ = ["Breakers"]


class Breakers:
    """Marks tokens that contain a sequence breaker, or complete one that began in earlier tokens.

    ``piece``: the bytes of an id (a tokenizer's ``piece``). A breaker is found however the text is cut into tokens.
    Tokens are given in order, in one call or in several.
    """

    __slots__ = ("_piece", "_tail", "_tail_bytes", "_texts")

    def __init__(self, piece: Callable[[int], bytes], texts: Iterable[str]) -> None:
        self._piece = piece
        self._texts = [text.encode("utf-8", "surrogatepass") for text in texts]
        self._tail_bytes = max((len(text) for text in self._texts), default=1) - 1  # bytes of an incomplete breaker
        self._tail = b""

    def marks(self, ids: Iterable[int]) -> bytes:
        """One byte per id: 1 if it is marked, else 0."""
        out = bytearray()
        for id in ids:
            known = len(self._tail)
            text = self._tail + self._piece(id)
            out.append(any(text.find(t, max(0, known - len(t) + 1)) >= 0 for t in self._texts))
            self._tail = text[max(0, len(text) - self._tail_bytes) :]
        return bytes(out)
