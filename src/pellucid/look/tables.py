"""What a trace says, as rows of a table."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from pellucid.look.lens import Attribution
from pellucid.look.trace import Token, Trace

__all__ = ["Look", "Push", "Surprise", "heads", "looks", "surprise"]

LEAST = float(np.finfo(np.float32).smallest_subnormal)  # a probability that float32 rounds to 0 is taken for this


class Surprise(NamedTuple):
    """How the model had expected a token, given those before it. ``bits``: -log2 of its ``probability``; ``rank``: 1
    for the likeliest; ``entropy``: bits of uncertainty before it. All None for the first token: nothing was before."""

    position: int
    token: Token
    bits: float | None
    probability: float | None
    rank: int | None
    entropy: float | None


class Look(NamedTuple):
    """A token that a head looks at, and its weight after softmax."""

    position: int
    token: Token
    weight: float


class Push(NamedTuple):
    """What a head added to a token's logit, and what it looked at."""

    layer: int
    head: int
    logits: float
    looks: list[Look]


def surprise(trace: Trace) -> list[Surprise]:
    """A row for every token. Raises ValueError for a trace of some positions alone."""
    if trace.positions != tuple(range(len(trace))):
        raise ValueError("positions: surprise needs a trace of all positions")
    rows = [Surprise(0, trace.tokens[0], None, None, None, None)]
    for i in range(len(trace) - 1):
        p = max(float(trace.next_probability[i]), LEAST)
        entropy = max(float(trace.entropy[i]), 0.0) / math.log(2)
        rows.append(Surprise(i + 1, trace.tokens[i + 1], -math.log2(p), p, int(trace.next_rank[i]), entropy))
    return rows


def looks(trace: Trace, layer: int, head: int, position: int = -1, k: int = 3) -> list[Look]:
    """The k tokens that a head looks at most from a position; layer, head and position must be of the trace."""
    position = range(len(trace))[position]
    try:
        at = trace.layers.index(layer), trace.heads.index(head), trace.positions.index(position)
    except ValueError:
        message = f"the trace has no layer {layer}, head {head} at position {position}"
        raise ValueError(f"position: {message}") from None
    weights = trace.attention[at]
    best = np.argsort(-weights[: position + 1], kind="stable")[:k]
    return [Look(int(i), trace.tokens[i], float(weights[i])) for i in best]


def heads(
    trace: Trace, position: int = -1, token: int | str | None = None, n: int = 8, *, of: Attribution | None = None
) -> list[Push]:
    """The n heads of the traced layers that pushed a token's logit most, in either direction, and what they looked at.

    token: as for ``Trace.attribution``; of: that attribution, where it is known already.
    """
    position = range(len(trace))[position]
    found = of or trace.attribution(position, token)
    pairs = [(layer, head) for layer in trace.layers for head in trace.heads]
    pairs.sort(key=lambda pair: -abs(found.heads[pair]))
    return [Push(*pair, float(found.heads[pair]), looks(trace, *pair, position)) for pair in pairs[:n]]
