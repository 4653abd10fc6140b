"""Who is told of generations and other calls: nobody, until an adapter asks for it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

__all__ = ["Observer", "begun", "called", "during"]


class Observer(Protocol):
    """Is told of the end of one generation, once."""

    def ended(self, job: Any) -> None:
        """It has its last piece. job: ``generation.Job``."""

    def failed(self, error: Exception | None) -> None:
        """It has no last piece. error: None, where nobody reads it any more; then this may be called by a finalizer,
        and must not wait for a lock."""


begun: Callable[[Any], Observer] | None = None  # called with each generation's job, by who asks for it
called: Callable[[Any, str, int], AbstractContextManager[None]] | None = None  # the same for `during`


def during(core: Any, operation: str, tokens: int) -> AbstractContextManager[None]:
    """What to hold while a call that generates nothing computes so many tokens. operation: "embeddings" or "score"."""
    told = called  # which another thread may take away
    return nullcontext() if told is None else told(core, operation, tokens)
