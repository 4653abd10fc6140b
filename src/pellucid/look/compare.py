"""How far a model's predictions are from another's, such as those of a quantised file from its original."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid import _engine
from pellucid.core import Core
from pellucid.errors import WrongValue
from pellucid.look.score import windows
from pellucid.schedule.turns import Turns

__all__ = ["Comparison", "compare"]

_ROWS = 32  # maximum rows whose logits are in memory: two float32 (rows, vocabulary)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison of the predictions for `tokens` tokens by a model and a reference.

    kl_*: Kullback-Leibler divergence of the model from the reference, the sum over the vocabulary of p log(p / q) with
    the reference's p, in nats: mean, median and 99th percentile. agreement: share of tokens for which both have the
    same likeliest token. perplexity: exp of the mean surprise, and the standard error of that estimate (NaN for a
    single token), for both models.
    """

    tokens: int
    kl_mean: float
    kl_median: float
    kl_99: float
    agreement: float
    perplexity: float
    perplexity_error: float
    reference_perplexity: float
    reference_perplexity_error: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data; None for numbers that are not finite, such as the standard error of a single token."""
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}


def compare(core: Core, reference: Core, texts: Sequence[str], window: int) -> Comparison:
    """Compares predictions of each text's tokens, in parts of `window` tokens as in `score`.

    Raises ValueError if the models cut a text into different tokens, if the reference's context is shorter than the
    window, or if there is no token to predict.
    """
    for one in (core, reference):
        one.decoder()
    sizes = core.config.vocab, reference.config.vocab
    if sizes[0] != sizes[1]:
        raise WrongValue("reference", f": it has a vocabulary of {sizes[1]} tokens, the model {sizes[0]}")
    many = [core.prompt_ids(text) for text in texts]
    if many != [reference.prompt_ids(text) for text in texts]:
        raise WrongValue("reference", ": it cuts the text into different tokens than the model")
    longest = min(max(map(len, many), default=0), window)
    if longest > reference.context_length:
        found = f": its context has {reference.context_length} tokens; window={reference.context_length} makes parts"
        raise WrongValue("reference", f"{found} of the text that fit")
    kl: list[float] = []
    same: list[bool] = []
    surprise: tuple[list[float], list[float]] = [], []
    for ids in many:
        for part, first in windows(ids, window):
            with ExitStack() as stack:
                # In a fixed order, so that two such calls never deadlock; only once if both are the same.
                cores = sorted({core, reference}, key=id)
                turns = {one: stack.enter_context(Turns(one, "logits", [len(part)] * 2)) for one in cores}
                _part((turns[core], turns[reference]), part, first, kl, same, surprise)
    if not kl:
        raise WrongValue("text", " has no token to predict")
    ours, theirs = (_perplexity(np.array(one)) for one in surprise)
    return Comparison(
        len(kl), float(np.mean(kl)), float(np.median(kl)), float(np.percentile(kl, 99)), float(np.mean(same)),
        *ours, *theirs,
    )  # fmt: skip


def _part(
    both: tuple[Turns, Turns],
    ids: list[int],
    first: int,
    kl: list[float],
    same: list[bool],
    surprise: tuple[list[float], list[float]],
) -> None:
    """Adds the predictions for the tokens of `ids` from `first` on."""
    sequences = [turns.sequence() for turns in both]
    start = 0
    while start < len(ids) - 1:
        step = min(turns.rows(min(_ROWS, turns.max_rows), start) for turns in both)
        rows = np.array(ids[start : min(start + step, len(ids) - 1)], np.int32)
        skip = min(max(first - 1 - start, 0), len(rows))
        targets = ids[start + skip + 1 : start + len(rows) + 1]
        q, p = (_log_probabilities(*one, rows, skip) for one in zip(both, sequences, strict=True))
        kl += (np.exp(p) * (p - q)).sum(axis=1).tolist()
        same += (p.argmax(axis=1) == q.argmax(axis=1)).tolist()
        for found, into in zip((q, p), surprise, strict=True):
            into += (-found[np.arange(len(targets)), targets]).tolist()
        start += len(rows)


def _log_probabilities(
    turns: Turns, sequence: _engine.Sequence, rows: npt.NDArray[np.int32], skip: int
) -> npt.NDArray[np.float64]:
    """(rows - skip, vocabulary), after the rows have run."""
    out = np.empty((len(rows) - skip, turns.vocab), np.float32)
    turns.forward([(sequence, rows, skip)], out=out)
    x = out.astype(np.float64)
    x -= x.max(axis=1, keepdims=True, initial=-math.inf)
    x -= np.log(np.exp(x).sum(axis=1, keepdims=True))
    return x


def _perplexity(surprise: npt.NDArray[np.float64]) -> tuple[float, float]:
    """exp(mean), and its standard error: that of the mean, propagated through exp."""
    value = math.exp(min(float(surprise.mean()), 700.0))
    error = float(surprise.std(ddof=1)) / math.sqrt(len(surprise)) if len(surprise) > 1 else math.nan
    return value, value * error
