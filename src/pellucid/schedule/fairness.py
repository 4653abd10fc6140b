"""How many rows of passes each (priority, key) had, after the virtual token counter of Sheng et al. (OSDI 2024).

The key that had the fewest is admitted first and gets its prompts' rows first. A key that returns has no credit for the
time in which it had no requests. Used with the scheduler's lock, except for `add`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

__all__ = ["Served"]

MOST_KEYS = 1024  # keys whose rows are remembered, unless more have requests
Key = tuple[int, str]


class Served:
    """Rows that each key had."""

    __slots__ = ("_active", "_most", "_rows")

    def __init__(self) -> None:
        self._rows: dict[Key, int] = {}
        self._active: Counter[Key] = Counter()  # requests of each key that has some
        self._most = MOST_KEYS

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Key) -> int:
        return self._rows.get(key, 0)

    def add(self, key: Key, rows: int) -> None:
        """Counts rows. Called by the driver, without the lock."""
        self._rows[key] = self[key] + rows

    def came(self, key: Key) -> None:
        """Notes that a request arrived."""
        active = self._active
        if active and key not in active:
            self._rows[key] = max(self[key], min(map(self.__getitem__, active)))
        active[key] += 1
        if len(self._rows) > self._most:
            self._forget(active)

    def left(self, key: Key) -> None:
        """Notes that a request ended."""
        self._active[key] -= 1
        if self._active[key] <= 0:
            del self._active[key]

    def _forget(self, active: Mapping[Key, int]) -> None:
        """Of the keys without requests, keeps those that had the most rows."""
        counts = list(self._rows.items())  # the driver may add some meanwhile
        gone = sorted((rows, key) for key, rows in counts if key not in active)
        for _, key in gone[: max(len(gone) - MOST_KEYS // 2, 0)]:
            del self._rows[key]
        self._most = max(MOST_KEYS, 2 * len(self._rows))
