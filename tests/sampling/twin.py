"""The sampler again, in NumPy and float64, by sorting everything: what csrc/engine/sample.h says, in its order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass
class Kept:
    """Tokens left, most probable first, and what they are drawn with.

    margin: how far the nearest decision (a sum against top_p, a probability against min_p, ...) was from going the other
    way. Below float32's rounding, another arithmetic may rightly decide otherwise.
    """

    ids: Ints
    probs: Floats
    margin: float


def softmax(x: Floats) -> Floats:
    e = np.exp(x - x.max())
    return e / e.sum()


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


def smallest_sum(p: Floats, least: float) -> tuple[int, float]:
    """How many of p, in order, add up to at least `least` (one at the least), and the margin of that."""
    sums = np.cumsum(p)
    n = min(int(np.searchsorted(sums, least, "left")) + 1, len(p))
    return n, float(np.abs(sums - least).min())


def kept(
    x: Floats, *, temperature: float = 1, top_k: int = 0, typical_p: float = 1, top_p: float = 1, min_p: float = 0
) -> Kept:
    """The filters, on adjusted logits (vocab)."""
    order = np.argsort(-x, kind="stable")
    order = order[np.isfinite(x[order])]
    margin = np.inf
    if temperature == 0:
        return Kept(order[:1], np.ones(1), margin)
    if 0 < top_k < len(x):
        order = order[:top_k]
    if typical_p < 1:
        p = softmax(x[order])
        surprise = -np.log(p, where=p > 0, out=np.full(len(p), -800.0))
        off = np.abs(surprise - np.sum(p * surprise))
        by_off = np.lexsort((order, off))
        n, near = smallest_sum(p[by_off], typical_p)
        margin = min(margin, near)
        if n < len(p):
            last, following = by_off[n - 1], by_off[n]
            if x[order[last]] != x[order[following]]:
                margin = min(margin, abs(off[last] - off[following]))
        order = order[np.sort(by_off[:n])]
    if top_p < 1:
        n, near = smallest_sum(softmax(x[order]), float(np.float32(top_p)))
        margin = min(margin, near)
        order = order[:n]
    if min_p > 0:
        p = softmax(x[order])
        ratio = p / p[0]
        ratio[x[order] == x[order[0]]] = 1
        margin = min(margin, float(np.abs(ratio / min_p - 1).min()) if min_p < 1 else np.inf)
        order = order[ratio >= min_p]
    return Kept(order, softmax(x[order] / temperature), margin)


def philox(key: tuple[int, int], counter: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Ten rounds of Philox-4x32 (Salmon et al. 2011)."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(10):
        ac, bd = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (bd >> 32) ^ b ^ k0, bd % 2**32, (ac >> 32) ^ d ^ k1, ac % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return a, b, c, d


def uniform(seed: int, step: int) -> float:
    a, b, _, _ = philox((seed % 2**32, seed >> 32), (step % 2**32, step >> 32, 0, 0))
    return ((b << 32 | a) >> 11) / 2**53
