"""How probable a model finds a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid import _engine, arguments, checks
from pellucid.errors import ContextFullError
from pellucid.results import TokenLogprob
from pellucid.sampling import MOST_LOGPROBS

__all__ = ["Score", "score", "score_ids"]

CERTAIN = 1e30  # added to a logit: the greedy draw is that token, and what is reported is its raw log probability


@dataclass(frozen=True, slots=True)
class Score:
    """Natural log probabilities of a text's tokens, each given those before it.

    ``ids``: all n tokens. ``tokens``: n - 1 TokenLogprob(id, piece, logprob, top=[(id, piece, logprob)...]), of the
    second token on: before the first there is nothing to go by (where the model has a BOS token, that is the first).
    """

    ids: list[int]
    tokens: list[TokenLogprob]

    @property
    def logprobs(self) -> npt.NDArray[np.float64]:
        """(n - 1)"""
        return np.array([token.logprob for token in self.tokens], np.float64)

    @property
    def total(self) -> float:
        """Log probability of the whole."""
        return float(self.logprobs.sum())

    @property
    def perplexity(self) -> float:
        """exp(-mean log probability); NaN for a single token."""
        return math.exp(-self.total / len(self.tokens)) if self.tokens else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "ids": self.ids,
            "tokens": [token._asdict() for token in self.tokens],
            "total": self.total,
            "perplexity": self.perplexity if self.tokens else None,
        }


def score(model: Any, texts: Any, top: Any, window: Any) -> Any:
    """``Model.score``."""
    engine, top = model.core.open(), checks.integer("top", top, 0, MOST_LOGPROBS)
    if window is not None:
        window = checks.integer("window", window, 2, model.context_length)
    several = arguments.several(texts)
    many = []
    for i, text in enumerate(texts if several else [texts]):
        name = f"text[{i}]" if several else "text"
        ids = model.core.prompt_ids(text, name)
        if window is None and len(ids) > model.context_length:
            message = f"{name} is too long; window={model.context_length} scores it in overlapping parts"
            raise ContextFullError(message, needed=len(ids), available=model.context_length)
        many.append(ids)
    parts = [part for ids in many for part in _windows(ids, window)]
    found = iter(score_ids(engine, parts, top))
    spell = model.core.spell

    def token(id: int, logprob: float, best: list[tuple[int, float]]) -> TokenLogprob:
        return TokenLogprob(id, spell(id), logprob, [(i, spell(i), p) for i, p in best if i >= 0])

    scores = []
    for ids in many:
        results = [result for _ in _windows(ids, window) for result in next(found)]
        scores.append(Score(ids, [token(id, *result) for id, result in zip(ids[1:], results, strict=True)]))
    return scores if several else scores[0]


def _windows(ids: list[int], window: int | None) -> list[tuple[list[int], int]]:
    """[(tokens, first one to score)]: parts of `window` tokens, each from the middle of the one before."""
    if window is None or len(ids) <= window:
        return [(ids, 1)]
    parts, done = [], 1
    for start in range(0, len(ids), window // 2):
        part = ids[start : start + window]
        parts.append((part, done - start))
        done = start + len(part)
        if done == len(ids):
            break
    return parts


@dataclass(slots=True)
class _Job:
    sequence: Any
    ids: npt.NDArray[np.int32]
    first: int
    found: list[tuple[float, list[tuple[int, float]]]] = field(default_factory=list)


def score_ids(
    engine: Any, parts: Sequence[tuple[Sequence[int], int]], top: int = 0, begun: Any = None
) -> list[list[tuple[float, list[tuple[int, float]]]]]:
    """parts: [(ids, first)] -> for each a list of (log probability, [(id, log probability) of the `top` likeliest]) of
    its tokens from `first` (>= 1) on. Several are rows of the same passes; logits are reduced where they are made.
    begun: a sequence that holds fewer than `first` tokens, with which all parts begin."""
    jobs = [
        _Job(_engine.Sequence(engine) if begun is None else begun.fork(), np.array(ids, np.int32), first)
        for ids, first in parts
    ]
    waiting = [job for job in jobs if job.first < len(job.ids)]
    while waiting:
        batch, samplers, room = [], [], engine.max_rows
        for job in waiting:
            start = job.sequence.length
            rows = job.ids[start : min(start + room, len(job.ids) - 1)]  # the last token predicts none of ours
            room -= len(rows)
            skip = min(max(job.first - 1 - start, 0), len(rows))
            batch.append((job.sequence, rows, skip))
            for id in job.ids[start + skip + 1 : start + len(rows) + 1].tolist():
                samplers.append(_engine.Sampler(bias={id: CERTAIN}, logprobs=top))
            if not room:
                break
        results = iter(engine.forward(batch, samplers=samplers))
        for job, (_, rows, skip) in zip(waiting, batch, strict=False):
            job.found += [(logprob, best) for _, logprob, best in (next(results) for _ in range(len(rows) - skip))]
            if job.sequence.length == len(job.ids) - 1:
                job.sequence = None  # its pages
        waiting = [job for job in waiting if job.sequence is not None]
    return [job.found for job in jobs]
