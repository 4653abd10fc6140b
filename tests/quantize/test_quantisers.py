"""The bytes that quantisers make, decoded by the `gguf` package: their error, and that only the block matters."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import pytest
from gguf import quants

from pellucid import _engine

QUANTIZERS = _engine.quantizers()
FLOATS = ("F32", "F16", "BF16")
BLOCKS = tuple(name for name in QUANTIZERS if name not in FLOATS)
K = 768

# Largest squared error, as `counts` weighs it, relative to the variance of normally distributed weights, a tenth above
# what was found.
ERROR = {
    "Q4_0": 7.3e-3, "Q4_1": 5.4e-3, "Q5_0": 1.8e-3, "Q5_1": 1.25e-3, "Q8_0": 3.2e-5, "Q2_K": 7.8e-2, "Q3_K": 1.85e-2,
    "Q4_K": 5.5e-3, "Q5_K": 1.35e-3, "Q6_K": 3.2e-4, "IQ4_NL": 6.0e-3, "IQ4_XS": 6.1e-3, "MXFP4": 1.4e-2,
}  # fmt: skip


def weights(rows: int = 24, seed: int = 0, heavy: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.standard_t(4, (rows, K)) if heavy else rng.standard_normal((rows, K))
    return (x * 0.02).astype(np.float32)


def importances(seed: int = 7) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).standard_normal(K)).astype(np.float32)


def quantise(x: np.ndarray, to: str, **options: Any) -> np.ndarray:
    """(rows, k) -> (rows, bytes of a row)"""
    made = _engine.quantize("F32", x.reshape(-1).view(np.uint8), x.shape[1], to, **options)
    return made.reshape(len(x), -1)


def decode(raw: np.ndarray, name: str) -> np.ndarray:
    return quants.dequantize(raw, gguf.GGMLQuantizationType[name])


def error(x: np.ndarray, y: np.ndarray, importance: np.ndarray | float = 1.0) -> float:
    return float((importance * (y.astype(np.float64) - x) ** 2).mean() / (x.astype(np.float64) ** 2).mean())


def counts(x: np.ndarray, name: str) -> np.ndarray | float:
    """How much the error of each weight counts: in Q3_K, as much as its square."""
    return x.astype(np.float64) ** 2 / (x.astype(np.float64) ** 2).mean() if name == "Q3_K" else 1.0


def test_all_formats_have_the_sizes_of_the_gguf_package() -> None:
    assert {*BLOCKS} == {*ERROR}
    for name, (number, block, nbytes) in QUANTIZERS.items():
        kind = gguf.GGMLQuantizationType[name]
        assert (number, (block, nbytes)) == (kind, gguf.GGML_QUANT_SIZES[kind])


@pytest.mark.parametrize("name", BLOCKS)
def test_error_is_small(name: str) -> None:
    x = weights()
    assert error(x, decode(quantise(x, name), name), counts(x, name)) < ERROR[name]


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"])
def test_error_is_at_most_that_of_the_gguf_package(name: str, heavy: bool) -> None:
    x = weights(seed=1, heavy=heavy)
    theirs = quants.quantize(x, gguf.GGMLQuantizationType[name])
    assert error(x, decode(quantise(x, name), name)) <= error(x, decode(theirs, name))


@pytest.mark.parametrize("name", [name for name in BLOCKS if name != "Q8_0"])
def test_importances_lower_the_weighted_error(name: str) -> None:
    x, importance = weights(seed=2), importances()
    plain, weighted = (decode(quantise(x, name, importance=w), name) for w in (None, importance))
    gain = 0.995 if name == "MXFP4" else 0.97  # its scales are powers of two
    assert error(x, weighted, importance) < gain * error(x, plain, importance)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_quick_search_is_nearly_as_good(name: str) -> None:
    """The largest increase found was 14 %; importances are not for it."""
    for heavy in (False, True):
        x = weights(seed=12, heavy=heavy)
        whole, quick = quantise(x, name), quantise(x, name, quick=True)
        assert error(x, decode(quick, name)) < 1.17 * error(x, decode(whole, name))
    some = importances()
    np.testing.assert_array_equal(quantise(x, name, importance=some, quick=True), quantise(x, name, importance=some))


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("rows", [1, 3])
def test_quick_bytes_depend_on_the_block_alone(name: str, rows: int) -> None:
    """Of rows whose groups fill the kernel's lanes, and of others."""
    block = QUANTIZERS[name][1]
    x = weights(3, seed=13)
    whole = quantise(x, name, quick=True, threads=2)
    size = whole.shape[1] // (K // block)
    for first, blocks in ((0, 1), (1, 2), (0, K // block)):
        part = x[:rows, first * block : (first + blocks) * block].copy()
        np.testing.assert_array_equal(
            quantise(part, name, quick=True), whole[:rows, first * size : (first + blocks) * size]
        )


@pytest.mark.parametrize("name", BLOCKS)
def test_equal_importances_change_nothing(name: str) -> None:
    x = weights(4, seed=3)
    np.testing.assert_array_equal(quantise(x, name), quantise(x, name, importance=np.ones(K)))


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("exponent", [-120, 120])
def test_only_the_ratios_of_importances_matter(name: str, exponent: int) -> None:
    x, importance = weights(4, seed=16), importances()
    made = quantise(x, name, importance=importance)
    np.testing.assert_array_equal(quantise(x, name, importance=np.ldexp(importance, exponent)), made)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_bytes_depend_on_the_row_alone(name: str) -> None:
    x = weights(7, seed=4)
    one = quantise(x, name)
    for threads in (2, 3):
        np.testing.assert_array_equal(quantise(x, name, threads=threads), one)
    np.testing.assert_array_equal(quantise(x[5:6], name), one[5:6])


def test_scales_that_need_no_search() -> None:
    x = weights(5, seed=15, heavy=True)
    x[1, :64], x[2] = 0, x[2] * np.float32(1e-9)
    np.testing.assert_array_equal(quantise(x, "Q8_0", quick=True), quantise(x, "Q8_0"))


@pytest.mark.parametrize("exponent", [-118, -122, -124])
def test_tiny_weights_are_quick_as_well(exponent: int) -> None:
    """Of MXFP4, whose scales go down to 2^-127: their reciprocals are beyond float32. Below them, no value is further
    from its code than half of the least step."""
    x = weights(17, seed=14) * np.float32(2.0**exponent)
    made = quantise(x, "MXFP4")
    np.testing.assert_array_equal(quantise(x, "MXFP4", quick=True), made)
    least = np.abs(x.reshape(17, -1, 32)).max(axis=2) < 2.0**-126
    off = np.abs(decode(made, "MXFP4") - x).reshape(17, -1, 32)
    assert off[least].max(initial=0) <= 2.0**-129


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_of_one_value_are_quick_as_well(name: str) -> None:
    x = np.zeros((2, K), np.float32)
    x[1, : K // 2] = -0.25
    y = decode(quantise(x, name, quick=True), name)
    assert not y[0].any() and error(x[1], y[1]) < 0.01


@pytest.mark.parametrize("name", BLOCKS)
def test_what_a_format_holds_exactly_comes_back(name: str) -> None:
    """Zeros, and a block that was decoded, quantised again: at most the error of rounding the scale."""
    assert not decode(quantise(np.zeros((2, K), np.float32), name), name).any()
    x = decode(quantise(weights(6, seed=5), name), name)
    limit = {"Q2_K": 2e-3}.get(name, 2e-4)
    assert error(x, decode(quantise(x, name), name)) < limit


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e3])
def test_error_of_other_magnitudes(name: str, scale: float) -> None:
    """Scales that float16 holds are as good as any; what is below it becomes zero, or stays where it can."""
    x = weights(4, seed=6) / np.float32(0.02) * np.float32(scale)
    y = decode(quantise(x, name), name)
    if scale < 1e-3 and name != "MXFP4":
        assert error(x, y) <= 1.0
    else:
        assert error(x, y, counts(x, name)) < 1.15 * ERROR[name]


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", BLOCKS)
def test_weights_near_the_least_scale_are_kept(name: str, quick: bool) -> None:
    """Their scales have few steps of float16's smallest numbers, 2^-24, or less than one."""
    x = weights(8, seed=17) / np.float32(0.02)
    table = name in ("IQ4_NL", "IQ4_XS")  # without a code for 0
    for deviation, most in ((1e-8, 1.0), (1e-7, 1.0 if table else 0.12), (1e-6, 0.08), (1e-5, 1.5 * ERROR[name])):
        scaled = x * np.float32(deviation)
        assert error(scaled, decode(quantise(scaled, name, quick=quick), name)) <= most, deviation


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize(("name", "lo", "hi"), [("Q4_0", -8, 7), ("Q5_0", -16, 15), ("Q8_0", -127, 127)])
def test_a_scale_of_few_steps_is_the_better_of_its_neighbours(name: str, lo: int, hi: int, quick: bool) -> None:
    """The next larger one is often the worse: a few weights beyond the codes cost less than coarse codes of all."""
    step, x = 2.0**-24, weights(8, seed=18).reshape(-1, 32)
    x /= np.abs(x).max(axis=1, keepdims=True)
    for steps in (0.4, 1.01, 1.1, 1.6, 2.02, 5.4):
        scaled = (x * np.float32(steps * step * -lo)).astype(np.float32)
        found = ((decode(quantise(scaled, name, quick=quick), name) - scaled.astype(np.float64)) ** 2).sum(axis=1)
        for scale in (step * np.floor(steps), step * np.ceil(steps)):
            codes = [np.clip(np.rint(scaled / (sign * scale or np.inf)), lo, hi) * sign for sign in (1, -1)]
            best = np.min([((scale * code - scaled) ** 2).sum(axis=1) for code in codes], axis=0)
            assert found.sum() <= 1.02 * best.sum(), steps


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_of_one_value_and_of_one_sign(name: str) -> None:
    """All positive, all negative, all equal, a single outlier: no worse than a few parts in a hundred."""
    x = np.abs(weights(4, seed=8))
    x[1] *= -1
    x[2] = 0.5
    x[3] = 0
    x[3, ::32] = -3.0
    y = decode(quantise(x, name), name)
    assert np.isfinite(y).all()
    for i in range(4):
        assert error(x[i], y[i]) < (0.1 if name in ("Q2_K", "Q3_K") else 0.03), (name, i)


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in QUANTIZERS for value in (np.nan, np.inf, -np.inf)]
    + [(name, 1e9) for name in BLOCKS if name != "MXFP4"]
    + [("F16", 65520.0), ("F16", -1e6), ("BF16", 3.4e38)],
)
def test_values_that_no_code_stands_for(name: str, value: float) -> None:
    x = weights(5, seed=9)
    x[3, 17] = x[4, 0] = value
    for threads, quick in ((1, False), (3, False), (2, True)):
        with pytest.raises(OverflowError) as caught:
            quantise(x, name, threads=threads, quick=quick)
        assert caught.value.args == (3,)


@pytest.mark.parametrize("name", FLOATS)
def test_float_formats_round_to_nearest(name: str) -> None:
    x = weights(3, seed=10)
    want = quants.dequantize(quants.quantize(x, gguf.GGMLQuantizationType[name]), gguf.GGMLQuantizationType[name])
    np.testing.assert_array_equal(decode(quantise(x, name), name), want)


@pytest.mark.parametrize("source", [name for name in _engine.format_names() if name in QUANTIZERS])
def test_decoding_is_that_of_the_gguf_package(source: str) -> None:
    raw = quantise(weights(3, seed=11), source)
    made = _engine.quantize(source, raw.reshape(-1), K, "F32").view(np.float32).reshape(3, K)
    np.testing.assert_array_equal(made, decode(raw, source))


def test_arguments() -> None:
    raw = weights(2).reshape(-1).view(np.uint8)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"to": "Q9"}, "cannot be made"),
        ({"source": "Q9"}, "is unknown"),
        ({"k": 100}, "multiple of the blocks"),
        ({"k": 0}, "multiple of the blocks"),
        ({"data": raw[:-4]}, "data has"),
        ({"importance": np.ones(5)}, "importance must be"),
        ({"importance": np.zeros(K)}, "importance must be"),
        ({"importance": np.full(K, -1)}, "importance must be"),
        ({"importance": np.full(K, np.nan)}, "importance must be"),
        ({"threads": 0}, "threads"),
    ]
    for options, message in cases:
        call: dict[str, Any] = {"source": "F32", "data": raw, "k": K, "to": "Q4_K", **options}
        with pytest.raises(ValueError, match=message):
            _engine.quantize(call.pop("source"), call.pop("data"), call.pop("k"), call.pop("to"), **call)
    assert _engine.quantize("F32", raw[:0], K, "Q4_0").size == 0
