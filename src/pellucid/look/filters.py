"""The sampler's steps one by one, in float64 and by full sorting, as csrc/engine/sample.h defines them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["Filters", "dry_lengths", "dry_penalty", "philox", "smallest_sum", "softmax", "uniform"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def softmax(x: Floats) -> Floats:
    e: Floats = np.exp(x - x.max())
    e /= e.sum()
    return e


def smallest_sum(p: Floats, least: float) -> tuple[int, float]:
    """The number of leading values of p that sum to `least` or more (at least one), and the margin of this decision."""
    sums = np.cumsum(p)
    n = min(int(np.searchsorted(sums, least, "left")) + 1, len(p))
    return n, float(np.abs(sums - least).min())


class Filters:
    """ids: the tokens left, most probable first; x: their logits / temperature.

    margin: how far the closest decision (a sum against top_p, a probability against min_p, ...) was from the opposite
    one. Below float32's rounding, other arithmetic may legitimately decide differently. by_id: whether the engine still
    holds the whole row, and so draws in the order of ids.
    """

    def __init__(self, logits: Floats) -> None:
        self.vocab = len(logits)
        self.margin = np.inf
        self.scale = 1.0  # the temperature so far
        self.by_id = True
        order = np.argsort(-logits, kind="stable")
        self.keep(order, logits[order])

    def keep(self, ids: Ints, x: Floats) -> None:
        possible = x > -np.inf
        self.ids, self.x = ids[possible], x[possible]

    def near(self, distance: float | Floats) -> None:
        self.margin = min(self.margin, float(np.min(np.abs(distance), initial=np.inf)))

    def change(self, changed: Mapping[int, float]) -> None:
        x = np.array([changed.get(int(i), v) for i, v in zip(self.ids, self.x, strict=True)])
        order = np.lexsort((self.ids, -x))
        self.keep(self.ids[order], x[order])

    def penalties(
        self, recent: Sequence[int], repeat_penalty: float, presence_penalty: float, frequency_penalty: float
    ) -> None:
        changed, counts = {}, Counter(recent)
        for token, x in zip(self.ids.tolist(), self.x.tolist(), strict=True):
            if token in counts:
                x = x / repeat_penalty if x > 0 else x * repeat_penalty
                changed[token] = x - presence_penalty - counts[token] * frequency_penalty
        self.change(changed)

    def dry(self, lengths: Mapping[int, int], multiplier: float, base: float, allowed_length: int) -> None:
        changed = {}
        for token, x in zip(self.ids.tolist(), self.x.tolist(), strict=True):
            if token in lengths:
                changed[token] = x - dry_penalty(lengths[token], multiplier, base, allowed_length, self.scale)
        self.change(changed)

    def top_n_sigma(self, n: float) -> None:
        bound = self.x[0] - n * np.std(self.x)
        self.near((self.x - bound) / max(1e-30, abs(self.x[0]), abs(bound)) * 1e6)  # float64 in the engine, too
        self.by_id &= bool((self.x >= bound).all())
        self.keep(self.ids[self.x >= bound], self.x[self.x >= bound])

    def top_k(self, k: int) -> None:
        if 0 < k < self.vocab:
            self.by_id = False
            self.keep(self.ids[:k], self.x[:k])

    def typical_p(self, typical_p: float) -> None:
        p = softmax(self.x)
        surprise = -np.log(p, where=p > 0, out=np.full(len(p), -800.0))
        off = np.abs(surprise - np.sum(p * surprise))
        by_off = np.lexsort((self.ids, off))
        n, near = smallest_sum(p[by_off], typical_p)
        self.near(near)
        if n < len(p):
            last, following = by_off[n - 1], by_off[n]
            if self.x[last] != self.x[following]:
                self.near(off[last] - off[following])
        chosen = np.sort(by_off[:n])
        self.by_id = False
        self.keep(self.ids[chosen], self.x[chosen])

    def top_p(self, top_p: float) -> None:
        n, near = smallest_sum(softmax(self.x), float(np.float32(top_p)))
        self.near(near)
        self.by_id = False
        self.keep(self.ids[:n], self.x[:n])

    def min_p(self, min_p: float) -> None:
        p = softmax(self.x)
        ratio = p / p[0]
        ratio[self.x == self.x[0]] = 1
        if min_p < 1:
            self.near(ratio / min_p - 1)
        self.by_id = False
        self.keep(self.ids[ratio >= min_p], self.x[ratio >= min_p])

    def xtc(self, u: float, probability: float, threshold: float) -> None:
        if u >= probability:
            return
        p = softmax(self.x)
        if threshold > 0:
            self.near(p / threshold - 1)
        above = int(np.sum(p >= threshold))
        self.by_id &= threshold > 0
        if above > 1:
            self.keep(self.ids[above - 1 :], self.x[above - 1 :])

    def temperature(self, temperature: float, spread: float = 0, exponent: float = 1) -> None:
        if spread > 0 and len(self.x) > 1:
            p = softmax(self.x)
            entropy = -np.sum(p[p > 0] * np.log(p[p > 0]))
            low, high = max(temperature - spread, 0), temperature + spread
            share = min(max(entropy / np.log(len(p)), 0), 1)
            temperature = low + (high - low) * share**exponent
        self.scale = max(temperature, float(np.finfo(np.float32).tiny))
        self.x = self.x / self.scale

    def mirostat(self, mu: float) -> None:
        p = softmax(self.x)
        bits = -np.log2(p, where=p > 0, out=np.full(len(p), -2000.0))
        self.near(bits - mu)
        n = max(1, int(np.sum(bits <= mu)))
        self.by_id &= n == len(p)
        self.keep(self.ids[:n], self.x[:n])


def dry_penalty(length: int, multiplier: float, base: float, allowed_length: int, scale: float) -> float:
    """The amount that DRY subtracts from a logit / temperature; bounded, so that it stays finite."""
    try:
        penalty = multiplier * float(base) ** (length - allowed_length)
    except OverflowError:
        penalty = np.inf
    return min(penalty, 1e30 / scale)


def dry_lengths(ids: Sequence[int], least: int, breaks: Sequence[int] | None = None) -> dict[int, int]:
    """Token that followed an earlier occurrence of the last n tokens, n at least `least` -> the largest such n.

    breaks: one for each id, not 0 if a repetition must not cross it. Uses the Z algorithm (Gusfield 1997) on the
    reversed ids.
    """
    n, least = len(ids), max(least, 1)
    most = next((i for i in range(n) if breaks is not None and breaks[n - 1 - i]), n)
    longest: dict[int, int] = {}
    left = right = 0
    z = [0] * n
    for k in range(1, n if most >= least else 0):
        length = min(z[k - left], right - k) if k < right else 0
        if k + length >= right:
            while length < most and k + length < n and ids[n - 1 - length] == ids[n - 1 - k - length]:
                length += 1
            left, right = k, k + length
        z[k] = length
        if length >= least and not (breaks is not None and breaks[n - k]):
            following = ids[n - k]
            longest[following] = max(length, longest.get(following, 0))
    return longest


def philox(key: tuple[int, int], counter: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Ten rounds of Philox-4x32 (Salmon et al. 2011)."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(10):
        ac, bd = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (bd >> 32) ^ b ^ k0, bd % 2**32, (ac >> 32) ^ d ^ k1, ac % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return a, b, c, d


def uniform(seed: int, step: int, stream: int = 0) -> float:
    """The engine's random number in [0, 1) of a completion's token number `step`. stream: 0 for the draw itself, 1 for
    XTC."""
    a, b, _, _ = philox((seed % 2**32, seed >> 32), (step % 2**32, step >> 32, stream, 0))
    return ((b << 32 | a) >> 11) / 2**53
