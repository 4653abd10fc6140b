"""The probability of a text according to a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid import _engine, arguments, checks, observers
from pellucid.core import Core
from pellucid.errors import ContextFullError, NumericsError, OutOfMemoryError, shown
from pellucid.markup import Cell, Fragment, Shown, count, token
from pellucid.results import TokenLogprob
from pellucid.sampling import MOST_LOGPROBS
from pellucid.schedule.many import in_parts
from pellucid.schedule.turns import Turns

__all__ = ["Score", "logits", "score", "score_continuations", "score_ids", "score_map", "score_parts", "windows"]

Found = tuple[float, list[tuple[int, float]]]  # a token's log probability, and [(id, log probability)] of the likeliest


@dataclass(frozen=True, slots=True)
class Score(Shown):
    """Natural log probabilities of a text's tokens, each given those before it.

    ``ids``: all n tokens. ``tokens``: n - 1 TokenLogprob(id, piece, logprob, top=[(id, piece, logprob)...]), from the
    second token on. The first one, BOS if the model has it, has nothing before it and is not scored; ``first`` is its
    text. For a continuation, from ``Context.score``, ``ids`` are those of the continuation, and ``tokens`` has all n.
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


def score(core: Core, texts: Any, top: Any, window: Any, cancel: Callable[[], bool] | None = None) -> Any:
    """``Model.score``. cancel: called by this thread; if it returns true, `_engine.Cancelled` is raised."""
    top, window = _options(core, top, window)
    several, given = arguments.prompts(texts, "text")
    names = [f"text[{i}]" for i in range(len(given))] if several else ["text"]
    many = [_ids(core, text, name, window) for text, name in zip(given, names, strict=True)]
    scores = _scores(core, many, top, window, cancel)
    return scores if several else scores[0]


def score_map(
    core: Core,
    items: Any,
    at_once: Any = None,
    order: Any = None,
    on_error: Any = None,
    top: Any = None,
    window: Any = None,
    cancel: Callable[[], bool] | None = None,
) -> Iterator[Any]:
    """``Model.score_map``. cancel: as for `score`."""
    top, window = _options(core, top, window)

    def read(text: Any) -> list[int]:
        return _ids(core, text, "text", window)

    def several(many: list[list[int]]) -> list[Score]:
        return _scores(core, many, top, window, cancel)

    return in_parts(items, at_once, order, on_error, read, several)


def _options(core: Core, top: Any, window: Any) -> tuple[int, int | None]:
    core.decoder()
    top = checks.integer("top", 0 if top is None else top, 0, MOST_LOGPROBS)
    return top, None if window is None else checks.integer("window", window, 2, core.context_length)


def _ids(core: Core, text: Any, name: str, window: int | None) -> list[int]:
    """name: of the text, in errors."""
    ids = core.prompt_ids(text, name)
    if window is None and len(ids) > core.context_length:
        message = f"{name} is too long; window={core.context_length} scores it in overlapping parts"
        raise ContextFullError(message, needed=len(ids), available=core.context_length)
    return ids


def _scores(
    core: Core,
    many: Sequence[list[int]],
    top: int,
    window: int | None,
    cancel: Callable[[], bool] | None = None,
) -> list[Score]:
    """many: the ids of each text."""
    parts = [part for ids in many for part in windows(ids, window)]
    with observers.during(core, "score", sum(map(len, many))):
        found = iter(score_ids(core, parts, top, cancel=cancel))
    scores = []
    for ids in many:
        results = [result for _ in windows(ids, window) for result in next(found)]
        scores.append(Score(ids, _tokens(core, ids[1:], results), core.spell(ids[0])))
    return scores


def score_continuations(
    core: Core, begun: _engine.Sequence, last: int, continuations: Sequence[list[int]], top: int
) -> list[Score]:
    """Scores of continuations of the same tokens, those of `begun` and then `last`."""
    found = score_ids(core, [([last, *ids], 1) for ids in continuations], top, begun)
    return [Score(ids, _tokens(core, ids, results)) for ids, results in zip(continuations, found, strict=True)]


def _tokens(core: Core, ids: Sequence[int], found: Sequence[Found]) -> list[TokenLogprob]:
    spell = core.spell
    return [
        TokenLogprob(id, spell(id), logprob, [(i, spell(i), p) for i, p in best if i >= 0])
        for id, (logprob, best) in zip(ids, found, strict=True)
    ]


def windows(ids: list[int], window: int | None) -> list[tuple[list[int], int]]:
    """[(tokens, index of the first one to score)]: parts of `window` tokens, each beginning in the middle of the
    previous one."""
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
    ids: npt.NDArray[np.int32]
    first: int
    found: list[Found]
    sequence: _engine.Sequence | None = None  # None: no pass had rows of it yet
    done: int = 0  # rows computed so far


def score_ids(
    core: Core,
    parts: Sequence[tuple[Sequence[int], int]],
    top: int = 0,
    begun: _engine.Sequence | None = None,
    cancel: Callable[[], bool] | None = None,
) -> list[list[Found]]:
    """`score_parts` as a separate call. cancel: as in `score`."""
    with Turns(core, "score", [len(ids) for ids, _ in parts], cancel) as turns:
        return score_parts(turns, parts, top, begun)


def score_parts(
    turns: Turns, parts: Sequence[tuple[Sequence[int], int]], top: int = 0, begun: _engine.Sequence | None = None
) -> list[list[Found]]:
    """Scores parts [(ids, first)] -> for each, (log probability, [(id, log probability) of the `top` best]) of its
    tokens from `first` (>= 1) on. Parts share forward passes; the engine reduces logits as it computes them. begun: a
    sequence whose tokens precede those of every part; it does not change."""
    found: list[list[Found]] = [[] for _ in parts]
    waiting = [
        _Part(np.array(ids, np.int32), first, of_part)
        for (ids, first), of_part in zip(parts, found, strict=True)
        if first < len(ids)
    ]
    while waiting:
        batch, room = [], turns.rows(turns.max_rows, waiting[0].done)
        targets: list[int] = []
        for part in waiting[: turns.together]:
            if part.sequence is None:
                part.sequence = turns.sequence(begun)
            start = part.done
            rows = part.ids[start : min(start + room, len(part.ids) - 1)]  # no scored token follows the last one
            room -= len(rows)
            skip = min(max(part.first - 1 - start, 0), len(rows))
            batch.append((part.sequence, rows, skip))
            targets += part.ids[start + skip + 1 : start + len(rows) + 1].tolist()
            if not room:
                break
        try:
            results = iter(turns.forward(batch, targets=targets, top=top))
        except OutOfMemoryError:
            if turns.fewer(len(batch)):
                continue
            raise
        left = []
        for part, (sequence, rows, skip) in zip(waiting, batch, strict=False):
            part.found += islice(results, len(rows) - skip)
            part.done += len(rows)
            if part.done < len(part.ids) - 1:
                left.append(part)
            else:
                turns.drop(sequence)
        waiting[: len(batch)] = left
    return found


def logits(core: Core, many: Sequence[Sequence[int]], chunk: int) -> list[npt.NDArray[np.float32]]:
    """Logits of every token of several sequences, which share forward passes -> [(n, vocab) float32]."""
    outs = [np.empty((len(ids), core.open().vocab), np.float32) for ids in many]
    sequences: list[_engine.Sequence | None] = [None] * len(many)
    at = [0] * len(many)
    first = 0
    with Turns(core, "logits", [len(ids) for ids in many]) as turns:
        most = min(chunk, turns.max_rows)
        while first < len(many):
            parts, places, room = [], [], turns.rows(most, at[first])
            for i in range(first, min(first + turns.together, len(many))):
                n = min(room, len(many[i]) - at[i])
                sequence = sequences[i] = sequences[i] or turns.sequence()
                parts.append((sequence, many[i][at[i] : at[i] + n], 0))
                places.append((i, n))
                room -= n
                if not room:
                    break
            i, n = places[0]
            alone = len(places) == 1
            shape = sum(n for _, n in places), turns.vocab
            out = outs[i][at[i] : at[i] + n] if alone else np.empty(shape, np.float32)
            failed: dict[int, Exception] = {}
            try:
                turns.forward(parts, out=out, failed=failed)
            except OutOfMemoryError:
                if turns.fewer(len(parts)):
                    continue
                raise
            for part, error in failed.items():
                raise NumericsError(f"ids[{places[part][0]}]: {error}") if len(many) > 1 else error
            row = 0
            for (i, n), (sequence, _, _) in zip(places, parts, strict=True):
                if not alone:
                    outs[i][at[i] : at[i] + n] = out[row : row + n]
                at[i] += n
                row += n
                if at[i] == len(many[i]):
                    turns.drop(sequence)
                    first = i + 1
    return outs
