"""Qwen3.5 with experts, and Qwen3-Next."""

from __future__ import annotations

import numpy as np

from tests.families.case import Array, Case, Gguf, Settings, Weights
from tests.families.cases import qwen35
from tests.families.cases.qwen_moe import SHARED
from tests.families.mixture import fused, keys, merged

READ = frozenset({"partial_rotary_factor", "num_experts_per_tok", "norm_topk_prob"})
RESIZED = qwen35.RESIZED | {
    "num_experts", "num_local_experts", "moe_intermediate_size", "shared_expert_intermediate_size",
    "decoder_sparse_step", "mlp_only_layers",
}  # fmt: skip


def moe_keys(config: Settings) -> Settings:
    own = {"intermediate_size": None, **config}
    width = {"expert_shared_feed_forward_length": config["shared_expert_intermediate_size"]}
    return {**keys(own), **qwen35.keys(own), **width}


def next_keys(config: Settings) -> Settings:
    kinds = [kind == "linear_attention" for kind in config["layer_types"]]
    found = {**moe_keys(config), "attention.recurrent_layers": kinds}
    return {**found, "rope.dimension_sections": None, "full_attention_interval": None}


def one_row(name: str, value: Array) -> Array:
    """The gate of the shared expert has one row, and in files no dimension for it."""
    return value[0] if name.endswith("shared_expert_gate.weight") else value


def change35(config: Settings, name: str, value: Array) -> Array | Weights:
    return qwen35.change(config, name, one_row(name, value))


def old_next(config: Settings, name: str, value: Array) -> Array | Weights:
    """As the first converters wrote Qwen3-Next: projections as they are in the folder, by key head."""
    layer = name.split(".")[2] if ".layers." in name else ""
    if name.endswith("norm.weight") and "linear_attn" not in name:
        return value + np.float32(1)
    if name.endswith("A_log"):
        return {f"blk.{layer}.ssm_a": -np.exp(value)}
    if name.endswith("dt_bias"):
        return {f"blk.{layer}.ssm_dt.bias": value}
    if name.endswith("conv1d.weight"):
        return value[:, 0]
    return one_row(name, value)


def change_next(config: Settings, name: str, value: Array) -> Array | Weights:
    """Queries, keys and values of all heads as one matrix and their gates as another; beta and alpha by key head."""
    if not name.endswith("in_proj_qkvz.weight"):
        return old_next(config, name, value)
    n_k, dk, dim = config["linear_num_key_heads"], config["linear_key_head_dim"], value.shape[1]
    each = config["linear_num_value_heads"] // n_k * config["linear_value_head_dim"]
    parts = np.split(value.reshape(n_k, -1, dim), [dk, 2 * dk, 2 * dk + each], axis=1)
    q, k, v, z = (part.reshape(-1, dim) for part in parts)
    layer = name.split(".")[2]
    return {f"blk.{layer}.attn_qkv.weight": np.concatenate([q, k, v]), f"blk.{layer}.attn_gate.weight": z}


MOE = Gguf("qwen35moe", moe_keys, change35, names=SHARED, merge=merged)
FUSED = Gguf("qwen35moe", moe_keys, change35, names=SHARED, merge=lambda tensors: fused(merged(tensors)))
NEXT = Gguf("qwen3next", next_keys, change_next, names=SHARED, merge=merged)
OLD_NEXT = Gguf("qwen3next", next_keys, old_next, names=SHARED, merge=merged)
GAINS = {**qwen35.GAINS, r"in_proj_(ba|qkvz)": 2.0}
SIZES = {
    "num_hidden_layers": 4, "head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 12, "linear_value_head_dim": 32, "rms_norm_eps": 1e-4, "num_experts": 8,
    "num_experts_per_tok": 3, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 64,
    "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
}  # fmt: skip
RAGGED = {
    "num_hidden_layers": 3, "head_dim": 24, "linear_num_key_heads": 3, "linear_num_value_heads": 6,
    "linear_key_head_dim": 10, "linear_value_head_dim": 20, "linear_conv_kernel_dim": 3, "tie_word_embeddings": True,
    "num_attention_heads": 6, "num_key_value_heads": 3, "num_experts": 5, "num_experts_per_tok": 2,
    "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}  # fmt: skip
NEXT_ROPE = {"rope_type": "default", "rope_theta": 1e5, "partial_rotary_factor": 0.25}
CASES = (
    Case("qwen35moe", "Qwen3.5 to 3.8 with experts", "Qwen3_5MoeTextConfig", 451, "a shared expert behind a gate",
         tokens=1, gguf=MOE, strict=True, resized=RESIZED, ranges=qwen35.RANGES, gains=GAINS, read=READ,
         sizes={**SIZES, "rope_parameters": qwen35.ROPE}),
    Case("qwen35moe_ragged", "Qwen3.5 to 3.8 with experts", "Qwen3_5MoeTextConfig", 452,
         "three key heads, gate and up as one tensor", gguf=FUSED, ranges=qwen35.RANGES,
         gains=GAINS, sizes={**RAGGED, "rope_parameters": qwen35.ROPE}),
    Case("qwen3next", "Qwen3-Next", "Qwen3NextConfig", 453, "projections by key head in the folder",
         gguf=NEXT, strict=True, resized=RESIZED, ranges=qwen35.RANGES, gains=GAINS, read=READ,
         sizes={**SIZES, "rope_parameters": NEXT_ROPE}),
    Case("qwen3next_ragged", "Qwen3-Next", "Qwen3NextConfig", 454,
         "three key heads, the file's projections by key head too", gguf=OLD_NEXT,
         ranges=qwen35.RANGES, gains=GAINS,
         sizes={**RAGGED, "rope_parameters": NEXT_ROPE, "norm_topk_prob": True}),
    Case("qwen3next_dense_layers", "Qwen3-Next", "Qwen3NextConfig", 455,
         "a dense layer, one expert for a token, one value head",
         ranges=qwen35.RANGES, gains=GAINS,
         sizes={**SIZES, "rope_parameters": NEXT_ROPE, "norm_topk_prob": False, "mlp_only_layers": [1],
                "num_experts_per_tok": 1,
                "linear_num_key_heads": 1, "linear_num_value_heads": 1, "attention_bias": True}),
)  # fmt: skip
