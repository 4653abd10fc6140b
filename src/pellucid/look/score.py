"""How probable a text is for a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid import _engine, arguments, checks
from pellucid.core import Core
from pellucid.errors import ContextFullError, shown
from pellucid.markup import Cell, Fragment, Shown, count, token
from pellucid.results import TokenLogprob
from pellucid.sampling import MOST_LOGPROBS

__all__ = ["Score", "score", "score_continuations", "score_ids"]

Found = tuple[float, list[tuple[int, float]]]  # a token's log probability, and [(id, log probability)] of the likeliest
MOST_SEQUENCES = 64  # in a pass: each takes a page of the cache, or copies one, whatever the number of its rows


@dataclass(frozen=True, slots=True)
class Score(Shown):
    """Natural log probabilities of a text's tokens, each given those before it.

    ``ids``: all n tokens. ``tokens``: n - 1 TokenLogprob(id, piece, logprob, top=[(id, piece, logprob)...]), from the
    second token on. The first one, which is BOS where the model has it, has nothing before it and is not scored;
    ``first`` is its text. Of a continuation, which ``Context.score`` gives, ``ids`` are those of the continuation, and
    ``tokens`` has all n.
    """

    ids: list[int]
    tokens: list[TokenLogprob]
    first: str = ""

    @property
    def logprobs(self) -> npt.NDArray[np.float64]:
        """The log probabilities of ``tokens``."""
        return np.array([token.logprob for token in self.tokens], np.float64)

    @property
    def total(self) -> float:
        """Log probability of the whole text."""
        return float(self.logprobs.sum())

    @property
    def perplexity(self) -> float:
        """exp(-mean log probability); NaN for a single token."""
        if not self.tokens:
            return math.nan
        mean = -self.total / len(self.tokens)
        return math.inf if mean > 700 else math.exp(mean)

    def __repr__(self) -> str:
        return (
            f"<Score of {count(len(self.tokens), 'token')}: total {self.total:.3f}, perplexity {self.perplexity:.3f}>"
        )

    def _draw(self, fragment: Fragment) -> None:
        fragment.note(
            f"{count(len(self.tokens), 'token')}: log probability {self.total:.3f}, perplexity {self.perplexity:.3f}. "
            "The stronger its colour, the more surprising a token was."
        )
        given = [Cell(self.first, title=f"{shown(self.first)} (id {self.ids[0]}): the first token, not scored")]
        fragment.tokens([*(given if self.first else []), *(token(*one, surprise=True) for one in self.tokens)])

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "ids": self.ids,
            "tokens": [token._asdict() for token in self.tokens],
            "total": self.total,
            "perplexity": self.perplexity if self.tokens else None,
        }


def score(core: Core, texts: Any, top: Any, window: Any) -> Any:
    """``Model.score``."""
    engine, top = core.open(), checks.integer("top", 0 if top is None else top, 0, MOST_LOGPROBS)
    if window is not None:
        window = checks.integer("window", window, 2, core.context_length)
    several, given = arguments.prompts(texts, "text")
    many = []
    for i, text in enumerate(given):
        name = f"text[{i}]" if several else "text"
        ids = core.prompt_ids(text, name)
        if window is None and len(ids) > core.context_length:
            message = f"{name} is too long; window={core.context_length} scores it in overlapping parts"
            raise ContextFullError(message, needed=len(ids), available=core.context_length)
        many.append(ids)
    parts = [part for ids in many for part in _windows(ids, window)]
    found = iter(score_ids(engine, parts, top))
    scores = []
    for ids in many:
        results = [result for _ in _windows(ids, window) for result in next(found)]
        scores.append(Score(ids, _tokens(core, ids[1:], results), core.spell(ids[0])))
    return scores if several else scores[0]


def score_continuations(
    core: Core, begun: _engine.Sequence, last: int, continuations: Sequence[list[int]], top: int
) -> list[Score]:
    """Scores of continuations of the same tokens: those of `begun`, then `last`."""
    found = score_ids(core.open(), [([last, *ids], 1) for ids in continuations], top, begun)
    return [Score(ids, _tokens(core, ids, results)) for ids, results in zip(continuations, found, strict=True)]


def _tokens(core: Core, ids: Sequence[int], found: Sequence[Found]) -> list[TokenLogprob]:
    spell = core.spell
    return [
        TokenLogprob(id, spell(id), logprob, [(i, spell(i), p) for i, p in best if i >= 0])
        for id, (logprob, best) in zip(ids, found, strict=True)
    ]


def _windows(ids: list[int], window: int | None) -> list[tuple[list[int], int]]:
    """[(tokens, index of the first one to score)]: parts of `window` tokens, each from the middle of the previous."""
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
class _Part:
    sequence: _engine.Sequence
    ids: npt.NDArray[np.int32]
    first: int
    found: list[Found]


def score_ids(
    engine: _engine.Engine,
    parts: Sequence[tuple[Sequence[int], int]],
    top: int = 0,
    begun: _engine.Sequence | None = None,
) -> list[list[Found]]:
    """parts: [(ids, first)] -> for each, (log probability, [(id, log probability) of the `top` best]) of its tokens
    from `first` (>= 1) on. Parts share forward passes; the engine reduces logits as it computes them.
    begun: a sequence whose tokens precede those of every part; it does not change."""
    done = 0 if begun is None else begun.length
    found: list[list[Found]] = [[] for _ in parts]
    waiting = []
    for (ids, first), of_part in zip(parts, found, strict=True):
        if first < len(ids):
            sequence = _engine.Sequence(engine) if begun is None else begun.fork()
            waiting.append(_Part(sequence, np.array(ids, np.int32), first, of_part))
    while waiting:
        batch, room = [], engine.max_rows
        targets: list[int] = []
        for part in waiting:
            start = part.sequence.length - done
            rows = part.ids[start : min(start + room, len(part.ids) - 1)]  # no scored token follows the last one
            room -= len(rows)
            skip = min(max(part.first - 1 - start, 0), len(rows))
            batch.append((part.sequence, rows, skip))
            targets += part.ids[start + skip + 1 : start + len(rows) + 1].tolist()
            if not room or len(batch) == MOST_SEQUENCES:
                break
        results = iter(engine.forward(batch, targets=targets, top=top))
        for part, (_, rows, skip) in zip(waiting, batch, strict=False):
            part.found += islice(results, len(rows) - skip)
        waiting = [
            part for part in waiting if part.sequence.length - done < len(part.ids) - 1
        ]  # frees the others' pages
    return found
