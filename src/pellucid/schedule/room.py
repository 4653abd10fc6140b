"""How much memory requests need and how much there is, so that those that fit are admitted."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from pellucid.core import Core
from pellucid.errors import ClosedError, ContextFullError, OutOfMemoryError

__all__ = ["MOST_TOGETHER", "NeverFits", "Room", "cache_bytes_used"]

PAGE = 64  # tokens
MOST_TOGETHER = 64  # sequences of a call in a pass: each takes a page, or copies one, whatever its number of rows


def cache_bytes_used(core: Core) -> int:
    """Bytes of keys and values that sequences of a model hold, those of its views included."""
    total = 0
    for one in (core, *core.views()):
        with suppress(ClosedError):  # closed by another thread
            total += one.engine.info()["cache_bytes_used"]
    return total


class NeverFits(OutOfMemoryError):
    """A sequence has `tokens` tokens, but the limit leaves room for at most `available`, whatever else runs."""

    _fields = ("needed", "tokens", "available")

    def __init__(self, message: str, *, needed: int, tokens: int, available: int) -> None:
        super().__init__(message, needed=needed)
        self.tokens, self.available = tokens, available


class Room:
    """The memory of a model's keys and values."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.limit = core.facts.cache_limit
        plan = core.engine.plan
        self._caches = plan.caches
        self._state = sum(4 * g.n_layers * g.layer.floats for g in plan.states)

    def need(self, tokens: int, rows: int = 0) -> int:
        """Bytes that a sequence of so many tokens takes at least; with rows, during its last pass, of so many rows."""
        kv = self._core.facts.kv
        # A pass reads one block of states, and writes another.
        return sum(g.held_bytes(tokens, kv, rows) for g in self._caches) + min(tokens, 2) * self._state

    def beside(self, tokens: int, shared: int) -> int:
        """Bytes that a sequence of so many tokens takes at least beside the one that it was forked from. shared: their
        common tokens, whose whole pages are counted once; of windows' pages and states it soon has its own."""
        whole = not self._state and all(cache.window == 0 for cache in self._caches)
        return self.need(tokens) - (self.need(shared // PAGE * PAGE) if whole else 0)

    def most(self, lengths: Sequence[int], rows: int) -> int:
        """Bytes that sequences of so many tokens take at most at a time if each is dropped when it is done, and passes
        of so many rows compute one after the other. If they were forked, what they share is not counted."""
        if not lengths:
            return 0
        some = self.need(max(lengths), rows) + self.need(min(rows, sum(lengths)), rows)
        return some + min(len(lengths), MOST_TOGETHER) * self.need(1)

    def check_call(self, lengths: Sequence[int]) -> None:
        """Raises NeverFits if a sequence of a call exceeds the limit by itself even in passes of few rows: beside
        others it may get no more. The last token is not counted, as its row may not be needed."""
        tokens = max(lengths, default=1) - 1
        if self.limit is not None and self.need(tokens) > self.limit:
            text = f"the cache is full: cache_bytes={self.limit} has no room for {tokens} tokens"
            raise NeverFits(text, needed=self.need(tokens), tokens=tokens + 1, available=self._most() + 1)

    def _most(self) -> int:
        """The most tokens with which a sequence fits by itself."""
        most = 0
        for step in (1 << i for i in reversed(range(31))):
            if self.need(most + step) <= (self.limit or 0):
                most += step
        return most

    def fewer(self, depth: int, rows: int) -> int:
        """Rows of a pass that may fit if one of `rows` does not, for a sequence of `depth` tokens; `rows` itself: none
        does. A window keeps what the rows of a pass see, so a pass of fewer rows needs less."""
        passed = any(group.window and depth + rows > group.window for group in self._caches)
        return rows // 2 if passed and rows > 1 else rows

    def rows(self, depth: int, rows: int) -> int:
        """With how many of so many rows a pass fits by itself."""
        while self.limit is not None and self.need(depth + rows, rows + 63) > self.limit:  # it may begin in a page
            fewer = self.fewer(depth, rows)
            if fewer == rows:
                break
            rows = fewer
        return rows

    def free(self) -> int:
        """Bytes that sequences may still take, beside those of the model's views."""
        return (self.limit or 0) - cache_bytes_used(self._core)

    def check(self, name: str, prompt: int, max_tokens: float | None) -> None:
        """Raises ContextFullError if a prompt of so many tokens exceeds the limit by itself, or with one new token if
        more than one may follow. name: of the argument."""
        tokens = prompt + (max_tokens is None or max_tokens > 1)
        if max_tokens != 0 and self.limit is not None and self.need(tokens) > self.limit:
            raise ContextFullError(f"{name} exceeds cache_bytes={self.limit}", needed=tokens, available=self._most())
