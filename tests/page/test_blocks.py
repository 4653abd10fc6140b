"""Blocks, and attention weights in few bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pellucid.page import blocks, weights
from pellucid.page.weights import LADDER, Rung


@pytest.mark.parametrize("kind", blocks.TYPES)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 1000])
@pytest.mark.parametrize("ordered", [False, True])
def test_a_block_is_the_numbers(kind: str, n: int, ordered: bool) -> None:
    values = (np.random.default_rng(n).normal(size=n) * 100).astype(blocks.TYPES[kind])
    if ordered:
        values[::-1].sort()
    found, text = blocks.encode(values)
    assert found.split(" ")[0] == kind and not {*text} - {*map(chr, range(33, 127))} and not {*"<>&\"'`\\"} & {*text}
    assert blocks.decode(found, text).tobytes() == values.tobytes()
    assert blocks.encode(values.astype(values.dtype.newbyteorder(">"))) == (found, text)
    assert blocks.encode(values) == (found, text)


def test_what_a_block_costs() -> None:
    """Letters are a quarter more than bytes; falling numbers take their differences."""
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, 10000).astype(np.uint8)
    assert 12500 <= len(blocks.encode(noise)[1]) < 12520
    falling = -np.sort(-rng.normal(15, 3, 10000).astype(np.float32))
    kind, text = blocks.encode(falling)
    assert kind == "f32 delta" and len(text) < 0.5 * 1.25 * falling.nbytes
    assert blocks.encode(rng.normal(size=10000).astype(np.float32))[0] == "f32"


@pytest.mark.parametrize("n", [0, 1, 1000])
def test_bytes_in_groups(n: int) -> None:
    values = (np.random.default_rng(n).normal(size=n).cumsum() * 3).astype(np.int64).astype(np.uint8)
    kind, text = blocks.encode(values, grouped=True)
    assert kind == "u8 grouped" and blocks.decode(kind, text).tolist() == values.tolist()
    if n > 1:
        assert len(text) < 0.95 * len(blocks.encode(values)[1])


def test_half_stays_finite() -> None:
    assert blocks.half([1e9, -1e9, 0.1]).tolist() == [65504, -65504, float(np.float16(0.1))]


def rows(n: int, sharp: float, seed: int = 0) -> Any:
    x = np.random.default_rng(seed).normal(size=(n, n)) * sharp
    x[np.triu_indices(n, 1)] = -np.inf
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return (e / e.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("rung", LADDER)
@pytest.mark.parametrize(("n", "sharp"), [(1, 1.0), (2, 1.0), (7, 3.0), (150, 0.5), (150, 4.0)])
def test_weights_within_the_stated_error(rung: Rung, n: int, sharp: float) -> None:
    w = rows(n, sharp)
    codes, rest = weights.pack(w, rung)
    assert codes.dtype == rest.dtype == np.uint8 and codes.shape == (n * (n + 1) // 2,) and rest.shape == (n,)
    found = weights.unpack(codes, n)
    assert not found[np.triu_indices(n, 1)].any()
    kept = found > 0
    step = 1 / 255
    assert (np.abs(found - w)[kept] <= step * np.sqrt(w[kept]) + step**2 / 4 + 1e-7).all()
    left = np.where(kept, 0, w).sum(axis=1)
    assert np.abs(left - rest / 255).max() <= 0.5 / 255 + 1e-6
    assert np.abs(found.sum(axis=1) + rest / 255 - 1).max() <= 0.03
    if rung.most:
        assert kept.sum(axis=1).max() <= rung.most
    else:
        # Codes of 0 are of weights below (0.5 / 255)^2, of which a row of 150 has little.
        assert left.max() <= 1 - rung.share + 1e-6 + n * (0.5 / 255) ** 2
    for i in range(n):  # the largest are kept
        if kept[i].any() and not kept[i, : i + 1].all():
            assert w[i][kept[i]].min() >= w[i, : i + 1][~kept[i, : i + 1]].max()


def test_weights_that_are_equal_stay_equal() -> None:
    w = np.tril(np.ones((40, 40), np.float32))
    w /= w.sum(axis=1, keepdims=True)
    found = weights.unpack(weights.pack(w, Rung(0.9)).weights, 40)
    assert all(len(np.unique(found[i, : i + 1])) == 1 for i in range(40))


def test_columns_follow_one_another() -> None:
    w = rows(5, 1.0)
    codes = np.rint(255 * np.sqrt(w)).astype(np.uint8)
    expected = [codes[row, column] for column in range(5) for row in range(column, 5)]
    assert weights.pack(w, Rung(1.0)).weights.tolist() == expected


def test_the_ladder_keeps_as_much_as_fits() -> None:
    maps = {layer: [rows(120, 0.7, 3 * layer + head) for head in range(3)] for layer in range(7)}

    def size(rung: Rung) -> int:
        return sum(
            len(blocks.encode(np.concatenate([weights.pack(w, rung).weights for w in heads]), grouped=True)[1])
            for heads in maps.values()
        )

    sizes = [size(rung) for rung in LADDER]
    assert sizes == sorted(sizes, reverse=True)
    for i, rung in enumerate(LADDER):
        found, packed = weights.choose(list(maps), maps.__getitem__, sizes[i])
        assert found == rung and sum(len(text) for (_, text), _ in packed.values()) == sizes[i]
        assert {layer: rest.shape for layer, (_, rest) in packed.items()} == dict.fromkeys(maps, (3, 120))
    assert weights.choose(list(maps), maps.__getitem__, sizes[-1] - 1) == (None, {})
    assert weights.choose([], maps.__getitem__, 0) == (LADDER[0], {})
