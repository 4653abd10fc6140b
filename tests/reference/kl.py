"""Distance between next-token distributions: KL(reference || candidate) in nats, and agreement on the likeliest token.

Everything is computed in float64, in blocks of rows: two models' logits at 262,144 tokens each need 4 MB a row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BLOCK = 32  # rows held in float64 at a time: 67 MB at 262,144 tokens

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Divergence:
    """Per position: `kl` in nats, and whether both distributions have the same likeliest token."""

    kl: Floats  # (n,)
    same_top: npt.NDArray[np.bool_]  # (n,)

    @property
    def mean(self) -> float:
        """Mean KL over positions, in nats."""
        return float(self.kl.mean())

    @property
    def agreement(self) -> float:
        """Share of positions with the same likeliest token, 0 to 1."""
        return float(self.same_top.mean())

    def __str__(self) -> str:
        return (
            f"{len(self.kl)} positions: mean KL {self.mean:.6f}, 99th percentile {np.quantile(self.kl, 0.99):.4f}, "
            f"largest {self.kl.max():.4f}, top-1 agreement {100 * self.agreement:.2f} %"
        )


def join(parts: Iterable[Divergence]) -> Divergence:
    """One Divergence over the positions of several."""
    each = list(parts)
    return Divergence(np.concatenate([d.kl for d in each]), np.concatenate([d.same_top for d in each]))


def log_softmax(logits: npt.ArrayLike) -> Floats:
    """Natural log probabilities of (n, vocab) logits, in float64; ValueError when a logit is NaN or infinite."""
    z = _shifted(logits)
    z -= np.log(np.exp(z).sum(axis=-1, keepdims=True))
    return z


def top_and_rest(logits: npt.ArrayLike, ids: npt.NDArray[np.integer]) -> tuple[Floats, Floats]:
    """Log probabilities of `ids` (n, k) under logits (n, vocab), and the log of the mass of all other tokens (n,).

    The mass is summed over the other tokens: 1 minus the sum of the top would lose all digits where the top holds
    nearly everything. ValueError when a logit is NaN or infinite.
    """
    z = _shifted(logits)
    places = ids.astype(np.int64)
    top = np.take_along_axis(z, places, axis=-1)
    others = np.exp(z, out=z)
    np.put_along_axis(others, places, 0.0, axis=-1)
    rest = others.sum(axis=-1)
    total = np.log(np.exp(top).sum(axis=-1) + rest)
    with np.errstate(divide="ignore"):
        return top - total[:, None], np.log(rest) - total


def _shifted(logits: npt.ArrayLike) -> Floats:
    """A float64 copy with every row's largest at 0."""
    z = np.array(logits, dtype=np.float64)
    largest = z.max(axis=-1, keepdims=True)
    if not (np.isfinite(largest).all() and np.isfinite(z.min())):
        bad = np.argwhere(~np.isfinite(z))[0]
        raise ValueError(f"logit [{bad[0]}, {bad[1]}] is {z[tuple(bad)]}, expected a finite number")
    z -= largest
    return z


def top_divergence(
    ids: npt.NDArray[np.integer], top_log_p: npt.ArrayLike, rest_log_p: npt.ArrayLike, logits: npt.NDArray[np.float32]
) -> Divergence:
    """KL of candidate `logits` (n, vocab) from a reference of which the k likeliest tokens are known.

    ids, top_log_p: (n, k), likeliest first. rest_log_p: (n,), log of the mass of all other tokens.

    The other tokens count as one: sum over the k of p log(p / q), plus P log(P / Q) for the rest. Merging outcomes
    never enlarges a KL divergence (log-sum inequality), so this is a lower bound of the full one; what it misses is
    P times the divergence inside the rest. The reference is scaled to sum to 1 first, so that its rounding to a
    grid enters in second order only.
    """
    if len(ids) != len(logits):
        raise ValueError(f"the reference has {len(ids)} positions, the candidate {len(logits)}")
    p_top = np.exp(np.asarray(top_log_p, dtype=np.float64))
    p_rest = np.exp(np.asarray(rest_log_p, dtype=np.float64))
    total = p_top.sum(axis=-1) + p_rest
    p_top, p_rest = p_top / total[:, None], p_rest / total
    kl = np.empty(len(ids))
    same = np.empty(len(ids), dtype=np.bool_)
    for start in range(0, len(ids), BLOCK):
        rows = slice(start, start + BLOCK)
        q_top, q_rest = top_and_rest(logits[rows], ids[rows])
        kl[rows] = _parts(p_top[rows], q_top).sum(axis=-1) + _parts(p_rest[rows], q_rest)
        same[rows] = logits[rows].argmax(axis=-1) == ids[rows, 0]
    return Divergence(kl, same)


def full_divergence(reference: npt.NDArray[np.float32], candidate: npt.NDArray[np.float32]) -> Divergence:
    """KL of `candidate` from `reference`, both logits (n, vocab), over the whole vocabulary."""
    if reference.shape != candidate.shape:
        raise ValueError(f"the reference's logits are {reference.shape}, the candidate's {candidate.shape}")
    kl = np.empty(len(reference))
    same = np.empty(len(reference), dtype=np.bool_)
    for start in range(0, len(reference), BLOCK):
        rows = slice(start, start + BLOCK)
        log_p, log_q = log_softmax(reference[rows]), log_softmax(candidate[rows])
        kl[rows] = _parts(np.exp(log_p), log_q, log_p).sum(axis=-1)
        same[rows] = reference[rows].argmax(axis=-1) == candidate[rows].argmax(axis=-1)
    return Divergence(kl, same)


def _parts(p: Floats, log_q: Floats, log_p: Floats | None = None) -> Floats:
    """p log(p / q), which is 0 where p is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = p * ((np.log(p) if log_p is None else log_p) - log_q)
    return np.where(p > 0, parts, 0.0)
