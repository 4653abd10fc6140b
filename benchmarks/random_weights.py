"""Random weights in the blocks of GGUF's formats: centred, with a standard deviation of STD, so that logits stay
finite."""

from __future__ import annotations

import math
from collections.abc import Callable

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Kind

Bytes = npt.NDArray[np.uint8]
STD = 0.02

# Codes are uniform random bits. A block's other fields are set so that weights are centred and have STD; the formulas
# of the formats' definitions (ggml-common.h) are given with each setter. A setter is called with blocks (n, bytes of a
# block).


def code_std(values: int) -> float:
    """Standard deviation of a code uniform in 0 .. values - 1."""
    return float(((values**2 - 1) / 12) ** 0.5)


def uniform_rms(low: int, high: int) -> float:
    """Root mean square of integers uniform in low .. high."""
    return float(np.sqrt(np.mean(np.arange(low, high + 1, dtype=np.float64) ** 2)))


IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float64)
IQ4_RMS = float(np.sqrt(np.mean(IQ4**2)))


def put_f16(blocks: Bytes, at: int, value: float, either_sign: bool = False) -> None:
    """Sets a field; with either_sign its random bits decide the sign, for asymmetric codes around zero."""
    sign = blocks[:, at + 1] & (0x80 if either_sign else 0)
    blocks[:, at : at + 2] = np.frombuffer(np.float16(value).astype("<f2").tobytes(), np.uint8)
    blocks[:, at + 1] |= sign


def plain(values: int, mins: bool = False) -> Callable[[Bytes], None]:
    """w = d * (code - values / 2), or with mins w = d * code + m: d first, m next."""

    def put(blocks: Bytes) -> None:
        d = STD / code_std(values)
        put_f16(blocks, 0, d, either_sign=not mins)
        if mins:
            put_f16(blocks, 2, -d * (values - 1) / 2)

    return put


def q2_k(blocks: Bytes) -> None:
    """w = d * sc * code - dmin * mn: sc the low, mn the high nibble of bytes 0..15; equal, so 1.5 centres the codes."""
    scale = blocks[:, :16] & 0x0F | 0x08
    blocks[:, :16] = scale | scale << 4
    d = STD / (uniform_rms(8, 15) * code_std(4))
    put_f16(blocks, 80, d)
    put_f16(blocks, 82, 1.5 * d)


def q3_k(blocks: Bytes) -> None:
    """w = d * (sc - 32) * (code - 4): sc has its two high bits in bytes 104..107; both set leave 48..63."""
    blocks[:, 104:108] = 0xFF
    put_f16(blocks, 108, STD / (uniform_rms(16, 31) * code_std(8)), either_sign=True)


def k_with_mins(values: int) -> Callable[[Bytes], None]:
    """w = d * sc * code - dmin * mn: scales and mins of 6 bits in bytes 4..15, made equal and 32..63.

    Bytes 4..7 hold sc 0..3 and, in their top bits, the high bits of sc 4..7; bytes 8..11 the same of mn; bytes 12..15
    the low nibbles of sc 4..7 and above them those of mn 4..7.
    """

    def put(blocks: Bytes) -> None:
        blocks[:, 4:8] |= 0xA0
        blocks[:, 8:12] = blocks[:, 4:8]
        low = blocks[:, 12:16] & 0x0F
        blocks[:, 12:16] = low | low << 4
        d = STD / (uniform_rms(32, 63) * code_std(values))
        put_f16(blocks, 0, d)
        put_f16(blocks, 2, d * (values - 1) / 2)

    return put


def q6_k(blocks: Bytes) -> None:
    """w = d * sc * (code - 32): int8 scales in bytes 192..207, made 64..127."""
    blocks[:, 192:208] = blocks[:, 192:208] & 0x7F | 0x40
    put_f16(blocks, 208, STD / (uniform_rms(64, 127) * code_std(64)), either_sign=True)


def q8_0(blocks: Bytes) -> None:
    """w = d * code, int8."""
    put_f16(blocks, 0, STD / code_std(256), either_sign=True)


def iq4_nl(blocks: Bytes) -> None:
    """w = d * IQ4[code]."""
    put_f16(blocks, 0, STD / IQ4_RMS, either_sign=True)


def iq4_xs(blocks: Bytes) -> None:
    """w = d * (sc - 32) * IQ4[code]: sc has its two high bits in bytes 2..3; all set leave 48..63."""
    blocks[:, 2:4] = 0xFF
    put_f16(blocks, 0, STD / (uniform_rms(16, 31) * IQ4_RMS), either_sign=True)


FP4_RMS = float(np.sqrt(np.mean(np.array([0, 1, 2, 3, 4, 6, 8, 12], np.float64) ** 2)))


def mxfp4(blocks: Bytes) -> None:
    """w = 2^(e - 128) * FP4, twice the values of e2m1: e, the first byte, is one of two values, mixed so that the mean
    square fits."""
    square = (STD / FP4_RMS) ** 2
    low = math.floor(math.log2(square) / 2)
    share = (square / 4.0**low - 1) / 3  # of blocks with the greater value
    blocks[:, 0] = 128 + low + (blocks[:, 0] < 256 * share)


FIELDS: dict[Kind, Callable[[Bytes], None]] = {
    Kind.Q4_0: plain(16),
    Kind.Q4_1: plain(16, mins=True),
    Kind.Q5_0: plain(32),
    Kind.Q5_1: plain(32, mins=True),
    Kind.Q8_0: q8_0,
    Kind.Q2_K: q2_k,
    Kind.Q3_K: q3_k,
    Kind.Q4_K: k_with_mins(16),
    Kind.Q5_K: k_with_mins(32),
    Kind.Q6_K: q6_k,
    Kind.IQ4_NL: iq4_nl,
    Kind.IQ4_XS: iq4_xs,
    Kind.MXFP4: mxfp4,
}


def random_rows(rng: np.random.Generator, rows: int, cols: int, kind: Kind) -> Bytes:
    """`rows` rows of `cols` random weights as stored in a file: (rows, bytes of a row)."""
    if kind in (Kind.F16, Kind.BF16, Kind.F32):
        x = rng.standard_normal((rows, cols), np.float32) * np.float32(STD)
        if kind == Kind.F16:
            return x.astype("<f2").view(np.uint8)
        if kind == Kind.BF16:
            rounded = x.view(np.uint32) + (
                0x7FFF + (x.view(np.uint32) >> 16 & 1)
            )  # to nearest even; none is near infinity
            return (rounded >> 16).astype("<u2").view(np.uint8)
        return x.astype("<f4").view(np.uint8)
    per, size = gguf.GGML_QUANT_SIZES[kind]
    if cols % per:
        raise ValueError(f"a row of {cols} weights: {kind.name} needs a multiple of {per}")
    blocks = rng.integers(0, 256, (rows * (cols // per), size), np.uint8)
    FIELDS[kind](blocks)
    return blocks.reshape(rows, cols // per * size)
