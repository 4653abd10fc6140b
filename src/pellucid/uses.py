"""The use of a context, by one call or one stream at a time."""

from __future__ import annotations

import weakref
from contextlib import suppress

__all__ = ["Use", "Uses"]


class Use:
    """One use. It ends with this object at the latest: an interrupt may prevent the statement that would end it, but
    then the object is dropped. ends: its stream has ended, and the use ends once no pass computes with the sequence."""

    __slots__ = ("__weakref__", "ends")

    def __init__(self) -> None:
        self.ends = False


class Uses:
    """The use of a context."""

    def __init__(self) -> None:
        self._all: list[weakref.ref[Use]] = []  # the first is the current use; others are about to find it

    def claim(self) -> Use | None:
        """A new use, which lasts until `end` or until nothing refers to it; None if the context is already in use."""
        use = Use()
        mine = weakref.ref(use)
        self._all.append(mine)
        for other in tuple(self._all):
            if other is mine:
                break
            alive = other() is not None
            with suppress(ValueError):
                self._all.remove(mine if alive else other)
            if alive:
                return None
        return use

    def current(self) -> Use | None:
        return next((use for one in tuple(self._all) if (use := one()) is not None), None)

    def end(self, use: Use) -> None:
        """May be called again."""
        with suppress(ValueError):
            self._all.remove(weakref.ref(use))
