"""The sampler in NumPy and float64, by full sorting, as csrc/engine/sample.h defines it and in its order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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
    """How many of p, in order, sum to `least` or more (at least one), and the margin of this decision."""
    sums = np.cumsum(p)
    n = min(int(np.searchsorted(sums, least, "left")) + 1, len(p))
    return n, float(np.abs(sums - least).min())


ORDER = ("penalties", "dry", "top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc", "temperature")


class Steps:
    """The sampler's steps one by one. ids: the tokens left, most probable first; x: their logits / temperature."""

    def __init__(self, logits: Floats) -> None:
        self.vocab = len(logits)
        self.margin = np.inf
        self.scale = 1.0  # the temperature so far
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
        changed = {}
        for token, x in zip(self.ids.tolist(), self.x.tolist(), strict=True):
            if token in recent:
                x = x / repeat_penalty if x > 0 else x * repeat_penalty
                changed[token] = x - presence_penalty - list(recent).count(token) * frequency_penalty
        self.change(changed)

    def dry(self, lengths: Mapping[int, int], multiplier: float, base: float, allowed_length: int) -> None:
        changed = {}
        for token, x in zip(self.ids.tolist(), self.x.tolist(), strict=True):
            if token in lengths:
                penalty = multiplier * float(base) ** (lengths[token] - allowed_length)
                changed[token] = x - min(penalty, 1e30 / self.scale)
        self.change(changed)

    def top_n_sigma(self, n: float) -> None:
        bound = self.x[0] - n * np.std(self.x)
        self.near((self.x - bound) / max(1e-30, abs(self.x[0]), abs(bound)) * 1e6)  # float64 there, too
        self.keep(self.ids[self.x >= bound], self.x[self.x >= bound])

    def top_k(self, k: int) -> None:
        if 0 < k < self.vocab:
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
        self.keep(self.ids[chosen], self.x[chosen])

    def top_p(self, top_p: float) -> None:
        n, near = smallest_sum(softmax(self.x), float(np.float32(top_p)))
        self.near(near)
        self.keep(self.ids[:n], self.x[:n])

    def min_p(self, min_p: float) -> None:
        p = softmax(self.x)
        ratio = p / p[0]
        ratio[self.x == self.x[0]] = 1
        if min_p < 1:
            self.near(ratio / min_p - 1)
        self.keep(self.ids[ratio >= min_p], self.x[ratio >= min_p])

    def xtc(self, u: float, probability: float, threshold: float) -> None:
        if u >= probability:
            return
        p = softmax(self.x)
        if threshold > 0:
            self.near(p / threshold - 1)
        above = int(np.sum(p >= threshold))
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
        self.keep(self.ids[:n], self.x[:n])


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
    a, b, _, _ = philox((seed % 2**32, seed >> 32), (step % 2**32, step >> 32, stream, 0))
    return ((b << 32 | a) >> 11) / 2**53
