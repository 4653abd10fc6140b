"""The case table of the matrix kernels, for tests and benchmarks.

File bytes, activations in the forms that kernels take, and independent NumPy versions of what csrc/formats and
csrc/kernels do, written from the formats' definitions and shared by tests and benchmarks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pellucid._kernels import weights

Array = np.ndarray[Any, Any]

FORMATS: dict[str, dict[str, Any]] = weights.formats()
INTEGER = [name for name, f in FORMATS.items() if not f["float"]]
FLOAT = [name for name, f in FORMATS.items() if f["float"]]
ISAS: list[str] = weights.isas()
TIERS = [isa for isa in ISAS if isa != "scalar"]

# (rows of w, rows of x, k): ragged in each, one tile and several, k beyond every kernel's inner panel.
_SHAPES = {
    1: [(1, 1, 1), (16, 2, 2), (17, 3, 7), (40, 5, 33), (70, 13, 64), (33, 7, 101), (52, 70, 2309), (17, 300, 2100)],
    32: [
        (1, 1, 32),
        (16, 2, 64),
        (17, 3, 96),
        (33, 7, 288),
        (70, 13, 160),
        (90, 40, 224),
        (20, 17, 8224),
        (36, 14, 20512),
    ],
    64: [(1, 1, 64), (16, 2, 128), (33, 7, 320), (90, 40, 192), (20, 17, 8256), (49, 16, 448)],
    128: [(1, 1, 128), (16, 2, 256), (33, 7, 384), (90, 40, 128), (20, 17, 8320), (49, 16, 640)],
    256: [(1, 1, 256), (16, 2, 512), (17, 3, 256), (33, 7, 768), (70, 13, 256), (90, 40, 256), (20, 17, 8448)]
    + [(49, 16, 768), (36, 14, 20736)],
}
CODES = ["random", "zeros", "max", "alternating"]
SCALES = ["sane", "tiny", "zero", "huge"]

# Where the f16 fields of a file block lie.
_F16 = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
    "MXFP4": [],
    "NVFP4": [],
    "INT4": [0],
    "IQ2_XXS": [0],
    "IQ2_XS": [0],
    "IQ2_S": [0],
    "IQ3_XXS": [0],
    "IQ3_S": [0],
    "IQ1_S": [0],
    "IQ1_M": [],
    "TQ1_0": [52],
    "TQ2_0": [64],
    "Q1_0": [0],
    "Q2_0": [0],
}
# Ranges of e8m0 exponents for each kind of scales: those of weights, subnormal ones, the least, near f16's greatest.
_E8M0 = {"sane": (110, 125), "tiny": (0, 4), "zero": (0, 1), "huge": (140, 144)}


@dataclass(frozen=True)
class Case:
    """A matrix product: w (rows, k) in a format, x (n, k)."""

    format: str
    rows: int
    n: int
    k: int
    codes: str = "random"
    scales: str = "sane"
    acts: str = "random"
    seed: int = field(default=1, compare=False)

    def __str__(self) -> str:
        kinds = [kind for kind in (self.codes, self.scales, self.acts) if kind not in ("random", "sane")]
        return "-".join([self.format, f"{self.rows}x{self.n}x{self.k}", *kinds])


def cases(names: list[str] | None = None) -> list[Case]:
    """Every format in every ragged shape, then the extremes in shapes that have a whole and a part tile."""
    table = []
    for name in names or FORMATS:
        block = FORMATS[name]["block"]
        table += [Case(name, rows, n, k) for rows, n, k in _SHAPES[block]]
        k = 256 if block > 1 else 50
        for n in (1, 5):
            table += [Case(name, 20, n, k, codes=kind, acts=a) for kind in CODES[1:] for a in ("max", "alternating")]
            table += [Case(name, 20, n, k, scales=kind, acts=a) for kind in SCALES[1:] for a in ("random", "tiny")]
    return table


def _f16_values(rng: np.random.Generator, kind: str, n: int) -> Array:
    if kind == "sane":
        return (rng.standard_normal(n) * 0.02).astype(np.float16)
    if kind == "tiny":  # subnormals of either sign
        return (rng.integers(0, 1024, n) | rng.integers(0, 2, n) << 15).astype(np.uint16).view(np.float16)
    return np.full(n, {"zero": 0.0, "huge": -65504.0}[kind], np.float16)


def raw(name: str, rows: int, k: int, codes: str = "random", scales: str = "sane", seed: int = 1) -> Array:
    """A file's bytes of a matrix (rows, k): uint8 (rows, row_bytes). Scales are finite."""
    rng = np.random.default_rng([seed, rows, k])
    if name in FLOAT:
        values = rng.standard_normal((rows, k)).astype(np.float32)
        if codes in ("zeros", "max"):
            values[:] = 0 if codes == "zeros" else 1000
        values[:, ::2] *= 2 if codes == "alternating" else 1
        values *= np.float32({"sane": 1, "tiny": 1e-6, "zero": 0, "huge": 30}[scales])
        if name == "BF16":
            return np.ascontiguousarray((values.view(np.uint32) >> 16).astype(np.uint16)).view(np.uint8)
        return values.astype(np.float32 if name == "F32" else np.float16).view(np.uint8)
    f = FORMATS[name]
    n_blocks = rows * k // f["block"]
    if codes == "random":
        blocks = rng.integers(0, 256, (n_blocks, f["block_bytes"]), np.uint8)
    else:
        blocks = np.full((n_blocks, f["block_bytes"]), 0 if codes == "zeros" else 255, np.uint8)
        if codes == "alternating":
            blocks[:, ::2] = 0
    for at in _F16[name]:
        blocks[:, at : at + 2] = _f16_values(rng, scales, n_blocks).view(np.uint8).reshape(-1, 2)
    if name == "IQ1_M":  # f16 in the upper nibbles of four words
        words, d = blocks[:, 48:].view(np.uint16), _f16_values(rng, scales, n_blocks).view(np.uint16)
        blocks[:, 48:] = ((words & 0xFFF) | (d[:, None] >> np.arange(0, 16, 4) & 15) << 12).astype("<u2").view(np.uint8)
    if name == "MXFP4":
        blocks[:, 0] = rng.integers(*_E8M0[scales], n_blocks)
    return blocks.reshape(rows, -1)


# ---- formats, from their definitions ---------------------------------------------------------------------------------


@dataclass
class Parts:
    """A quantised matrix taken apart. `scale` and `min` as stored: f16 bits, e8m0 or integers."""

    codes: Array  # uint8 (rows, k)
    scale: Array  # uint16 or uint8 (rows, k / group)
    min: Array | None  # uint16 or uint8 (rows, k / group)
    factor: Array | None  # f16 bits of super blocks (rows, k / 256)
    min_factor: Array | None


def _u16(a: Array) -> Array:
    return np.ascontiguousarray(a).view(np.uint16)[..., 0]


def _low_then_high(b: Array) -> Array:
    """Bytes (..., n) -> their low nibbles, then their high ones (..., 2 n)."""
    return np.concatenate([b & 15, b >> 4], -1)


def _plain(name: str, b: Array) -> Parts:
    """Blocks (rows, n, bytes) that hold 32 weights."""
    rows, f = len(b), FORMATS[name]
    if name == "MXFP4":
        return Parts(_low_then_high(b[..., 1:]).reshape(rows, -1), b[..., 0], None, None, None)
    if name == "INT4":  # the zero point is no number by itself: its min is -scale * zero
        return Parts(_low_then_high(b[..., 3:]).reshape(rows, -1), _u16(b[..., :2]), b[..., 2], None, None)
    at = 2 + 2 * f["has_min"]
    if name == "Q8_0":
        codes = b[..., 2:] ^ 0x80
    else:
        codes = _low_then_high(b[..., at + 4 * (f["bits"] == 5) :])
        if f["bits"] == 5:
            codes = codes | np.unpackbits(b[..., at : at + 4], axis=-1, bitorder="little") << 4
    least = _u16(b[..., 2:4]) if f["has_min"] else None
    return Parts(codes.reshape(rows, -1), _u16(b[..., :2]), least, None, None)


def _pairs(b: Array) -> Array:
    """64 bytes -> codes (..., 2, 4, 32): each 32 bytes hold four slices."""
    return b.reshape(*b.shape[:-1], 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3


def _q2_k(b: Array) -> Parts:
    rows = len(b)
    both = b[..., :16].reshape(rows, -1)
    return Parts(_pairs(b[..., 16:80]).reshape(rows, -1), both & 15, both >> 4, _u16(b[..., 80:82]), _u16(b[..., 82:]))


def _q3_k(b: Array) -> Parts:
    rows = len(b)
    third = (b[..., None, :32] >> np.arange(8, dtype=np.uint8)[:, None] & 1) << 2
    codes = _pairs(b[..., 32:96]).reshape(*third.shape) | third
    low, upper = _low_then_high(b[..., 96:104]), b[..., None, 104:108] >> np.array([[0], [2], [4], [6]], np.uint8)
    scale = (low | (upper & 3).reshape(low.shape) << 4) - np.uint8(32)
    return Parts(codes.reshape(rows, -1), scale.reshape(rows, -1), None, _u16(b[..., 108:]), None)


def _q4_k_or_q5_k(name: str, b: Array) -> Parts:
    rows = len(b)
    six = b[..., 4:16]
    lo, hi, mixed = six[..., :4], six[..., 4:8], six[..., 8:]
    scale = np.concatenate([lo & 63, (mixed & 15) | lo >> 6 << 4], -1).reshape(rows, -1)
    least = np.concatenate([hi & 63, mixed >> 4 | hi >> 6 << 4], -1).reshape(rows, -1)
    q = b[..., -128:].reshape(rows, -1, 4, 1, 32)
    codes = np.concatenate([q & 15, q >> 4], 3).reshape(rows, -1, 8, 32)
    if name == "Q5_K":
        codes = codes | (b[..., None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1) << 4
    return Parts(codes.reshape(rows, -1), scale, least, _u16(b[..., :2]), _u16(b[..., 2:4]))


def _q6_k(b: Array) -> Parts:
    rows = len(b)
    low, high = b[..., :128].reshape(rows, -1, 2, 1, 2, 32), b[..., 128:192].reshape(rows, -1, 2, 1, 32)
    nibbles = np.concatenate([low & 15, low >> 4], 3).reshape(rows, -1, 2, 4, 32)
    pairs = high >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    codes = (nibbles | pairs << 4).reshape(rows, -1)
    return Parts(codes, b[..., 192:208].reshape(rows, -1), None, _u16(b[..., 208:]), None)


def _iq4_xs(b: Array) -> Parts:
    rows = len(b)
    codes = _low_then_high(b[..., 8:].reshape(rows, -1, 8, 16))
    low = np.stack([b[..., 4:8] & 15, b[..., 4:8] >> 4], -1).reshape(rows, -1, 8)
    upper = (_u16(b[..., 2:4])[..., None] >> np.arange(0, 16, 2, dtype=np.uint16) & 3).astype(np.uint8)
    scale = (low | upper << 4) - np.uint8(32)
    return Parts(codes.reshape(rows, -1), scale.reshape(rows, -1), None, _u16(b[..., :2]), None)


_NUMPY = (
    "INT4",
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q4_K",
    "Q5_K",
    "IQ4_NL",
    "MXFP4",
    "Q2_K",
    "Q3_K",
    "Q6_K",
    "IQ4_XS",
)
_SUPER = {"Q2_K": _q2_k, "Q3_K": _q3_k, "Q6_K": _q6_k, "IQ4_XS": _iq4_xs}


def _by_split(name: str, blocks: Array) -> Parts:
    """By the format's own split: decoding, which rests on it, is compared with the gguf package."""
    f, rows = FORMATS[name], len(blocks)
    flat = blocks.reshape(-1, f["block_bytes"])
    found = [weights.split(name, block, i) for block in flat for i in range(f["block"] // 32)]
    codes, scale = (np.array([part[i] for part in found]).reshape(rows, -1) for i in (0, 1))
    if not f["super"]:
        return Parts(codes, scale.astype(np.uint16), None, None, None)
    factor = np.array([part[3][0] for part in found[:: f["block"] // 32]], np.uint16)
    return Parts(codes, scale.astype(np.uint8), None, factor.reshape(rows, -1), None)


def take_apart(name: str, data: Array) -> Parts:
    """File bytes (rows, row_bytes) -> codes and scales."""
    blocks = data.reshape(len(data), -1, FORMATS[name]["block_bytes"])
    if name not in _NUMPY:
        return _by_split(name, blocks)
    if FORMATS[name]["block"] == 32:
        return _plain(name, blocks)
    return _SUPER[name](blocks) if name in _SUPER else _q4_k_or_q5_k(name, blocks)


def exact_weights(name: str, data: Array, k: int) -> tuple[Array, Array]:
    """File bytes -> (scale * (code - offset) (rows, k), min (rows, k)), float64 and exact."""
    rows = len(data)
    f = FORMATS[name]
    if f["float"]:
        return np.array([weights.decode(name, row, k) for row in data], np.float64), np.zeros((rows, k))
    p = take_apart(name, data)

    def values(stored: Array | None, factor: Array | None) -> Array:
        if stored is None:
            return np.zeros((rows, k))
        if f["scale"] == "E8M0":
            v = np.ldexp(1.0, stored.astype(np.int64) - 128)
        elif factor is None:
            v = stored.view(np.float16).astype(np.float64)
        else:
            whole = stored.view(np.int8) if f["scale"] == "I8" else stored
            v = f["unit"] * whole * np.repeat(factor.view(np.float16).astype(np.float64), 256 // f["group"], 1)
        return np.repeat(v, f["group"], 1)

    if f["scale"] == "F16Z":
        assert p.min is not None
        scale = values(p.scale, None)
        return scale * p.codes, -scale * np.repeat(p.min.astype(np.float64), f["group"], 1)
    least = values(p.min, p.min_factor)
    centred = (p.codes if f["table"] is None else f["table"][p.codes]).astype(np.float64) - f["offset"]
    return values(p.scale, p.factor) * centred, -least if f["super"] else least


def pack_reference(name: str, data: Array, k: int) -> Array:
    """File bytes in the packed layout that csrc/formats/formats.h defines; flat uint8."""
    f = FORMATS[name]
    rows = len(data)
    tiles = -(-rows // 16)

    def by_tile(a: Array) -> Array:  # (rows, m) -> (tiles, m, 16), rows padded with zeros
        padded = np.zeros((tiles * 16, a.shape[1]), a.dtype)
        padded[:rows] = a
        return padded.reshape(tiles, 16, -1).transpose(0, 2, 1)

    if f["float"]:
        values = data.view(np.uint32 if name == "F32" else np.uint16)
        if name != "BF16":
            return np.ascontiguousarray(by_tile(values)).reshape(-1).view(np.uint8)
        even = np.zeros((rows, k + k % 2), np.uint16)
        even[:, :k] = values
        pairs = by_tile(even).reshape(tiles, -1, 2, 16).transpose(0, 1, 3, 2)
        return np.ascontiguousarray(pairs).reshape(-1).view(np.uint8)

    p = take_apart(name, data)
    blocks = k // 32
    # (tiles, blocks, j, 4r + b): the code of w[r][4j + b]
    codes = by_tile(p.codes).reshape(tiles, blocks, 8, 4, 16).transpose(0, 1, 2, 4, 3).reshape(tiles, blocks, 8, 64)
    low, high = codes[:, :, :4], codes[:, :, 4:]
    parts = [codes if f["bits"] == 8 else (low & 15) | (high & 15) << 4]
    halves = codes.reshape(tiles, blocks, 2, 4, 64)
    places = 2 * np.arange(4, dtype=np.uint8)[:, None]
    if f["bits"] < 4:
        parts = [np.bitwise_or.reduce((halves & 3) << places, 3)]
    if f["bits"] in (3, 5):
        at = [2, 1, 6, 5, 0, 3, 4, 7] if f["bits"] == 3 else range(8)
        bit = (codes >> f["bits"] - 1 & 1) << np.array(at, np.uint8)[:, None]
        parts.append(np.bitwise_or.reduce(bit, 2))
    if f["bits"] == 6:
        parts.append(np.bitwise_or.reduce(halves >> 4 << places, 3))
    if f["bits"] < 4 and f["group"] == 16:  # scaled formats: both scales of a row side by side
        scales = p.scale if p.min is None else p.scale | p.min << 4
        parts.append(by_tile(scales.view(np.uint8)).reshape(tiles, blocks, 2, 16).transpose(0, 1, 3, 2))
    else:
        parts += [np.ascontiguousarray(by_tile(a)).view(np.uint8) for a in (p.scale, p.min) if a is not None]
    packed = np.concatenate([part.reshape(tiles, blocks, -1) for part in parts], 2)
    assert packed.shape[2] == f["packed_block"]
    if p.factor is not None:
        heads = [by_tile(a) for a in (p.factor, p.min_factor) if a is not None]
        header = np.ascontiguousarray(np.concatenate(heads, 2)).view(np.uint8)
        packed = np.concatenate([header, packed.reshape(tiles, blocks // 8, -1)], 2)
    return np.ascontiguousarray(packed).reshape(-1)


# ---- activations -----------------------------------------------------------------------------------------------------


@dataclass
class Acts:
    """Rows of activations in the forms that kernels take; exact values in `value` (n, k) float64."""

    value: Array
    forms: dict[str, Any]

    def rows(self, start: int, stop: int) -> dict[str, Any]:
        """The forms of only the rows [start, stop)."""
        return {key: a if key == "terms" else a[start:stop].copy() for key, a in self.forms.items()}


def sums_of(q: Array) -> Array:
    """Codes (n, terms, k) -> sums of 16, int16 (n, terms, k / 16)."""
    return q.reshape(*q.shape[:2], -1, 16).sum(-1, dtype=np.int16)


def quantize(x: Array, terms: int) -> tuple[Array, Array]:
    """x float32 (n, k) -> codes int8 (n, terms, k), scales float32 (n, k / 32), as kernels.h defines."""
    blocks = x.reshape(len(x), -1, 32)
    top = np.abs(blocks).max(-1, keepdims=True)
    inverse = np.divide(np.float32(127), top, out=np.zeros_like(top), where=top > 0)
    scaled = blocks * inverse
    parts = [np.rint(scaled)]
    if terms == 2:
        both = np.rint(scaled * np.float32(256))
        hi = np.floor((both + 128) / 256)
        parts = [hi, both - 256 * hi]
    q = np.stack([p.astype(np.int8).reshape(len(x), -1) for p in parts], 1)
    return q, (top[..., 0] / np.float32(127)).astype(np.float32)


def acts(name: str, n: int, k: int, kind: str = "random", terms: int = 1, seed: int = 2) -> Acts:
    """Activations (n, k) for a format. Kinds: random, max (+127), alternating (+-127), tiny (subnormal scales)."""
    rng = np.random.default_rng([seed, n, k])
    x = rng.standard_normal((n, k)).astype(np.float32)
    if kind in ("max", "alternating"):
        x[:] = 1
        x[:, 1::2] *= -1 if kind == "alternating" else 1
    if kind == "tiny":
        x *= np.float32(1e-39)
    if name == "BF16":
        bits = np.zeros((n, k + k % 2), np.uint16)
        bits[:, :k] = x.view(np.uint32) >> 16
        return Acts((bits[:, :k].astype(np.uint32) << 16).view(np.float32).astype(np.float64), {"b": bits})
    if FORMATS[name]["float"]:
        return Acts(x.astype(np.float64), {"x": x})
    if kind == "tiny":  # all codes under scales that are subnormal, zero, or least normal
        q = rng.integers(-127, 128, (n, terms, k), np.int8)
        q[:, 1:] = rng.integers(-128, 128, q[:, 1:].shape, np.int8)
        s = rng.choice(np.array([0, 1e-45, 3e-42, 1.2e-38], np.float32), (n, k // 32))
    else:
        q, s = quantize(x, terms)
        if kind != "random" and terms == 2:
            q[:, 1] = np.where(q[:, 0] < 0, -128, 127)
    value = q[:, 0].astype(np.float64) if terms == 1 else q[:, 0] + q[:, 1] / 256.0
    value = value * np.repeat(s.astype(np.float64), 32, 1)
    return Acts(value, {"q": q, "s": s, "sums": sums_of(q), "terms": terms})
