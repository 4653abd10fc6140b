"""Small models for the engine's tests: random weights, in F32 and in mixes of formats as real files have them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from pellucid import _engine
from tests.reference import tiny
from tests.reference.tiny import Tiny

Type: Any = gguf.GGMLQuantizationType
CONTEXT = 4096

# Rows of K formats are multiples of 256; heads of 64 and 48 columns, a feed-forward width that ends inside a tile.
WIDE = Tiny("wide", seed=31, hidden=256, ff=512, layers=2, heads=4, kv_heads=2, head_dim=64, vocab=300)
WIDE_GEMMA = Tiny(
    "wide_gemma", seed=32, arch="gemma3", hidden=256, ff=512, layers=7, heads=4, kv_heads=1, head_dim=64, vocab=300,
    eps=1e-4, window=40,
)  # fmt: skip
NARROW = Tiny("narrow", seed=33, hidden=64, ff=96, layers=3, heads=4, kv_heads=2, head_dim=16, vocab=97, tied=False)
BY_NAME = {model.name: model for model in (*tiny.TINY, WIDE, WIDE_GEMMA, NARROW)}

# Formats by part of the tensor's name; "" for all other matrices.
MIXES: dict[str, dict[str, str]] = {
    "F32": {},
    "F16": {"": "F16"},
    "BF16": {"": "BF16"},
    "Q8_0": {"": "Q8_0"},
    "Q4_0": {"": "Q4_0", "token_embd": "Q8_0", "output.weight": "Q8_0"},
    "Q4_1": {"": "Q4_1"},
    "K": {"": "Q4_K", "attn_v": "Q6_K", "ffn_down": "Q6_K", "token_embd": "Q6_K"},
    "all": {
        "": "Q5_0",
        "attn_q": "Q4_0",
        "attn_k": "Q8_0",
        "attn_v": "BF16",
        "ffn_gate": "Q5_1",
        "ffn_up": "F16",
        "output.weight": "F32",
    },
    # The one product of int8 activations of a layer comes after a float one of the same buffer: what the layer before
    # has laid out for it looks like this layer's.
    "one Q4_0": {"": "BF16", "ffn_up": "Q4_0"},
}


def random_blocks(kind: Any, rows: int, k: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Random codes and scales of a K format; values have a standard deviation of about 1 / sqrt(k)."""
    block = gguf.GGML_QUANT_SIZES[kind][1]
    data = rng.integers(0, 256, (rows, k // 256, block), np.uint8)
    unit = float(k**-0.5)

    def f16(x: float) -> npt.NDArray[np.uint8]:
        spread = rng.uniform(0.8, 1.2, (rows, k // 256, 1)) * x
        return spread.astype(np.float16).view(np.uint8).reshape(rows, k // 256, 2)

    if kind == Type.Q4_K:  # d, dmin: code * d * scale - dmin * min, scales and mins of 6 bits
        data[..., 0:2] = f16(unit / 150)
        data[..., 2:4] = f16(7.5 * unit / 150)
    elif kind == Type.Q6_K:  # 16 scales of 8 bits, then d
        data[..., 192:208] = rng.integers(-31, 32, (rows, k // 256, 16)).astype(np.int8).view(np.uint8)
        data[..., 208:210] = f16(unit / 324)
    else:
        raise ValueError(kind)
    return data.reshape(rows, -1)


def encoder(mix: str) -> tiny.Encode:
    formats = MIXES[mix]
    rng = np.random.default_rng(5)

    def encode(name: str, value: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], Any]:
        if value.ndim < 2 or not formats:
            return value, None
        chosen = next((f for part, f in formats.items() if part and part in name), formats[""])
        kind: Any = getattr(Type, chosen)
        if kind in (Type.Q4_K, Type.Q6_K):
            rows, k = value.shape
            return random_blocks(kind, rows, k, rng), kind
        if kind == Type.F32:
            return value, None
        return gguf.quantize(value, kind), kind

    return encode


def write(folder: Path, name: str, mix: str = "F32", **changes: Any) -> Path:
    """A model file, written once per folder. changes: fields of Tiny to replace."""
    model = replace(BY_NAME[name], **changes) if changes else BY_NAME[name]
    extra = "".join(f"-{key}{value}" for key, value in changes.items())
    path = folder / f"{name}-{mix}{extra}.gguf"
    if not path.exists():
        tiny.write_gguf(model, path, context=CONTEXT, encode=encoder(mix))
    return path


def in_memory(plan: Any) -> Any:
    """A copy of a loaded model's plan whose matrices are in memory, for an engine to pack again."""

    def read(data: Any) -> npt.NDArray[np.uint8]:
        if hasattr(data, "parts"):
            return np.concatenate([read(part) for part in data.parts])
        return np.fromfile(data.file.path, np.uint8, data.size, offset=data.offset)

    return replace(plan, matrices=[m._replace(data=read(m.data)) for m in plan.matrices])


def ids_for(engine: Any, n: int, seed: int = 1) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(0, engine.vocab, n)]


def rows(engine: Any, sequence: Any, ids: list[int], **options: Any) -> npt.NDArray[np.float32]:
    """One pass that appends ids -> the logits of all of them."""
    out = np.full((len(ids), engine.vocab), np.nan, np.float32)
    engine.forward([(sequence, np.array(ids, np.int32), 0)], out=out, **options)
    return out


def extend(engine: Any, sequence: Any, ids: list[int], chunk: int = 512) -> None:
    """Appends ids; no logits."""
    for i in range(0, len(ids), chunk):
        part = np.array(ids[i : i + chunk], np.int32)
        engine.forward([(sequence, part, len(part))])


def sequence(engine: Any, ids: list[int] | None = None, chunk: int = 512) -> Any:
    made = _engine.Sequence(engine)
    extend(engine, made, ids or [], chunk)
    return made


def same(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> bool:
    """Whether arrays are equal, bit for bit, and finite."""
    return a.shape == b.shape and bool(np.isfinite(a).all()) and np.array_equal(a.view(np.uint32), b.view(np.uint32))


Load = Callable[..., Any]
