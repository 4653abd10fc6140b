"""Kernels of rows as long as a vocabulary: every tier compared with the scalar one, that with float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from pellucid._kernels import vocab
from tests.kernels.test_rows import EPS, ISAS, KINDS, SIDES, SIZES, same, values, wide

LONG = [*SIZES, 1023, 1024, 1025, 1056, 5000]


def ulps(got: np.ndarray, exact: np.ndarray) -> float:
    """The largest distance in units of the last place of a float32 (2^-149 below the normal range)."""
    with np.errstate(divide="ignore"):
        exponent = np.floor(np.log2(np.maximum(exact, 2.0**-126)))
    return float(np.max(np.abs(got - exact) / 2.0 ** (exponent - 23)))


# ---- exp ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("isa", ISAS)
def test_exp_is_within_two_ulp(isa: str) -> None:
    rng = np.random.default_rng(5)
    x = np.concatenate([
        rng.uniform(-104, 88.72, 300_000), rng.uniform(-1, 1, 100_000), rng.standard_normal(50_000) * 1e-4,
        np.arange(-150, 129) * np.log(2), (np.arange(-150, 128) + 0.5) * np.log(2),
    ]).astype(np.float32)  # fmt: skip
    x = x[x < 88.722]
    assert ulps(vocab.exp(isa, x), np.exp(wide(x))) <= 2


@pytest.mark.parametrize("isa", ISAS)
def test_exp_at_the_ends(isa: str) -> None:
    x = np.array([0, -0.0, -np.inf, -104, -1e30, np.inf, 88.8, 3e38, np.nan, -103.2, 1e-45, -87.4], np.float32)
    y = vocab.exp(isa, x)
    assert y[:8].tolist() == [1, 1, 0, 0, 0, np.inf, np.inf, np.inf] and np.isnan(y[8])
    assert y[9] == np.float32(2.0**-149) and y[10] == 1 and 0 < y[11] < 2.0**-126


@pytest.mark.parametrize("isa", ISAS)
def test_exp_has_the_scalar_bits(isa: str) -> None:
    for n in SIZES:
        for kind in KINDS:
            x = values(n, kind) * np.float32(20 if kind == "normal" else 1)
            expected = vocab.exp("scalar", x)
            for side in SIDES:
                out = side(np.full(n, np.nan, np.float32))
                vocab.exp(isa, side(x), out)
                assert same(out, expected)
    x = np.random.default_rng(0).uniform(-110, 95, 200_000).astype(np.float32)
    assert same(vocab.exp(isa, x), vocab.exp("scalar", x))
    expected = vocab.exp(isa, x)
    assert vocab.exp(isa, x, x) is x and same(x, expected)


# ---- max, sums, softmax ------------------------------------------------------------------------------------
@pytest.mark.parametrize("isa", ISAS)
def test_max(isa: str) -> None:
    for n in LONG:
        for side in SIDES:
            x = side(values(n))
            for at in {0, n // 2, n - 1}:
                x[at] = 9
                assert vocab.max(isa, x) == 9
                x[at] = -1
            assert vocab.max(isa, -np.abs(x) - 1) == (-np.abs(x) - 1).max()
            assert vocab.max(isa, np.full(n, -np.inf, np.float32)) == -np.inf


@pytest.mark.parametrize("isa", ISAS)
def test_max_shows_nan(isa: str) -> None:
    for n in (1, 5, 8, 32, 33, 100):
        for at in range(n):
            x = values(n)
            x[at] = np.nan
            assert np.isnan(vocab.max(isa, x))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("inv_t", [1.0, 0.2, 7.0])
def test_sum_exp(isa: str, inv_t: float) -> None:
    for n in LONG:
        x = values(n) * np.float32(4)
        top = float(x.max())
        exact = float(np.sum(np.exp((wide(x) - top) * np.float32(inv_t))))
        expected = vocab.sum_exp("scalar", x, top, inv_t)
        # x - top and its product round to EPS |argument| each, exp to 4 EPS, lanes of 1024 / 32 terms to 32 + 5 EPS
        assert abs(expected - exact) <= (2 * (top - float(x.min())) * inv_t + 42) * EPS * exact
        for side in SIDES:
            assert vocab.sum_exp(isa, side(x), top, inv_t) == expected


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("inv_t", [1.0, 0.2, 7.0])
def test_sum_exp_dot(isa: str, inv_t: float) -> None:
    for n in LONG:
        x = values(n) * np.float32(4)
        x[n // 3 :: 7] = -np.inf
        x[0] = 2
        top = float(x.max())
        d = (wide(x[np.isfinite(x)]) - top) * np.float32(inv_t)
        exact = float(np.sum(d * np.exp(d)))
        expected = vocab.sum_exp_dot("scalar", x, top, inv_t)
        assert expected[0] == vocab.sum_exp("scalar", x, top, inv_t)
        # as above, with one more product and a rounded factor
        assert abs(expected[1] - exact) <= (2 * -d.min() + 46) * EPS * abs(exact)
        for side in SIDES:
            assert vocab.sum_exp_dot(isa, side(x), top, inv_t) == expected


@pytest.mark.parametrize("isa", ISAS)
def test_moments(isa: str) -> None:
    for n in LONG:
        x = values(n) * np.float32(4)
        x[n // 3 :: 7] = -np.inf
        x[n // 2 :: 11] = -1e30  # its square is beyond float32
        x[0] = 2
        top = float(x.max())
        d = wide(x[np.isfinite(x)]) - top
        expected = vocab.moments("scalar", x, top)
        np.testing.assert_allclose(expected, (d.sum(), (d * d).sum()), rtol=n * 2.3e-16)
        for side in SIDES:
            assert vocab.moments(isa, side(x), top) == expected


@pytest.mark.parametrize("isa", ISAS)
def test_softmax(isa: str) -> None:
    for n in LONG:
        x = values(n) * np.float32(4)
        e = np.exp(wide(x) - wide(x).max())
        expected = x.copy()
        vocab.softmax("scalar", expected)
        assert np.all(np.abs(expected - e / e.sum()) <= (2 * np.ptp(wide(x)) + 50) * EPS * e / e.sum())
        assert abs(float(wide(expected).sum()) - 1) < 100 * EPS
        for side in SIDES:
            got = side(x)
            vocab.softmax(isa, got)
            assert same(got, expected)


@pytest.mark.parametrize("isa", ISAS)
def test_softmax_at_the_ends(isa: str) -> None:
    for x, expected in [
        ([-np.inf, 3e38, -3e38], [0, 1, 0]),
        ([5.0] * 4, [0.25] * 4),
        ([-7.0], [1]),
    ]:
        row = np.array(x, np.float32)
        vocab.softmax(isa, row)
        assert row.tolist() == expected
    for bad in (np.nan, np.inf):
        row = np.array([1, bad, 2], np.float32)
        vocab.softmax(isa, row)
        assert np.isnan(row).any()


# ---- collect -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("isa", ISAS)
def test_collect(isa: str) -> None:
    for n in LONG:
        x = values(n)
        x[n // 3] = np.nan
        x[n // 2] = 0.75
        for least in (-np.inf, -1.0, 0.75, 2.5, np.inf, np.nan):
            exact = np.flatnonzero(x >= least)
            for room in {0, 1, len(exact) // 2, len(exact), len(exact) + 3}:
                for side in SIDES:
                    out = side(np.full(room, -9, np.int32)) if room else np.zeros(0, np.int32)
                    assert vocab.collect(isa, side(x), least, out) == len(exact)
                    k = min(room, len(exact))
                    assert np.array_equal(out[:k], exact[:k]) and (out[k:] == -9).all()


def test_empty_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        vocab.max("scalar", np.zeros(0, np.float32))
