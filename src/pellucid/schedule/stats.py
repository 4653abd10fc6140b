"""What a model's scheduler has and did, and what became of a request."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["RequestStats", "Stats"]


@dataclass(frozen=True, slots=True)
class Stats:
    """The requests of a model now, and counts since it was loaded.

    ``running``, ``waiting``: requests. ``passes``, ``rows``, ``pass_seconds``: forward passes, tokens computed in them
    and their time. ``preemptions``: how often a request was given up for another's memory, to be computed again.
    ``cache_bytes_used``, ``cache_bytes_limit``: memory of keys and values; no limit: None. ``prefix_queries``,
    ``prefix_hits``: prompt tokens looked up in the prefix cache, and those found there. ``prompt_tokens``,
    ``generated_tokens``: of the requests that have begun. ``drafted_tokens``, ``accepted_tokens``: guesses at next
    tokens that passes verified, and those that were right.
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
    """What became of a request so far; of one with n completions, in all.

    ``queued``: seconds until its first pass could begin. ``cached``: tokens of the prompt that were found computed.
    ``prefilled``: tokens of prompts computed, again after a preemption. ``preempted``: how often it was given up for
    another's memory; ``preempted_seconds``: how long. ``expired``: whether its time ran out. ``drafted``: guesses at
    its next tokens that passes verified; ``accepted``: those that were right.
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
