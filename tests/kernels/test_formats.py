"""Formats: decoding, splitting into parts, packing and unpacking, compared with the gguf package and NumPy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

from pellucid._kernels import weights
from tests.kernels import cases, guard

SETS = [(name, codes, scales) for name in cases.FORMATS for codes in cases.CODES for scales in cases.SCALES]


def ggml_type(name: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[name]


def decoded(raw: np.ndarray, name: str) -> np.ndarray:
    """The values that the gguf package reads. It has no reader of Q1_0 (scale or -scale) and Q2_0 (scale * (code - 1));
    INT4 is no type of GGUF's: scale * code - scale * zero point."""
    if name in ("Q1_0", "Q2_0"):
        blocks = raw.reshape(len(raw), -1, 18)
        scale = blocks[..., :2].copy().view(np.float16).astype(np.float32)
        bits = np.unpackbits(blocks[..., 2:], axis=-1, bitorder="little").astype(np.float32)
        factor = 2 * bits - 1 if name == "Q1_0" else bits[..., ::2] + 2 * bits[..., 1::2] - 1
        return (scale * factor).reshape(len(raw), -1)
    if name != "INT4":
        return dequantize(raw, ggml_type(name))
    blocks = raw.reshape(len(raw), -1, 19)
    scale = blocks[..., :2].copy().view(np.float16).astype(np.float32)
    codes = np.concatenate([blocks[..., 3:] & 15, blocks[..., 3:] >> 4], -1).astype(np.float32)
    return (scale * codes + scale * (0 - blocks[..., 2:3].astype(np.float32))).reshape(len(raw), -1)


def same_bits(a, b) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def width(name: str) -> int:
    return 768 if cases.FORMATS[name]["block"] > 1 else 77


def test_table_agrees_with_gguf():
    for name, f in cases.FORMATS.items():
        if name == "INT4":
            assert f["gguf"] > max(gguf.GGMLQuantizationType) and (f["block"], f["block_bytes"]) == (32, 19)
            continue
        if name == "Q2_0":  # of llama.cpp; the package is older
            assert (f["gguf"], f["block"], f["block_bytes"]) == (42, 64, 18)
        else:
            assert f["gguf"] == ggml_type(name)
            assert (f["block"], f["block_bytes"]) == gguf.GGML_QUANT_SIZES[ggml_type(name)]
        assert weights.from_gguf(f["gguf"]) == name
    assert len(cases.FORMATS) == 29
    assert weights.from_gguf(15) is None and weights.from_gguf(-1) is None


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_every_number_of_16_bits(name, offset):
    """Also at an odd address, and where no whole vector is left. NaN are quiet, with the rest of their bits."""
    all_bits = np.arange(1 << 16, dtype=np.uint16)
    wide = all_bits.astype(np.uint32) << 16 if name == "BF16" else all_bits.view(np.float16).astype(np.float32)
    want = wide.view(np.uint32).copy()
    if name == "F16":
        nan = np.isnan(all_bits.view(np.float16))
        bits = all_bits[nan].astype(np.uint32)
        want[nan] = (bits & 0x8000) << 16 | 0x7FC00000 | (bits & 0x3FF) << 13
    raw = np.empty(2 * len(all_bits) + offset, np.uint8)
    raw[offset:] = all_bits.view(np.uint8)
    np.testing.assert_array_equal(weights.decode(name, raw[offset:], len(all_bits)).view(np.uint32), want)
    for n in (1, 3, 7):
        np.testing.assert_array_equal(weights.decode(name, raw[offset : offset + 2 * n], n).view(np.uint32), want[:n])


@pytest.mark.parametrize(("name", "codes", "scales"), SETS)
def test_decode_has_the_bits_of_gguf(name, codes, scales):
    k = width(name)
    raw = cases.raw(name, 7, k, codes, scales)
    expected = decoded(raw, name)
    got = np.array([weights.decode(name, row, k) for row in raw])
    assert same_bits(got, np.ascontiguousarray(expected, np.float32))


@pytest.mark.parametrize("name", cases.INTEGER)
def test_split_agrees_with_numpy(name):
    f = cases.FORMATS[name]
    raw = cases.raw(name, 5, 512)
    parts = cases.take_apart(name, raw)
    per_slice = 32 // f["group"]
    for row in range(5):
        for i in range(512 // 32):
            block, at = divmod(32 * i, f["block"])
            bytes_ = raw[row].reshape(-1, f["block_bytes"])[block]
            codes, scale, least, factor = weights.split(name, bytes_, at // 32)
            assert (codes == parts.codes[row, 32 * i : 32 * i + 32]).all()
            assert scale == parts.scale[row, per_slice * i : per_slice * (i + 1)].tolist()
            mins = np.zeros_like(parts.scale) if parts.min is None else parts.min
            assert least == mins[row, per_slice * i : per_slice * (i + 1)].tolist()
            assert factor[0] == (0 if parts.factor is None else parts.factor[row, block])
            assert factor[1] == (0 if parts.min_factor is None else parts.min_factor[row, block])


@pytest.mark.parametrize("name", cases.INTEGER)
def test_parts_of_the_case_table_are_the_weights(name):
    """The NumPy parts that other tests rely on give the weights that the gguf package reads."""
    raw = cases.raw(name, 3, 512)
    scaled, least = cases.exact_weights(name, raw, 512)
    np.testing.assert_allclose(decoded(raw, name), scaled + least, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "codes", "scales"), SETS)
def test_pack_makes_the_layout(name, codes, scales):
    k = width(name)
    for rows in (1, 16, 39):
        raw = cases.raw(name, rows, k, codes, scales)
        expected = cases.pack_reference(name, raw, k)
        for isa in cases.ISAS:
            assert same_bits(weights.pack(isa, name, raw, k), expected), (isa, rows)


@pytest.mark.parametrize("isa", cases.ISAS)
@pytest.mark.parametrize("name", cases.FORMATS)
def test_pack_of_every_width(isa, name):
    block = cases.FORMATS[name]["block"]
    for k in range(block, 12 * block, block):
        raw = cases.raw(name, 18, k)
        assert same_bits(weights.pack(isa, name, raw, k), cases.pack_reference(name, raw, k)), k


@pytest.mark.parametrize(("name", "codes", "scales"), SETS)
def test_unpacked_rows_are_decoded_rows(name, codes, scales):
    k = width(name)
    raw = cases.raw(name, 21, k, codes, scales)
    packed = weights.pack("scalar", name, raw, k)
    for row in range(21):
        expected = weights.decode(name, raw[row], k)
        for isa in cases.ISAS:
            assert same_bits(weights.unpack_row(isa, name, packed, 21, k, row), expected), (isa, row)


@pytest.mark.parametrize("place", [guard.at_end, guard.at_start])
@pytest.mark.parametrize("isa", cases.ISAS)
@pytest.mark.parametrize("name", cases.FORMATS)
def test_pack_and_unpack_stay_within_their_arrays(isa, name, place):
    for rows in (1, 16, 35):
        for k in [256, 512] if cases.FORMATS[name]["block"] > 1 else [1, 2, 9, 40]:
            raw = cases.raw(name, rows, k)
            expected = cases.pack_reference(name, raw, k)
            packed = weights.pack(isa, name, place(raw), k, out=place(np.empty_like(expected)))
            assert same_bits(packed, expected)
            for row in {0, rows - 1}:
                out = place(np.empty(k, np.float32))
                weights.unpack_row(isa, name, packed, rows, k, row, out=out)
                assert same_bits(out, weights.decode(name, raw[row], k))


def test_grids_are_those_of_gguf():
    """The committed header is what its script makes."""
    folder = Path(__file__).resolve().parents[2] / "csrc" / "formats"
    made = subprocess.run([sys.executable, folder / "make_grids.py"], capture_output=True, check=True, text=True)
    assert (folder / "grids.h").read_text() == made.stdout


def test_f16_conversions_are_exact():
    bits = np.arange(65536, dtype=np.uint16)
    expected = bits.view(np.float16).astype(np.float32)
    number = ~np.isnan(expected)
    got = weights.f16_to_f32(bits)
    assert same_bits(got[number], expected[number]) and np.isnan(got[~number]).all()
    assert (weights.f32_to_f16(got)[number] == bits[number]).all()
    assert np.isnan(weights.f32_to_f16(got)[~number].view(np.float16)).all()


def _hard_floats() -> np.ndarray:
    """Random bits, and all f16 values, the halves between them, and those values' neighbours in float32."""
    rng = np.random.default_rng(3)
    f16 = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    halves = (f16[1:] + f16[:-1]) / 2
    near = np.concatenate([f16, halves, np.array([65519.996, 65520, 65536, 1e38, np.inf], np.float32)])
    near = np.concatenate([near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(np.inf))])
    return np.concatenate([near, -near, rng.integers(0, 2**32, 100_000, np.uint32).view(np.float32)])


def test_f32_to_f16_rounds_to_nearest_even():
    x = _hard_floats()
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(np.float16)
    got, number = weights.f32_to_f16(x), ~np.isnan(x)
    assert (got[number] == expected.view(np.uint16)[number]).all()
    assert np.isnan(got[~number].view(np.float16)).all()


def test_bf16_conversions_round_to_nearest_even():
    x = _hard_floats()
    got, number = weights.f32_to_bf16(x), ~np.isnan(x)
    back = weights.bf16_to_f32(got)
    assert np.isnan(back[~number]).all()
    bits = x.view(np.uint32).astype(np.uint64)
    expected = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    assert (got[number] == expected[number]).all()
    assert same_bits(weights.f32_to_bf16(weights.bf16_to_f32(got[number])), got[number])


def test_wrong_arguments_are_named():
    raw = cases.raw("Q4_K", 2, 256)
    packed = weights.pack("scalar", "Q4_K", raw, 256)
    with pytest.raises(ValueError, match="format 'Q9'"):
        weights.decode("Q9", raw[0], 256)
    with pytest.raises(ValueError, match="k is 250"):
        weights.decode("Q4_K", raw[0], 250)
    with pytest.raises(ValueError, match="raw has 143 bytes"):
        weights.decode("Q4_K", raw[0][:-1], 256)
    with pytest.raises(ValueError, match="isa 'sse9' is unknown"):
        weights.pack("sse9", "Q4_K", raw, 256)
    with pytest.raises(ValueError, match=r"expected \(rows >= 1, 288"):
        weights.pack("scalar", "Q4_K", raw, 512)
    with pytest.raises(ValueError, match="packed has"):
        weights.unpack_row("scalar", "Q4_K", packed[:-1], 2, 256, 0)
    with pytest.raises(ValueError, match="row is 2"):
        weights.unpack_row("scalar", "Q4_K", packed, 2, 256, 2)
    with pytest.raises(ValueError, match="slice is 8"):
        weights.split("Q4_K", raw[0], 8)
    with pytest.raises(ValueError, match="out is"):
        weights.pack("scalar", "Q4_K", raw, 256, out=np.empty(3, np.uint8))


def test_e8m0_is_a_power_of_two():
    """Half of it, with the bits of the gguf package: MXFP4's table has doubled values."""
    e = np.arange(256, dtype=np.uint8)
    got = weights.e8m0_half(e)
    assert (got == np.ldexp(1.0, np.arange(-128, 128)).astype(np.float32)).all()
    blocks = np.full((256, 17), 0x31, np.uint8)  # codes 1 and 3: values 1 and 3
    blocks[:, 0] = e
    with np.errstate(over="ignore"):
        expected = dequantize(blocks, ggml_type("MXFP4"))
    assert same_bits(np.array([weights.decode("MXFP4", block, 32) for block in blocks]), expected)
    assert (expected[:, 0] == got).all()


@pytest.mark.parametrize("name", [name for name in cases.INTEGER if cases.FORMATS[name]["table"] is not None])
def test_tables_hold_what_kernels_are_told(name):
    """Their greatest value, on which the sums that fit into 16 bits depend."""
    f = cases.FORMATS[name]
    assert f["bits"] == 4 and f["table"].max() == f["top"] and f["offset"] <= 128
    assert f["table"].max() - f["offset"] <= 127 and f["offset"] - f["table"].min() <= 128
