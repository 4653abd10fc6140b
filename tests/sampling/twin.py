"""The sampler in NumPy and float64, as csrc/engine/sample.h defines it and in its order: the steps are those of
pellucid.look.filters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid.look.filters import Filters as Steps
from pellucid.look.filters import philox, softmax, uniform

__all__ = ["ORDER", "Kept", "adjusted", "dry_lengths", "kept", "logprobs", "philox", "softmax", "uniform"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass
class Kept:
    """The tokens left, most probable first, and the probabilities that they are drawn with.

    margin: how far the nearest decision (a sum against top_p, a probability against min_p, ...) was from going the
    other way. Below float32's rounding, another arithmetic may rightly decide otherwise.
    """

    ids: Ints
    probs: Floats
    margin: float


def logprobs(logits: npt.NDArray[np.float32]) -> Floats:
    """Natural log of softmax, (vocab)."""
    x = logits.astype(np.float64)
    top = x.max()
    with np.errstate(divide="ignore"):
        return x - top - np.log(np.exp(x - top).sum())


def adjusted(
    logits: npt.NDArray[np.float32],
    *,
    mask: npt.NDArray[np.bool_] | None = None,
    bias: Mapping[int, float] | None = None,
    recent: Sequence[int] = (),
    repeat_penalty: float = 1,
    presence_penalty: float = 0,
    frequency_penalty: float = 0,
) -> Floats:
    """Logits after penalties, bias and mask."""
    x = logits.astype(np.float64)
    for token in set(recent):
        x[token] = x[token] / repeat_penalty if x[token] > 0 else x[token] * repeat_penalty
        x[token] -= presence_penalty + list(recent).count(token) * frequency_penalty
    for token, value in (bias or {}).items():
        x[token] += value
    if mask is not None:
        x[~mask] = -np.inf
    return x


ORDER = ("penalties", "dry", "top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc", "temperature")


def kept(
    logits: Floats,
    *,
    order: Sequence[str] = ORDER,
    temperature: float = 1,
    top_k: int = 0,
    typical_p: float = 1,
    top_p: float = 1,
    min_p: float = 0,
    top_n_sigma: float = 0,
    xtc_probability: float = 0,
    xtc_threshold: float = 0.1,
    dynatemp_range: float = 0,
    dynatemp_exponent: float = 1,
    recent: Sequence[int] = (),
    repeat_penalty: float = 1,
    presence_penalty: float = 0,
    frequency_penalty: float = 0,
    dry: Mapping[int, int] | None = None,
    dry_multiplier: float = 0,
    dry_base: float = 1.75,
    dry_allowed_length: int = 2,
    bias: Mapping[int, float] | None = None,
    mirostat: int = 0,
    mirostat_mu: float = 10,
    xtc_u: float = 0,
) -> Kept:
    """The tokens that the steps keep. logits (vocab); dry: {token: length}; xtc_u: the random number of XTC."""
    s = Steps(logits)
    biased = bias is None
    for name in (*order, ""):
        if not biased and name not in ("penalties", "dry"):
            s.change({i: float(logits_i) + bias.get(int(i), 0) for i, logits_i in zip(s.ids, s.x, strict=True)})  # type: ignore[union-attr]
            biased = True
        filters = temperature > 0 and not mirostat
        if name == "penalties":
            s.penalties(recent, repeat_penalty or 1, presence_penalty, frequency_penalty)
        elif name == "dry" and dry_multiplier > 0:
            s.dry(dry or {}, dry_multiplier, dry_base, dry_allowed_length)
        elif name == "top_n_sigma" and filters and top_n_sigma > 0:
            s.top_n_sigma(top_n_sigma)
        elif name == "top_k" and filters:
            s.top_k(top_k)
        elif name == "typical_p" and filters and 0 < typical_p < 1:
            s.typical_p(typical_p)
        elif name == "top_p" and filters and top_p < 1:
            s.top_p(top_p)
        elif name == "min_p" and filters and min_p > 0:
            s.min_p(min_p)
        elif name == "xtc" and filters and xtc_probability > 0:
            s.xtc(xtc_u, xtc_probability, xtc_threshold)
        elif name == "temperature" and temperature > 0:
            s.temperature(temperature, dynatemp_range, dynatemp_exponent)
    if temperature == 0:
        return Kept(s.ids[:1], np.ones(1), s.margin)
    if mirostat:
        s.mirostat(mirostat_mu)
    return Kept(s.ids, softmax(s.x), s.margin)


def dry_lengths(ids: Sequence[int], least: int, breaks: Sequence[int] | None = None) -> dict[int, int]:
    """Token that followed an earlier occurrence of the last n tokens -> the largest such n; by brute force."""
    n = len(ids)
    broken = breaks if breaks is not None else [0] * n
    longest: dict[int, int] = {}
    for end in range(n - 1):  # the earlier occurrence's last token
        length = 0
        while length <= end and not broken[n - 1 - length] and ids[end - length] == ids[n - 1 - length]:
            length += 1
        if length >= max(least, 1) and not broken[end + 1]:
            longest[ids[end + 1]] = max(length, longest.get(ids[end + 1], 0))
    return longest
