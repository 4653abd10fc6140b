"""Compact attention weights: the largest of each row, as square roots in 8 bits.

The square root gives finer steps to small weights: most are below a hundredth, and linear steps of 1/255 would lose a
fifth of some rows. Weights are stored by columns, since neighbours in a column are more alike than in a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pellucid.page.blocks import encode

__all__ = ["LADDER", "Kept", "Rung", "choose", "pack", "unpack"]

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
EVERY = 3  # every third head of every third layer is encoded to estimate the total size


class Rung(NamedTuple):
    """What is kept of a row: the largest weights that sum to this share of it, at most this number (0: any)."""

    share: float
    most: int = 0


# From all weights to few; after the last one, only thumbnails are left.
LADDER = (Rung(1.0), Rung(0.99), Rung(0.98), Rung(0.95), Rung(0.90), Rung(0.90, 16), Rung(0.90, 8))


class Kept(NamedTuple):
    """A head's weights (n (n + 1) / 2), column by column, and the share (n) of each row that is left out, in 255ths."""

    weights: Bytes
    rest: Bytes


def pack(weights: Floats, rung: Rung) -> Kept:
    """weights (n, n): rows sum to 1, nothing above the diagonal."""
    n = len(weights)
    kept = weights
    if rung.share < 1 or rung.most:
        falling = -np.sort(-weights, axis=1)
        sums = np.cumsum(falling, axis=1, dtype=np.float64)
        count = (sums < rung.share * sums[:, -1:]).sum(axis=1)
        count = np.minimum(count, (rung.most or n) - 1)
        least = falling[np.arange(n), np.minimum(count, n - 1)]
        kept = np.where(weights >= least[:, None], weights, np.float32(0))
    codes = np.rint(255 * np.sqrt(kept)).astype(np.uint8)
    left = np.where(codes == 0, weights, 0).sum(axis=1, dtype=np.float64)
    rest = np.rint(255 * np.clip(left, 0, 1)).astype(np.uint8)
    return Kept(codes.T[_upper(n)], rest)


def unpack(codes: Bytes, n: int) -> Floats:
    """-> (n, n)."""
    out = np.zeros((n, n), np.float32)
    out[_upper(n)] = np.square(codes.astype(np.float32) / 255)
    return out.T


def _upper(n: int) -> npt.NDArray[np.bool_]:
    return np.triu(np.ones((n, n), np.bool_))


def choose(
    layers: Sequence[int], heads: Callable[[int], Iterable[Floats]], room: int
) -> tuple[Rung | None, dict[int, tuple[tuple[str, str], Bytes]]]:
    """The first rung with which the layers fit into `room` bytes of text -> (rung, {layer: (the block's type and text,
    rest (heads, n))}); None and an empty dict if not even the last one fits.

    heads: a layer's number -> the weights (n, n) of each head. It is called several times.
    """
    sample = layers[::EVERY]
    for rung in LADDER:
        about = 0.0
        for layer in sample:
            about += _about(heads(layer), rung) * len(layers) / len(sample)
            if about > 1.15 * room:
                break
        else:
            found, size = {}, 0
            for layer in layers:
                found[layer] = _layer(heads(layer), rung)
                size += len(found[layer][0][1])
                if size > room:
                    break
            else:
                return rung, found
    return None, {}


def _about(heads: Iterable[Floats], rung: Rung) -> float:
    """The estimated size of a layer's block, from some of its heads."""
    size, some, count = 0, 0, 0
    for count, one in enumerate(heads, 1):
        if count % EVERY == 1:
            size += len(_encode(pack(one, rung).weights)[1])
            some += 1
    return size * count / some if some else 0.0


def _layer(heads: Iterable[Floats], rung: Rung) -> tuple[tuple[str, str], Bytes]:
    packed = [pack(one, rung) for one in heads]
    return _encode(np.concatenate([one.weights for one in packed])), np.stack([one.rest for one in packed])


def _encode(codes: Bytes) -> tuple[str, str]:
    return encode(codes, grouped=True)
