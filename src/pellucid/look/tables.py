"""Tables of a trace's results."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from pellucid import checks
from pellucid.errors import WrongType, WrongValue, shown
from pellucid.look.lens import Attribution
from pellucid.look.recorded import LEAST
from pellucid.look.trace import Token, Trace

__all__ = ["Look", "Push", "Surprise", "heads", "looks", "surprise"]


class Surprise(NamedTuple):
    """How much the model expected a token, given those before it. ``bits``: -log2 of its ``probability``; ``rank``: 1
    for the likeliest; ``entropy``: of the prediction, in bits. All are None for the first token, which has no
    predecessor."""

    position: int
    token: Token
    bits: float | None
    probability: float | None
    rank: int | None
    entropy: float | None


class Look(NamedTuple):
    """A token that a head attends to, and its weight after softmax."""

    position: int
    token: Token
    weight: float


class Push(NamedTuple):
    """A head's contribution to a token's logit, and the tokens that it attends to."""

    layer: int
    head: int
    logits: float
    looks: list[Look]

    def __repr__(self) -> str:
        best = f", looks at {shown(self.looks[0].token.piece)}" if self.looks else ""
        return f"<Push of layer {self.layer}, head {self.head}: {self.logits:+.3f}{best}>"


def surprise(trace: Trace) -> list[Surprise]:
    """One row per token. Raises ValueError for a trace without all positions."""
    if trace.positions != tuple(range(len(trace))):
        raise ValueError("positions: surprise needs a trace of all positions")
    rows = [Surprise(0, trace.tokens[0], None, None, None, None)]
    for i in range(len(trace) - 1):
        p = max(float(trace.next_probability[i]), LEAST)
        entropy = max(float(trace.entropy[i]), 0.0) / math.log(2)
        rows.append(Surprise(i + 1, trace.tokens[i + 1], -math.log2(p), p, int(trace.next_rank[i]), entropy))
    return rows


def looks(trace: Trace, layer: int, head: int, position: int = -1, k: int = 3) -> list[Look]:
    """The k tokens that a head attends to most from a position; negative ones count from the end. Raises ValueError if
    the trace lacks the layer, head or position, or the layer has no attention; ValueError or TypeError naming an
    invalid number."""
    layer, head = checks.integer("layer", layer, 0), checks.integer("head", head, 0)
    position, k = _place(trace, position), checks.integer("k", k, 1)
    try:
        at = trace.layers.index(layer), trace.heads.index(head), trace.positions.index(position)
    except ValueError:
        message = f"the trace has no layer {shown(layer)}, head {shown(head)} at position {position}"
        raise ValueError(f"position: {message}") from None
    weights = trace.attention[at]
    if not weights.any():
        raise WrongValue("layer", f"={layer}: it has no attention heads")
    best = np.argsort(-weights[: position + 1], kind="stable")[:k]
    return [Look(int(i), trace.tokens[i], float(weights[i])) for i in best]


def heads(
    trace: Trace, position: int = -1, token: int | str | None = None, n: int = 8, *, of: Attribution | None = None
) -> list[Push]:
    """The n heads of the traced layers that changed a token's logit most, up or down, and what they attend to.

    position, token: as for ``Trace.attribution``; of: that attribution, if already computed.
    """
    position, n = _place(trace, position), checks.integer("n", n, 1)
    if of is not None and not isinstance(of, Attribution):
        raise WrongType("of", f" must be an Attribution, not {type(of).__name__}")
    found = of or trace.attribution(position, token)
    row = trace.positions.index(position) if position in trace.positions else 0  # otherwise looks() raises
    attends = np.asarray(trace.attention[:, :, row].any(axis=(1, 2))).tolist()
    layers = [layer for layer, has in zip(trace.layers, attends, strict=True) if has]
    pairs = [(layer, head) for layer in layers for head in trace.heads]
    pairs.sort(key=lambda pair: -abs(found.heads[pair]))
    return [Push(*pair, float(found.heads[pair]), looks(trace, *pair, position)) for pair in pairs[:n]]


def _place(trace: Trace, position: int) -> int:
    """A position from 0 on."""
    return checks.integer("position", position, -len(trace), len(trace) - 1) % len(trace)
