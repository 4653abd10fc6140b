"""How requests use the prefix cache: what they begin with, which others they wait for, and what they leave.

Used with the scheduler's lock.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pellucid.errors import OutOfMemoryError
from pellucid.schedule.caller import Work
from pellucid.schedule.prefix import PrefixCache, common

__all__ = ["Reuse"]

WORTH = 16  # fewest tokens for which a sequence is kept: a tile of rows
SHARED = 64  # fewest tokens for which a request waits for another, or for which an opening is kept
EVERY = 2048  # tokens of a long prompt after which a sequence is kept, if it cannot be rewound to any length


class Reuse:
    """The prefix cache of an engine. limit: bytes that it may hold; None: as many as the engine has. whole: whether
    sequences can be rewound to any length."""

    __slots__ = ("_cache", "_closed", "_limit", "_whole", "hits", "queries")

    def __init__(self, limit: int | None, *, whole: bool) -> None:
        self._limit, self._whole = limit, whole
        self._closed = False
        self.queries = self.hits = 0  # tokens of prompts that were looked up, and those that were found
        self._cache = PrefixCache(limit, whole=whole)

    @property
    def whole(self) -> bool:
        """Whether sequences can be rewound to any length."""
        return self._whole

    @property
    def bytes(self) -> int:
        return self._cache.bytes

    def forget(self) -> None:
        """Starts anew. For a forked child, in which the tree may be half changed."""
        self._cache.clear()
        self._cache = PrefixCache(self._limit, whole=self._whole)

    def clear(self) -> None:
        self._cache.clear()

    def close(self) -> None:
        """Keeps nothing from now on."""
        self._closed = True
        self._cache.clear()

    def kept(self) -> list[tuple[str, list[int]]]:
        """(root, ids) of all sequences that are kept, the most recently used first."""
        return [(str(root), ids) for root, ids in self._cache.kept()]

    def copy(self, root: str, ids: list[int]) -> Any:
        """-> a fork of a kept sequence; None: it is no longer kept, or there is no memory."""
        return self._cache.copy(root, ids)

    def put(self, root: str, ids: list[int], sequence: Any) -> None:
        """Keeps a sequence of exactly these ids."""
        if not self._closed:
            self._cache.insert(root, ids, sequence)

    def spare(self) -> bool:
        """Evicts the least recently used sequences -> whether there were any."""
        return self._cache.evict(self._cache.bytes // 8)

    def begin(self, work: Work, running: Collection[Work], computing: Collection[Work]) -> bool:
        """Gives a request that holds nothing what has been computed of its tokens. False: another computes more of
        them, for which it waits. computing: those of `running` that want rows; the others have ended, or wait for their
        readers, which may never come."""
        tokens, most = work.job.tokens, len(work.job.tokens) - 1
        if work.behind is not None:
            other, n = work.behind
            if other in computing and other.job.sequence.length < n:
                return False
            work.behind = None
        found = self._cache.find(work.root, tokens, most)
        others = [
            (min(common(tokens, other.job.tokens), most), other)
            for other in running
            if other.root == work.root and other.job.sequence is not None
        ]
        length, source = found.length, None
        for n, other in others:
            if length < n <= other.job.sequence.length:
                n = other.job.sequence.reach(n)
                if n > length:
                    length, source = n, other.job.sequence
        for n, other in others:
            urgent = other.priority <= work.priority and other.caller.rows >= work.caller.rows
            if n >= length + SHARED and urgent and other in computing and other.job.sequence.length < n:
                work.behind = other, n
                if not self._whole:
                    other.cuts = sorted({*other.cuts, n})
                return False
        sequence = None
        if source is not None:
            try:
                sequence = source.fork()
                sequence.rewind(length)
            except OutOfMemoryError:
                pass
        if sequence is None and found.source is not None:
            sequence = self._cache.take(found)
        if sequence is not None:
            work.job.sequence, work.holds = sequence, True
        length = 0 if sequence is None else sequence.length
        if work.started is None:
            work.cached = length
            self.queries += len(tokens)
            self.hits += length
        # It parts from running requests, too, which may be past that point already, and are not in the tree yet.
        parts = max((n for n, _ in others), default=0)
        opening = work.job.opening if work.job.opening >= SHARED else 0
        work.cuts = [] if self._whole else self._cuts(length, {found.known, parts, opening}, len(tokens))
        return True

    @staticmethod
    def _cuts(begin: int, parts: Collection[int], end: int) -> list[int]:
        """Where to keep forks of a prompt of which `begin` tokens are computed. parts: where it parts from the tree and
        from other prompts, or later ones are likely to part from it."""
        cuts = {*range(EVERY * (begin // EVERY + 1), end, EVERY)}
        cuts.update(n for n in (*parts, end) if n - begin >= WORTH)
        return sorted(cuts)

    def reached(self, work: Work) -> None:
        """Keeps a fork of a request's sequence, which is at one of its cuts."""
        if self._closed:
            return
        sequence = work.job.sequence
        try:
            self._cache.insert(work.root, work.job.tokens[: sequence.length], sequence.fork())
        except OutOfMemoryError:
            pass

    def keep(self, work: Work) -> None:
        """Keeps what a request computed that has ended."""
        sequence: Any = work.job.sequence
        if self._closed or work.failure is not None or sequence is None or not sequence.length:
            return
        if sequence.length > len(work.job.tokens):  # by guesses of a pass whose driver was interrupted
            sequence.rewind(len(work.job.tokens))
        self._cache.insert(work.root, work.job.tokens[: sequence.length], sequence)
