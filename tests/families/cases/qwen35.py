"""Qwen3.5: gated delta nets, and attention with output gates."""

from __future__ import annotations

import numpy as np

from tests.families.case import Array, Case, Gguf, Settings, Weights, common_keys


def keys(config: Settings) -> Settings:
    rope = config["rope_parameters"]
    return {
        **common_keys(config),
        "rope.dimension_count": int(config["head_dim"] * rope["partial_rotary_factor"]),
        "rope.dimension_sections": [1, 1, 0, 0],
        "ssm.conv_kernel": config["linear_conv_kernel_dim"],
        "ssm.state_size": config["linear_key_head_dim"],
        "ssm.group_count": config["linear_num_key_heads"],
        "ssm.time_step_rank": config["linear_num_value_heads"],
        "ssm.inner_size": config["linear_value_head_dim"] * config["linear_num_value_heads"],
        "full_attention_interval": config["layer_types"].index("full_attention") + 1,
    }


def tiled(config: Settings, value: Array, axis: int, width: int) -> Array:
    """Value heads, `width` apart, from the order of their key heads to (number within the key head, key head)."""
    n_k = config["linear_num_key_heads"]
    each = config["linear_num_value_heads"] // n_k
    parts = np.moveaxis(value, axis, 0)
    parts = parts.reshape(n_k, each, width, *parts.shape[1:]).swapaxes(0, 1).reshape(parts.shape)
    return np.ascontiguousarray(np.moveaxis(parts, 0, axis))


def change(config: Settings, name: str, value: Array) -> Array | Weights:
    """As converters write: A = -exp(A_log), norms with their 1, value heads tiled."""
    dv, keys = config["linear_value_head_dim"], 2 * config["linear_num_key_heads"] * config["linear_key_head_dim"]
    if name.endswith("norm.weight") and "linear_attn" not in name:
        return value + np.float32(1)
    layer = name.split(".")[2] if "linear_attn" in name else ""
    if name.endswith("A_log"):
        return {f"blk.{layer}.ssm_a": tiled(config, -np.exp(value), 0, 1)}
    if name.endswith("dt_bias"):
        return {f"blk.{layer}.ssm_dt.bias": tiled(config, value, 0, 1)}
    if name.endswith(("in_proj_a.weight", "in_proj_b.weight")):
        return tiled(config, value, 0, 1)
    if name.endswith("in_proj_z.weight"):
        return tiled(config, value, 0, dv)
    if name.endswith("linear_attn.out_proj.weight"):
        return tiled(config, value, 1, dv)
    if name.endswith("conv1d.weight"):
        value = value[:, 0]
    if name.endswith(("in_proj_qkv.weight", "conv1d.weight")):
        return np.concatenate([value[:keys], tiled(config, value[keys:], 0, dv)])
    return value


QWEN35 = Gguf("qwen35", keys, change)
RANGES = {"A_log": (-1.0, 1.5), "dt_bias": (-2.0, 2.0)}
GAINS = {r"in_proj_(a|b|z|qkv)|linear_attn.out_proj": 2.0, "conv1d": 1.5}
ROPE = {
    "rope_type": "default", "rope_theta": 1e5, "partial_rotary_factor": 0.25, "mrope_section": [1, 1, 0],
    "mrope_interleaved": True,
}  # fmt: skip
RESIZED = frozenset({
    "linear_conv_kernel_dim", "linear_key_head_dim", "linear_num_key_heads", "linear_num_value_heads",
    "linear_value_head_dim", "layer_types", "full_attention_interval", "attention.recurrent_layers",
    "ssm.conv_kernel", "ssm.group_count", "ssm.inner_size", "ssm.state_size", "ssm.time_step_rank",
})  # fmt: skip
CASES = (
    Case(
        "qwen35", "Qwen3.5 to 3.8, dense", "Qwen3_5TextConfig", 211, "two value heads for each key head",
        gguf=QWEN35, strict=True, resized=RESIZED, ranges=RANGES, gains=GAINS,
        read=frozenset({"partial_rotary_factor"}),
        sizes={
            "num_hidden_layers": 4, "head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
            "linear_key_head_dim": 12, "linear_value_head_dim": 32, "rms_norm_eps": 1e-4, "rope_parameters": ROPE,
            "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
        },
    ),
    Case(
        "qwen35_ragged", "Qwen3.5 to 3.8, dense", "Qwen3_5TextConfig", 212,
        "tied head, three value heads for each key head, columns that are no multiple of 16", gguf=QWEN35,
        ranges=RANGES, gains=GAINS,
        sizes={
            "num_hidden_layers": 3, "head_dim": 24, "linear_num_key_heads": 2, "linear_num_value_heads": 6,
            "linear_key_head_dim": 10, "linear_value_head_dim": 20, "linear_conv_kernel_dim": 3,
            "tie_word_embeddings": True, "num_attention_heads": 6, "num_key_value_heads": 3, "rope_parameters": ROPE,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        },
    ),
)  # fmt: skip
