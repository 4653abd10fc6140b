"""Kernels of rows of activations: every tier equals the scalar one bit for bit; that is compared with float64 NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from pellucid._kernels import rows, weights
from tests.kernels.guard import at_end, at_start

Array = np.ndarray[Any, Any]
ISAS: list[str] = weights.isas()
SIZES = [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 576, 1001]
SIDES = [at_end, at_start]
EPS = 2.0**-24  # half the distance of floats at 1
KINDS = ["normal", "tiny", "huge", "mixed", "special"]


def values(n: int, kind: str = "normal", seed: int = 0) -> Array:
    """n floats: ordinary ones, near the smallest and the largest, of all sizes, or with zeros, infinities and NaN."""
    rng = np.random.default_rng([n, KINDS.index(kind), seed])
    x = rng.standard_normal(n)
    if kind == "mixed":
        x = x * 2.0 ** rng.integers(-30, 5, n)
    if kind == "special":
        x = rng.choice([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3.4e38, -3.4e38, 1.0, -104.0], n)
    return (x * {"tiny": 1e-40, "huge": 5e37}.get(kind, 1.0)).astype(np.float32)


def same(a: Array, b: Array) -> bool:
    """Whether the bits are the same; all NaNs count as equal."""
    if a.dtype.kind != "f":
        return a.dtype == b.dtype and np.array_equal(a, b)
    return bool(np.array_equal(np.where(np.isnan(a), 0, a).view(np.uint32), np.where(np.isnan(b), 0, b).view(np.uint32))
                and np.array_equal(np.isnan(a), np.isnan(b)))  # fmt: skip


def wide(x: Array) -> Array:
    return x.astype(np.float64)


XIELU = np.array([0.8, 0.7, 0.5, -1e-6], np.float32)
GATED = [act for act in rows.ACTIVATIONS if act != "oai"]  # which exist without a second factor, too


# ---- elementwise kernels and the norm, as functions of (isa, x, y, out) ------------------------------------
KERNELS: dict[str, Callable[[str, Array, Array, Array | None], Array]] = {
    "add": lambda isa, x, y, out: rows.add(isa, x, y, out),
    "scale": lambda isa, x, y, out: rows.scale(isa, x, 0.37, out),
    "silu": lambda isa, x, y, out: rows.glu(isa, "silu", x, y, out),
    "gelu_tanh": lambda isa, x, y, out: rows.glu(isa, "gelu_tanh", x, y, out),
    "gelu": lambda isa, x, y, out: rows.glu(isa, "gelu", x, y, out),
    "relu2": lambda isa, x, y, out: rows.glu(isa, "relu2", x, y, out),
    "sigmoid": lambda isa, x, y, out: rows.glu(isa, "sigmoid", x, y, out),
    "none": lambda isa, x, y, out: rows.glu(isa, "none", x, y, out),
    "oai": lambda isa, x, y, out: rows.glu(isa, "oai", x, y, out),
    "xielu": lambda isa, x, y, out: rows.glu(isa, "xielu", x, y, out, XIELU),
    "clip": lambda isa, x, y, out: rows.clip(isa, x, -0.5, 0.75, out),
    "softcap": lambda isa, x, y, out: rows.softcap(isa, x, 2.5, out),
    "rms_norm": lambda isa, x, y, out: rows.rms_norm(isa, x, y, 1e-5, out),
    "rms_norm without weights": lambda isa, x, y, out: rows.rms_norm(isa, x, None, 1e-5, out),
    "layer_norm": lambda isa, x, y, out: rows.layer_norm(isa, x, y, y, 1e-5, out),
    "layer_norm without bias": lambda isa, x, y, out: rows.layer_norm(isa, x, y, None, 1e-5, out),
    "layer_norm without weights": lambda isa, x, y, out: rows.layer_norm(isa, x, None, None, 1e-5, out),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", KERNELS)
def test_bits_are_the_scalar_ones_between_guards(isa: str, name: str) -> None:
    for n in SIZES:
        for kind in KINDS:
            x, y = values(n, kind), values(n, "normal", 1)
            expected = KERNELS[name]("scalar", x, y, None)
            for side in SIDES:
                out = side(np.full(n, np.nan, np.float32))
                KERNELS[name](isa, side(x), side(y), out)
                assert same(out, expected), (n, kind)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", KERNELS)
def test_result_may_replace_an_input(isa: str, name: str) -> None:
    for n in (7, 64, 101):
        x, y = values(n), values(n, seed=1)
        expected = KERNELS[name](isa, x, y, None)
        assert same(KERNELS[name](isa, x, y, x), expected)
        if name in ("add", *rows.ACTIVATIONS):
            assert same(KERNELS[name](isa, values(n), y, y), expected)


@pytest.mark.parametrize("kind", ["normal", "mixed"])
def test_scalar_against_numpy(kind: str) -> None:
    for n in SIZES:
        x, y = values(n, kind) * np.float32(3), values(n, seed=1)
        a, b = wide(x), wide(y)
        z = np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)
        # (result, exact, roundings): each rounding moves a result by at most EPS of it. 1e-35: where exp(-a) overflows.
        norm = a / np.sqrt(np.mean(a * a) + 1e-5)
        for got, exact, roundings in [
            (rows.add("scalar", x, y), a + b, 1),
            (rows.scale("scalar", x, 0.37), a * np.float32(0.37), 1),
            (rows.glu("scalar", "silu", x, y), a / (1 + np.exp(-a)) * b, 8),
            (rows.softcap("scalar", x, 2.5), 2.5 * np.tanh(a / 2.5), 8),
            (rows.rms_norm("scalar", x, y, 1e-5), norm * b, 12 + n / 32),
            (rows.rms_norm("scalar", x, None, 1e-5), norm, 12 + n / 32),
        ]:
            assert np.all(np.abs(got - exact) <= roundings * EPS * np.abs(exact) + 1e-35)
        centred = a - np.mean(a)
        layer = centred / np.sqrt(np.mean(centred * centred) + 1e-5)
        # The mean rounds, which moves every distance from it by as much.
        bound = (12 + n / 32) * EPS * (np.abs(layer) + np.abs(a).max() / np.sqrt(np.mean(centred**2) + 1e-5))
        assert np.all(
            np.abs(rows.layer_norm("scalar", x, y, y, 1e-5) - (layer * b + b))
            <= bound * np.abs(b) + EPS * np.abs(layer * b + b)
        )
        assert np.all(np.abs(rows.layer_norm("scalar", x, None, None, 1e-5) - layer) <= bound)
        gelu = 0.5 * a * (1 + np.tanh(z)) * b
        assert np.all(np.abs(rows.glu("scalar", "gelu_tanh", x, y) - gelu) <= 1e-6 * np.abs(a * b))


@pytest.mark.parametrize("isa", ISAS)
def test_activations_at_the_ends(isa: str) -> None:
    g = np.array([0, -0.0, 1e30, -1e30, 200, -200, 1e-40, np.nan], np.float32)
    one = np.ones_like(g)
    for act in ("silu", "gelu_tanh", "gelu"):
        y = rows.glu(isa, act, g, one)
        assert (
            np.array_equal(y[:6], np.array([0, -0.0, 1e30, -0.0, 200, -0.0], np.float32))
            and np.signbit(y[[1, 3, 5]]).all()
        )
        assert np.isclose(y[6], 5e-41, rtol=1e-4) and np.isnan(y[7])
    capped = rows.softcap(isa, np.array([np.inf, -np.inf, 1e30, 0, -0.0], np.float32), 30.0)
    assert np.array_equal(capped, [30, -30, 30, 0, 0]) and np.signbit(capped[4])


def exact_activation(act: str, x: Array) -> Array:
    """In float64; xIELU with XIELU's parameters."""
    if act == "xielu":
        p0, p1, p2, p3 = wide(XIELU)
        return np.where(x > 0, p0 * x * x, p1 * (np.expm1(np.minimum(x, p3)) - x)) + p2 * x
    with np.errstate(over="ignore"):
        sigmoid = 1 / (1 + np.exp(-x))
    tanh = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    erf = np.vectorize(math.erf)(x / np.sqrt(2))
    return {
        "silu": x * sigmoid,
        "gelu_tanh": 0.5 * x * (1 + tanh),
        "gelu": 0.5 * x * (1 + erf),
        "relu2": np.maximum(x, 0) ** 2,
        "sigmoid": sigmoid,
        "none": x,
    }[act]


@pytest.mark.parametrize("act", GATED)
def test_activations_over_their_range(act: str) -> None:
    x = np.linspace(-20, 20, 40001, dtype=np.float32)
    u = values(len(x))
    alone, exact = rows.glu("scalar", act, x, None, p=XIELU), exact_activation(act, wide(x))
    assert np.all(np.abs(alone - exact) <= 6 * EPS * (np.abs(exact) + np.abs(x) + (act == "sigmoid") * exact))
    assert np.allclose(rows.glu("scalar", act, x, u, p=XIELU), alone * u, rtol=2 * EPS, atol=0)


def test_gelu_keeps_its_digits_far_below_zero() -> None:
    x = np.linspace(-6, 0, 6001, dtype=np.float32)
    exact = np.array([0.5 * v * math.erfc(-v / math.sqrt(2)) for v in wide(x)])
    assert np.all(np.abs(rows.glu("scalar", "gelu", x, None) - exact) <= 2e-6 * np.abs(exact))


def test_xielu_keeps_its_digits_near_zero() -> None:
    x = -np.logspace(-3, 0, 1001).astype(np.float32)
    p = np.array([0.8, 0.7, 0.0, -1e-6], np.float32)  # without the term that is linear in x
    exact = np.float64(p[1]) * (np.expm1(wide(x)) - x)
    assert np.all(np.abs(rows.glu("scalar", "xielu", x, None, p=p) - exact) <= 1e-6 * np.abs(exact))


def test_the_activation_of_gpt_oss() -> None:
    g, u = values(4001, "mixed") * np.float32(3), values(4001, seed=1)
    exact = wide(g) / (1 + np.exp(-1.702 * wide(g))) * (wide(u) + 1)
    assert np.allclose(rows.glu("scalar", "oai", g, u), exact, rtol=3e-6, atol=1e-12)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("act", GATED)
def test_activations_without_a_second_factor(isa: str, act: str) -> None:
    for n in SIZES:
        for kind in KINDS:
            x = values(n, kind)
            expected = rows.glu(isa, act, x, np.ones(n, np.float32), p=XIELU)
            for side in SIDES:
                out = side(np.full(n, np.nan, np.float32))
                assert same(rows.glu(isa, act, side(x), None, out, p=XIELU), expected), (n, kind)


@pytest.mark.parametrize("isa", ISAS)
def test_softcap_over_its_range(isa: str) -> None:
    x = np.linspace(-12, 12, 30001, dtype=np.float32)
    exact = np.tanh(wide(x))
    assert np.all(np.abs(rows.softcap(isa, x, 1.0) - exact) <= 4 * EPS * np.abs(exact))


# ---- rotation ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("isa", ISAS)
def test_rope(isa: str, halves: bool) -> None:
    for n in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 32, 33, 64, 127):
        x, angle = values(2 * n), np.random.default_rng(n).uniform(0, 1000, n)
        cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        expected = x.copy()
        rows.rope("scalar", expected, cos, sin, halves)
        for side in SIDES:
            got = side(x)
            rows.rope(isa, got, side(cos), side(sin), halves)
            assert same(got, expected)
        a, b = (wide(x[:n]), wide(x[n:])) if halves else (wide(x[::2]), wide(x[1::2]))
        near, far = (expected[:n], expected[n:]) if halves else (expected[::2], expected[1::2])
        bound = 3 * EPS * (np.abs(a) + np.abs(b))
        assert np.all(np.abs(near - (a * cos - b * sin)) <= bound) and np.all(
            np.abs(far - (a * sin + b * cos)) <= bound
        )


# ---- narrower types ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("isa", ISAS)
def test_to_bf16(isa: str) -> None:
    for n in SIZES:
        for kind in KINDS:
            x = values(n, kind)
            expected = weights.f32_to_bf16(x)
            for side in SIDES:
                out = side(np.zeros(n, np.uint16))
                rows.to_bf16(isa, side(x), out)
                assert np.array_equal(out, expected)
    ties = np.arange(0x3F800000, 0x3F800000 + 0x40000, 0x4000, dtype=np.uint32).view(np.float32)
    assert np.array_equal(rows.to_bf16(isa, ties), weights.f32_to_bf16(ties))


def quantize_numpy(x: Array, terms: int) -> tuple[Array, Array, Array]:
    """Quantisation as kernels.h defines it, step by step in float32."""
    blocks = x.reshape(-1, 32)
    amax = np.abs(blocks).max(1, initial=0)
    zero, broken = amax < np.float32(1e-30), ~np.isfinite(amax)
    s = np.where(zero, np.float32(0), amax / np.float32(127))
    inv = np.where(zero | broken, np.float32(0), np.float32(127) / amax)
    t = np.where(broken[:, None], np.float32(0), blocks) * inv[:, None]
    planes = [np.rint(t)]
    if terms == 2:
        both = np.rint(t * np.float32(256))
        hi = np.floor((both + 128) / 256)
        planes = [hi, both - 256 * hi]
    q = np.stack([p.reshape(-1) for p in planes]).astype(np.int8)
    return q, s.astype(np.float32), q.reshape(terms, -1, 16).sum(2, dtype=np.int16)


@pytest.mark.parametrize("terms", [1, 2])
@pytest.mark.parametrize("isa", ISAS)
def test_quantize(isa: str, terms: int) -> None:
    for k in (32, 64, 96, 576, 1056):
        for kind in KINDS:
            x = values(k, kind)
            x[:32] = np.arange(-15.5, 16.5)  # ties: the largest is 15.5, codes are multiples of 127 / 15.5
            x[32:64] = (np.arange(len(x[32:64])) - 0.5) * (127 / 126.5) if kind == "normal" else x[32:64]
            with np.errstate(all="ignore"):
                expected = quantize_numpy(x, terms)
            for side in SIDES:
                out = (side(np.full((terms, k), 99, np.int8)), side(np.full(k // 32, 99, np.float32)),
                       side(np.full((terms, k // 16), 99, np.int16)))  # fmt: skip
                rows.quantize(isa, side(x), terms, out)
                assert all(same(a, b) for a, b in zip(out, expected, strict=True)), (k, kind)


@pytest.mark.parametrize("isa", ISAS)
def test_quantize_halves_go_to_even(isa: str) -> None:
    """With two terms there are none: the second has -128, and the first the next code."""
    x = np.zeros(32, np.float32)
    x[:8] = [127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5]
    q, s, sums = rows.quantize(isa, x, 2)
    assert q[0, :8].tolist() == [127, 1, 2, 3, 0, -1, -2, 127] and s[0] == 1 and sums[0].tolist() == [257, 0]
    assert q[1, :8].tolist() == [0, -128, -128, -128, -128, -128, -128, -128]
    q, s, sums = rows.quantize(isa, x, 1)
    assert q[0, :8].tolist() == [127, 0, 2, 2, 0, -2, -2, 126] and s[0] == 1 and sums[0].tolist() == [253, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("isa", ISAS)
def test_quantize_shows_what_is_not_finite(isa: str, bad: float) -> None:
    for at in (0, 9, 31):
        x = values(96)
        x[32 + at] = bad
        q, s, sums = rows.quantize(isa, x, 2)
        assert np.isfinite(s[[0, 2]]).all() and not np.isfinite(s[1])
        assert not q[:, 32:64].any() and not sums[:, 2:4].any() and q[:, :32].any()


@pytest.mark.parametrize("isa", ISAS)
def test_quantize_is_close(isa: str) -> None:
    x = values(4096, "mixed")
    for terms in (1, 2):
        q, s, _ = rows.quantize(isa, x, terms)
        code = q[0] + (q[1] / 256 if terms == 2 else 0)
        error = np.abs(code * np.repeat(wide(s), 32) - x)
        assert np.all(error <= np.repeat(wide(s), 32) * (0.5 if terms == 1 else 0.5 / 256) * 1.001 + 1e-45)


@pytest.mark.parametrize("isa", ISAS)
def test_every_number_in_f16(isa: str) -> None:
    """Also at an odd address. Tiers without a kernel for it leave it to the formats."""
    check_widening("F16", partial(rows.from_f16, isa), missing=isa == "scalar")


@pytest.mark.parametrize("isa", ISAS)
def test_every_number_in_bf16(isa: str) -> None:
    check_widening("BF16", partial(rows.from_bf16, isa))


def check_widening(source: str, widen: Callable[..., np.ndarray | None], missing: bool = False) -> None:
    raw = np.arange(1 << 16, dtype=np.uint16).view(np.uint8)
    want = weights.decode(source, raw, 1 << 16).view(np.uint32)
    found = widen(raw)
    assert (found is None) == missing
    if found is None:
        return
    np.testing.assert_array_equal(found.view(np.uint32), want)
    for first in (0, 31744):  # numbers; F16: NaN
        part = at_end(np.append(np.uint8(0), raw[2 * first : 2 * first + 96]))[1:]
        out = at_end(np.empty(48, np.float32))
        widen(part, out)
        np.testing.assert_array_equal(out.view(np.uint32), want[first : first + 48])


FITS = [("none", 16, -32, 31), ("none", 32, -8, 7), ("any", 32, 0, 15), ("negative", 16, 0, 3), ("negative", 32, 0, 31)]


IQ4 = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]


def groups(n: int, seed: int = 5) -> np.ndarray:
    """Groups of n weights, as many as are fitted at once, among them zeros, one value, one sign, tiny, large."""
    x = np.random.default_rng(seed).standard_normal((rows.GROUPS, n)).astype(np.float32)
    x[1], x[2], x[3] = 0, 0.5, np.abs(x[3])
    x[4] = -np.abs(x[4])
    x[5] *= np.float32(1e-38)
    x[6] *= np.float32(1e14)
    return x


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("kind", "n", "lo", "hi"), FITS)
def test_fit_has_the_bits_of_scalar(isa: str, kind: str, n: int, lo: int, hi: int) -> None:
    for seed in range(5):
        x, spread, centred = groups(n, seed), [0, 0.1, -0.05], seed > 2
        want = rows.fit("scalar", x, kind, lo, hi, spread, 2, centred=centred)
        out = at_end(np.empty((2, rows.GROUPS), np.float32))
        found = rows.fit(isa, at_end(x), kind, lo, hi, spread, 2, out, centred=centred)
        assert not found[2] and not want[2]
        for a, b in zip(found[:2], want[:2], strict=True):
            np.testing.assert_array_equal(a, b)
        for count in (1, 3, 8, 17, rows.GROUPS - 1):  # and reads no more
            fewer = rows.fit(isa, at_end(x[:count]), kind, lo, hi, spread, 2, out, centred=centred)
            for a, b in zip(fewer[:2], want[:2], strict=True):
                np.testing.assert_array_equal(a, b[:count])


@pytest.mark.parametrize("isa", ISAS)
def test_fit_of_a_table(isa: str) -> None:
    """Its bits are scalar's; codes are the values nearest, and of a border the one below."""
    for seed in range(5):
        x, out = groups(32, seed), at_end(np.empty((2, rows.GROUPS), np.float32))
        want = rows.fit("scalar", x, "none", -127, 113, [0, 0.1], 2, table=IQ4)
        found = rows.fit(isa, at_end(x), "none", -127, 113, [0, 0.1], 2, out, IQ4)
        assert not found[2] and not want[2] and not found[1].any()
        np.testing.assert_array_equal(found[0], want[0])
    d = np.asarray([1, 2, -0.5, 0.25, 0, 1e-39], np.float32)
    x = np.random.default_rng(7).integers(-400, 400, (6, 32)).astype(np.float32) / 2
    inverse = np.asarray([0 if abs(v) < 1e-38 else 1 / v for v in d], np.float32)
    borders = (np.asarray(IQ4[1:]) + IQ4[:-1]) / 2
    out = at_end(np.empty((6, 32), np.uint8))
    codes = rows.fit_codes(isa, at_end(x), -127, 113, at_end(d), at_end(np.zeros(6, np.float32)), out, table=IQ4)
    np.testing.assert_array_equal(codes, np.searchsorted(borders, x * inverse[:, None]))


def test_fit_of_a_table_is_least_squares() -> None:
    x, values = groups(32), np.asarray(IQ4, np.float64)
    d, _, _ = rows.fit("scalar", x, "none", -127, 113, [0, 0.1], 1, table=IQ4)
    assert d[1] == 0
    for lane in (0, 3, 4, 7, 8, 9):
        v = x[lane].astype(np.float64)
        most = v[np.abs(v).argmax()]
        errors = []
        for scale in (d[lane], most / -127):
            codes = np.abs(v[:, None] / scale - values).argmin(1)
            errors.append(((v - scale * values[codes]) ** 2).sum())
        assert errors[0] < errors[1]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n", [16, 32])
@pytest.mark.parametrize(("lo", "hi"), [(0, 3), (-4, 3), (-32, 31)])
def test_codes_are_the_nearest(isa: str, n: int, lo: int, hi: int) -> None:
    """With halves, which go to the even code, values beyond the codes, and scales of 0 and nearly 0."""
    x = np.random.default_rng(n).integers(-80, 80, (7, n)).astype(np.float32) / 2
    d = np.asarray([1, 2, -0.5, 4, 0, 1e-39, 0.25], np.float32)
    m = np.asarray([0, -1.5, 0.5, 0, 3, 0, -8], np.float32)
    inverse = np.asarray([0 if abs(v) < 1e-38 else 1 / v for v in d], np.float32)
    want = np.clip(np.rint((x - m[:, None]) * inverse[:, None]), lo, hi) - lo
    out = at_end(np.empty((7, n), np.uint8))
    np.testing.assert_array_equal(rows.fit_codes(isa, at_end(x), lo, hi, at_end(d), at_end(m), out), want)


@pytest.mark.parametrize(("kind", "n", "lo", "hi"), FITS)
def test_fit_is_least_squares(kind: str, n: int, lo: int, hi: int) -> None:
    """No other scale and min are better for the codes that those found give; groups of zeros get 0."""
    x = groups(n)
    d, m, _ = rows.fit("scalar", x, kind, lo, hi, [0, 0.1], 1)
    assert d[1] == 0 and m[1] == 0
    for lane in (0, 3, 4, 7, 8, 9):
        v = x[lane].astype(np.float64)
        codes = np.clip(np.rint((v - m[lane]) / d[lane]), lo, hi)
        error = ((v - d[lane] * codes - m[lane]) ** 2).sum()
        start = {"none": 0.0, "any": v.min(), "negative": min(v.min(), 0.0)}[kind]
        spanned = np.abs(v).max() / -lo if kind == "none" else (v.max() - start) / hi
        naive = ((v - start - spanned * np.clip(np.rint((v - start) / spanned), lo, hi)) ** 2).sum()
        assert error < naive


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("blocks", "n"), [(1, 8), (7, 8), (16, 8), (1, 16), (8, 16)])
@pytest.mark.parametrize(("largest", "lo", "hi"), [(15, 0, 15), (-32, -32, 31), (63, 0, 63), (-128, -128, 127)])
def test_whole_numbers_of_a_factor(isa: str, blocks: int, n: int, largest: int, lo: int, hi: int) -> None:
    """The factor is the largest value's by size, rounded; of a factor that is rounded to zero, there are zeros."""
    x = np.random.default_rng([blocks, n]).standard_normal((blocks, n)).astype(np.float32)
    if lo == 0:
        x = -np.abs(x)
    for scale in (1.0, 0.0, 1e-9, 1e4):
        v = at_end(x * np.float32(scale))
        want = v.copy()
        factors, whole, wrong = rows.fit_whole(isa, v, largest, lo, hi)
        most = want[np.arange(blocks), np.abs(want).argmax(1)]
        factor = (most / np.float32(largest)).astype(np.float16)
        np.testing.assert_array_equal(factors, factor.view(np.uint16))
        unit = factor.astype(np.float32)[:, None]
        per = np.divide(1, unit, out=np.zeros_like(unit), where=unit != 0)
        np.testing.assert_array_equal(whole, np.clip(np.rint(want * per), lo, hi))
        np.testing.assert_array_equal(v, unit * whole)
        assert not wrong
    assert rows.fit_whole(isa, x * np.float32(1e9), largest, lo, hi)[2]


def test_a_centred_try_is_the_better_one_for_two_bits() -> None:
    x = np.random.default_rng(8).standard_normal((rows.GROUPS, 16)).astype(np.float32)
    errors = []
    for centred in (False, True):
        d, m, _ = rows.fit("scalar", x, "negative", 0, 3, [0.2], 1, centred=centred)
        codes = np.clip(np.rint((x - m[:, None]) / d[:, None]), 0, 3)
        errors.append(float(((x - d[:, None] * codes - m[:, None]) ** 2).sum()))
    assert errors[1] < 0.95 * errors[0]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e15, -2e15])
def test_fit_says_what_is_out_of_range(isa: str, bad: float) -> None:
    for lane in (0, 6, 15, rows.GROUPS - 1):
        x = groups(32)
        x[lane, 13] = bad
        assert rows.fit(isa, x, "any", 0, 15, [0])[2] and rows.fit(isa, x, "none", -8, 7, [0])[2]


def test_wrong_arguments_are_named() -> None:
    x = np.ones(32, np.float32)
    for call, name in [
        (lambda: rows.add("sse9", x, x), "sse9"),
        (lambda: rows.add("scalar", x, x[:3].copy()), "y is"),
        (lambda: rows.quantize("scalar", x[:31].copy()), "multiple of 32"),
        (lambda: rows.quantize("scalar", x, 3), "terms"),
        (lambda: rows.glu("scalar", "relu", x, x), "relu"),
        (lambda: rows.rope("scalar", x.copy(), x, x, False), "cos"),
        (lambda: rows.scale("scalar", x[:0], 1.0), "at least 1"),
    ]:
        with pytest.raises(ValueError, match=name):
            call()
