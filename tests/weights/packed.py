"""Tiny folders whose weights are quantised, in every layout, and what their matrices stand for in float32.

The layouts are written down from their packages: gptqmodel's pack_block, autoawq's WQLinear_GEMM.from_linear,
compressed-tensors' pack_to_int32, transformers' Fp8Dequantize.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
DIM, FF, HEADS, KV, WIDTH, LAYERS, VOCAB, EXPERTS = 256, 384, 4, 2, 64, 2, 96, 4
_TYPES = {"float32": "F32", "float16": "F16", "int32": "I32", "int64": "I64", "int8": "I8", "uint8": "U8"}


class BF16(np.ndarray):
    """uint16 that is stored as BF16."""


class FP8(np.ndarray):
    """uint8 that is stored as F8_E4M3."""


def save(tensors: dict[str, Array], path: Path) -> None:
    """A safetensors file; the package's own writer for NumPy has neither BF16 nor FP8."""
    header, at = {}, 0
    for name, value in tensors.items():
        kind = "BF16" if isinstance(value, BF16) else "F8_E4M3" if isinstance(value, FP8) else _TYPES[value.dtype.name]
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [at, at + value.nbytes]}
        at += value.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(v.tobytes() for v in tensors.values()))


def bf16(values: Array) -> Array:
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(BF16)


def widen(values: Array) -> Array:
    return (np.asarray(values).astype(np.uint32) << 16).view(np.float32)


def modules(experts: int = 0) -> dict[str, tuple[int, int]]:
    """The quantised modules of the model: name -> (rows, k)."""
    found: dict[str, tuple[int, int]] = {}
    for i in range(LAYERS):
        head = f"model.layers.{i}."
        found |= {
            f"{head}self_attn.q_proj": (HEADS * WIDTH, DIM),
            f"{head}self_attn.k_proj": (KV * WIDTH, DIM),
            f"{head}self_attn.v_proj": (KV * WIDTH, DIM),
            f"{head}self_attn.o_proj": (DIM, HEADS * WIDTH),
        }
        for mlp in [f"{head}mlp.experts.{e}." for e in range(experts)] or [f"{head}mlp."]:
            found |= {f"{mlp}gate_proj": (FF, DIM), f"{mlp}up_proj": (FF, DIM), f"{mlp}down_proj": (DIM, FF)}
    return found


def config(experts: int = 0, **more: Any) -> dict[str, Any]:
    sizes = {
        "hidden_size": DIM, "intermediate_size": FF, "num_attention_heads": HEADS, "num_key_value_heads": KV,
        "head_dim": WIDTH, "num_hidden_layers": LAYERS, "vocab_size": VOCAB, "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False,
    }  # fmt: skip
    if experts:
        sizes |= {
            "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "num_experts": experts,
            "num_experts_per_tok": 2, "moe_intermediate_size": FF, "norm_topk_prob": True, "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }  # fmt: skip
    else:
        sizes |= {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
    return {**sizes, **more}


def others(experts: int = 0, seed: int = 5) -> dict[str, Array]:
    """The tensors that are not quantised."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Array:
        return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    found = {"model.embed_tokens.weight": 16 * draw(VOCAB, DIM), "lm_head.weight": draw(VOCAB, DIM)}
    found["model.norm.weight"] = np.ones(DIM, np.float32)
    for i in range(LAYERS):
        head = f"model.layers.{i}."
        for name, n in (("input_layernorm", DIM), ("post_attention_layernorm", DIM), ("self_attn.q_norm", WIDTH),
                        ("self_attn.k_norm", WIDTH)):  # fmt: skip
            found[f"{head}{name}.weight"] = np.ones(n, np.float32)
        if experts:
            found[f"{head}mlp.gate.weight"] = draw(experts, DIM)
    return found


@dataclass
class Codes:
    """A matrix of integers: w = scale[:, group] * (codes - zero[:, group])."""

    codes: Array  # (rows, k)
    scale: Array  # (rows, groups), float32
    zero: Array  # (rows, groups)
    group: Array  # (k)
    tensors: dict[str, Array] = field(default_factory=dict)

    def floats(self) -> Array:
        offset = self.codes.astype(np.float32) - self.zero[:, self.group].astype(np.float32)
        return self.scale[:, self.group] * offset


def draw(rng: np.random.Generator, rows: int, k: int, *, bits: int = 4, size: int = 128, sym: bool = True,
         act: Array | None = None, scale: str = "F16") -> Codes:  # fmt: skip
    """size: columns of a group, -1: all; act: the group of each column."""
    size = k if size == -1 else size
    groups = -(-k // size)
    top = (1 << bits) - 1
    scales = (rng.uniform(0.5, 1.5, (rows, groups)) * 3 / (top * np.sqrt(k))).astype(np.float32)
    if scale == "F16":
        scales = scales.astype(np.float16).astype(np.float32)
    if scale == "BF16":
        scales = widen(bf16(scales))
    zero = np.full((rows, groups), (top + 1) // 2) if sym else rng.integers(1, top + 1, (rows, groups))
    group = np.arange(k) // size if act is None else act
    return Codes(rng.integers(0, top + 1, (rows, k)), scales, zero, group)


def words(fields: Array, bits: int) -> Array:
    """(..., n) -> int32 (..., n * bits / 32), the first in the lowest bits."""
    per = 32 // bits
    pad = -fields.shape[-1] % per
    padded = np.pad(fields, [(0, 0)] * (fields.ndim - 1) + [(0, pad)]).astype(np.uint64)
    parts = padded.reshape(*fields.shape[:-1], -1, per) << (bits * np.arange(per, dtype=np.uint64))
    return np.ascontiguousarray(parts.sum(-1).astype(np.uint32).view(np.int32))


def as_gptq(c: Codes, bits: int, *, v2: bool = False, index: bool = True) -> dict[str, Array]:
    zero = c.zero.T if v2 else (c.zero.T - 1)
    found = {
        "qweight": np.ascontiguousarray(words(c.codes, bits).T),
        "qzeros": words(zero, bits),
        "scales": np.ascontiguousarray(c.scale.T.astype(np.float16)),
    }
    return {**found, "g_idx": c.group.astype(np.int32)} if index else found


def as_awq(c: Codes) -> dict[str, Array]:
    order = np.array([0, 2, 4, 6, 1, 3, 5, 7])

    def packed(fields: Array) -> Array:  # (m, rows)
        return words(fields.reshape(len(fields), -1, 8)[..., order].reshape(len(fields), -1), 4)

    scales = np.ascontiguousarray(c.scale.T.astype(np.float16))
    return {"qweight": packed(c.codes.T), "qzeros": packed(c.zero.T), "scales": scales}


def as_packed(c: Codes, bits: int, sym: bool, *, scale: str = "BF16", index: bool = False) -> dict[str, Array]:
    found = {
        "weight_packed": words(c.codes, bits),
        "weight_scale": bf16(c.scale) if scale == "BF16" else c.scale.astype({"F16": "f2", "F32": "f4"}[scale]),
        "weight_shape": np.array(c.codes.shape, np.int64),
    }
    if not sym:
        found["weight_zero_point"] = np.ascontiguousarray(words(c.zero.T, bits).T)
    return {**found, "weight_g_idx": c.group.astype(np.int32)} if index else found


def e4m3() -> Array:
    """Every code's value."""
    values = []
    for code in range(256):
        e, m = code >> 3 & 15, code & 7
        v = m / 8 * 2.0**-6 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7)
        values.append(np.nan if code & 127 == 127 else -v if code & 128 else v)
    return np.array(values, np.float32)


def write(path: Path, matrices: dict[str, dict[str, Array]], quantization: dict[str, Any] | None, experts: int = 0,
          floats: dict[str, Array] | None = None, **more: Any) -> Path:  # fmt: skip
    """A folder. matrices: module -> its tensors; floats: the others."""
    path.mkdir()
    settings = config(experts, **more)
    if quantization is not None:
        settings["quantization_config"] = quantization
    (path / "config.json").write_text(json.dumps(settings))
    tensors = dict(others(experts) if floats is None else floats)
    for name, parts in matrices.items():
        tensors |= {f"{name}.{part}": value for part, value in parts.items()}
    save(tensors, path / "model.safetensors")
    return path
