"""Who is notified of generations and other calls: nobody, unless an adapter registers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

__all__ = ["Observer", "begun", "called", "during"]


class Observer(Protocol):
    """Notified of the end of one generation, once."""

    def ended(self, job: Any) -> None:
        """The generation produced its last piece. job: ``generation.Job``."""

    def failed(self, error: Exception | None) -> None:
        """The generation ended without a last piece. error: None if nobody reads it any more; then this may be called
        from a finalizer and must not wait for a lock."""


begun: Callable[[Any], Observer] | None = None  # called by a generation with its job
called: Callable[[Any, str, int], AbstractContextManager[None]] | None = None  # called by `during`


def during(core: Any, operation: str, tokens: int) -> AbstractContextManager[None]:
    """A context manager to hold while a call that generates nothing computes `tokens` tokens. operation: "embeddings"
    or "score"."""
    told = called  # read once: another thread may remove it
    return nullcontext() if told is None else told(core, operation, tokens)
