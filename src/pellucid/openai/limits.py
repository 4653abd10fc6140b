"""Limits on what a request may ask for."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

__all__ = ["UNBOUNDED", "Limits", "Rules"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The most of each thing in a request."""

    waiting: int = 64  # completions in all, if it is more than n and prompts
    n: int = 8
    prompts: int = 64
    inputs: int = 2048  # texts of a request for embeddings, documents of one for their relevance
    stop: int = 16
    stop_characters: int = 256
    logit_bias: int = 1024
    top_logprobs: int = 20
    tools: int = 128
    messages: int = 4096


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules for reading a request. strict: unknown fields are refused."""

    strict: bool = False
    limits: Limits = field(default_factory=Limits)


# For callers in this process, who can harm only themselves.
UNBOUNDED = Rules(limits=Limits(*([2**31 - 1] * len(fields(Limits)))))
