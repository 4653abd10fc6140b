"""Who has had how much: rows of passes by (priority, key), after the virtual token counter of Sheng et al. (OSDI 2024).

The key that had the least is admitted first and gets its prompts' rows first. One that comes back has no credit for the
time without requests. Used with the scheduler's lock, but for `add`.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Served"]

MOST_KEYS = 1024  # whose rows are counted, unless more have requests
Key = tuple[int, str]


class Served:
    """Rows that each key had."""

    __slots__ = ("_most", "_rows")

    def __init__(self) -> None:
        self._rows: dict[Key, int] = {}
        self._most = MOST_KEYS

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Key) -> int:
        return self._rows.get(key, 0)

    def add(self, key: Key, rows: int) -> None:
        """Counts rows. Called by who drives, without the lock."""
        self._rows[key] = self[key] + rows

    def came(self, key: Key, active: Iterable[Key]) -> None:
        """A request arrives beside those of the active keys."""
        others = {*active}
        if others:
            self._rows[key] = max(self[key], min(map(self.__getitem__, others)))
        if len(self._rows) > self._most:
            self._forget({key, *others})

    def _forget(self, active: set[Key]) -> None:
        """Of the keys without requests, keeps those that had the most rows."""
        counts = list(self._rows.items())  # who drives may add some meanwhile
        gone = sorted((rows, key) for key, rows in counts if key not in active)
        for _, key in gone[: max(len(gone) - MOST_KEYS // 2, 0)]:
            del self._rows[key]
        self._most = max(MOST_KEYS, 2 * len(self._rows))
