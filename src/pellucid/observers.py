"""Who is told of generations: nobody, until an adapter asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Observer", "begun"]


class Observer(Protocol):
    """Is told of the end of one generation, once."""

    def ended(self, job: Any) -> None:
        """It has its last piece. job: ``generation.Job``."""

    def failed(self, error: Exception | None) -> None:
        """It has no last piece. error: None, where nobody reads it any more; then this may be called by a finalizer,
        and must not wait for a lock."""


begun: Callable[[Any], Observer] | None = None  # called with each generation's job, by who asks for it
