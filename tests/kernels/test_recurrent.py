"""Kernels of recurrent layers: every tier equals the scalar one bit for bit; that is compared with float64 NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pellucid._kernels import recurrent, weights
from tests.kernels.guard import at_end, at_start

Array = np.ndarray[Any, Any]
ISAS: list[str] = weights.isas()
SIDES = [at_end, at_start]
CHANNELS = [1, 3, 4, 7, 8, 15, 16, 17, 33, 576]
WIDTHS = [(1, 1, 1), (3, 16, 16), (2, 5, 7), (1, 128, 16), (7, 64, 3), (4, 18, 16), (11, 21, 16)]  # rows, keys, columns


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([*shape, seed]).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("taps", [1, 3, 4, recurrent.MOST_TAPS])
def test_convolution_has_the_scalar_bits_between_guards(isa: str, taps: int) -> None:
    for n in CHANNELS:
        x, by, w, bias = normal(taps, n), normal(taps, n, seed=1), normal(taps, n, seed=2), normal(n, seed=3)
        factors = [by[j] if j % 2 else None for j in range(taps)]
        for f in (factors, [None] * taps, list(by)):
            for b in (bias, None):
                expected = recurrent.conv("scalar", list(x), f, w, b)
                for side in SIDES:
                    own = [None if one is None else side(one) for one in f]
                    got = recurrent.conv(
                        isa, [side(one) for one in x], own, side(w), None if b is None else side(b), side(bias)
                    )
                    assert got.tobytes() == expected.tobytes(), (n, b is None)


def test_scalar_convolution_against_numpy() -> None:
    x, by, w, bias = normal(4, 33), normal(4, 33, seed=1), normal(4, 33, seed=2), normal(33, seed=3)
    a, f, c = x.astype(np.float64), by.astype(np.float64), w.astype(np.float64)
    bound = 8 * 2.0**-24 * (np.abs(c * a * f).sum(0) + np.abs(bias))
    assert np.all(np.abs(recurrent.conv("scalar", list(x), list(by), w, bias) - ((c * a * f).sum(0) + bias)) <= bound)


KINDS = ["mamba", "delta", "each"]  # each: the delta rule with a decay for each key channel


def rows(n: int, dk: int, cols: int, kind: str = "delta") -> tuple[Array, Array, Array, Array, Array]:
    """q, k, v as columns of one array; gates; a state with zeros in the columns that are not used."""
    x = normal(n, 2 * dk + cols)
    gates = np.abs(normal(n, 4 + dk if kind == "each" else 4, seed=1))
    gates[:, 0] = 1 / (1 + gates[:, 0])
    gates[:, 4:] = 1 / (1 + gates[:, 4:])
    gates[:, 3] = dk**-0.5
    state = normal(dk, recurrent.COLUMNS, seed=2)
    state[:, cols:] = 0
    return x[:, :dk], x[:, dk : 2 * dk], x[:, 2 * dk :], gates, state


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", KINDS)
def test_recurrence_has_the_scalar_bits_between_guards(isa: str, kind: str) -> None:
    delta = kind != "mamba"
    for n, dk, cols in WIDTHS:
        q, k, v, gates, state = rows(n, dk, cols, kind)
        after = state.copy()
        expected, bad = recurrent.scan("scalar", q, k, v, gates, 0.7, delta, after)
        assert not bad
        for side in SIDES:
            x = side(np.concatenate([q, k, v], axis=1))
            own, out = side(state), side(np.full((n, cols), np.nan, np.float32))
            _, bad = recurrent.scan(
                isa, x[:, :dk], x[:, dk : 2 * dk], x[:, 2 * dk :], side(gates), 0.7, delta, own, out
            )
            assert not bad
            assert out.tobytes() == expected.tobytes(), (n, dk, cols)
            assert np.array_equal(own, after)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_one_by_one_have_the_same_bits(isa: str, kind: str) -> None:
    q, k, v, gates, state = rows(7, 20, 16, kind)
    at_once, one_by_one = state.copy(), state.copy()
    delta = kind != "mamba"
    expected, _ = recurrent.scan(isa, q, k, v, gates, 0.0, delta, at_once)
    for i in range(7):
        part = slice(i, i + 1)
        got, _ = recurrent.scan(isa, q[part], k[part], v[part], gates[part].copy(), 0.0, delta, one_by_one)
        assert got[0].tobytes() == expected[i].tobytes()
    assert one_by_one.tobytes() == at_once.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_scalar_recurrence_against_numpy(kind: str) -> None:
    q, k, v, gates, state = rows(5, 12, 9, kind)
    delta = kind != "mamba"
    s = state[:, :9].astype(np.float64)
    own = state.copy()
    got, _ = recurrent.scan("scalar", q, k, v, gates, 0.7, delta, own)
    for i in range(5):
        decay, gain, q_scale, k_scale = gates[i, :4].astype(np.float64)
        s = s * (gates[i, 4:, None].astype(np.float64) if kind == "each" else decay)
        key, value = k[i] * k_scale, v[i].astype(np.float64)
        s = s + np.outer(key, gain * (value - s.T @ key if delta else value))
        assert np.allclose(got[i], s.T @ (q[i] * q_scale) + np.float32(0.7) * value, rtol=2e-5, atol=2e-5)
    assert np.allclose(own[:, :9], s, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_a_state_that_is_not_finite_is_reported(isa: str) -> None:
    for where in [(0, 0), (11, 8)]:
        for value in (np.nan, np.inf, -np.inf):
            q, k, v, gates, state = rows(1, 12, 9)
            state[where] = value
            assert recurrent.scan(isa, q, k, v, gates, 0.0, True, state)[1]
