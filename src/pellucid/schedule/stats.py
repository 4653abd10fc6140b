"""Statistics of a model's scheduler and of a request."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["RequestStats", "Stats"]


@dataclass(frozen=True, slots=True)
class Stats:
    """A model's current requests, and counts since it was loaded.

    ``running``, ``waiting``: numbers of requests. ``passes``, ``rows``, ``pass_seconds``: forward passes, tokens
    computed in them and their time. ``preemptions``: how often a request's memory was given to another, after which it
    is computed again. ``cache_bytes_used``, ``cache_bytes_limit``: memory of keys and values; no limit: None.
    ``prefix_queries``, ``prefix_hits``: prompt tokens looked up in the prefix cache, and those found there.
    ``prompt_tokens``, ``generated_tokens``: of the requests that have begun. ``drafted_tokens``, ``accepted_tokens``:
    guesses at next tokens that passes verified, and those that were right.
    """

    running: int
    waiting: int
    passes: int
    rows: int
    pass_seconds: float
    preemptions: int
    cache_bytes_used: int
    cache_bytes_limit: int | None
    prefix_queries: int
    prefix_hits: int
    prompt_tokens: int
    generated_tokens: int
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RequestStats:
    """Statistics of a request so far; with n completions, of all of them together.

    ``queued``: seconds until its first pass could begin. ``cached``: tokens of the prompt that had already been
    computed. ``prefilled``: prompt tokens computed, including those computed again after a preemption. ``preempted``:
    how often its memory was given to another request; ``preempted_seconds``: for how long in all. ``expired``: whether
    its timeout ended it. ``drafted``: guesses at its next tokens that passes verified; ``accepted``: those that were
    right.
    """

    queued: float
    cached: int
    prefilled: int
    preempted: int
    preempted_seconds: float
    expired: bool
    drafted: int = 0
    accepted: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)
