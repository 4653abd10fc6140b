"""Granite 4 H, with experts and without: Mamba 2, and attention without a rotation."""

from __future__ import annotations

import numpy as np

from tests.families.case import Array, Case, Gguf, Settings, Weights, common_keys, interleaved


def keys(config: Settings) -> Settings:
    experts = {
        "feed_forward_length": config["intermediate_size"],
        "expert_count": config["num_local_experts"],
        "expert_used_count": config["num_experts_per_tok"],
        "expert_shared_feed_forward_length": config["shared_intermediate_size"],
    }
    heads = config["num_key_value_heads"]
    recurrent = [kind not in ("full_attention", "attention") for kind in config["layer_types"]]
    return {
        **common_keys({**config, "intermediate_size": config["shared_intermediate_size"]}),
        "attention.head_count_kv": [0 if one else heads for one in recurrent],
        "attention.scale": config["attention_multiplier"],
        "embedding_scale": config["embedding_multiplier"],
        "residual_scale": config["residual_multiplier"],
        "logit_scale": config["logits_scaling"],
        "rope.scaling.finetuned": config["position_embedding_type"] == "rope",
        "ssm.conv_kernel": config["mamba_d_conv"],
        "ssm.state_size": config["mamba_d_state"],
        "ssm.group_count": config["mamba_n_groups"],
        "ssm.time_step_rank": config["mamba_n_heads"],
        "ssm.inner_size": config["mamba_expand"] * config["hidden_size"],
        **(experts if config["num_local_experts"] else {}),
    }


def change(config: Settings, name: str, value: Array) -> Array | Weights:
    layer = name.split(".")[2] if ".layers." in name else ""
    if name.endswith("A_log"):
        return {f"blk.{layer}.ssm_a": -np.exp(value)[:, None]}
    if name.endswith("mamba.D"):
        return {f"blk.{layer}.ssm_d": value[:, None]}
    if name.endswith("dt_bias"):
        return {f"blk.{layer}.ssm_dt.bias": value}
    if name.endswith("conv1d.weight"):
        return value[:, 0]
    if name.endswith("norm.weight") and ".mamba." in name:
        return value.reshape(config["mamba_n_groups"], -1)
    experts = "exps" if "block_sparse_moe" in name else "shexp" if config["num_local_experts"] else ""
    own = f"_{experts}" if experts else ""
    if name.endswith("router.layer.weight"):
        return {f"blk.{layer}.ffn_gate_inp.weight": value}
    if name.endswith("input_linear.weight"):
        gate, up = np.split(value, 2, axis=-2)
        return {f"blk.{layer}.ffn_gate{own}.weight": gate, f"blk.{layer}.ffn_up{own}.weight": up}
    if name.endswith("output_linear.weight"):
        return {f"blk.{layer}.ffn_down{own}.weight": value}
    return interleaved(config, name, value)


RESIZED = frozenset({
    "layer_types", "mamba_d_conv", "mamba_d_state", "mamba_expand", "mamba_n_groups", "mamba_n_heads", "mamba_d_head",
    "shared_intermediate_size", "num_local_experts", "num_experts", "expert_count", "expert_used_count",
    "ssm.conv_kernel", "ssm.group_count", "ssm.inner_size", "ssm.state_size",
    "ssm.time_step_rank", "mamba_conv_bias", "mamba_proj_bias",
})  # fmt: skip
READ = frozenset({
    "attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling", "position_embedding_type",
    "num_experts_per_tok", "time_step_limit",
})  # fmt: skip
CASES = (
    Case(
        "granitehybrid", "Granite 4 H", "GraniteMoeHybridConfig", 221,
        "two groups, heads that are no multiple of 16, multipliers, no rotation",
        gguf=Gguf("granitehybrid", keys, change),
        strict=True, resized=RESIZED, read=READ, ranges={"A_log": (-1.0, 1.5), "dt_bias": (-2.0, 2.0)},
        gains={r"mamba\.(in|out)_proj|output_linear": 2.0, "conv1d": 1.5},
        sizes={
            "layer_types": ["linear_attention", "full_attention", "linear_attention"], "num_local_experts": 0,
            "shared_intermediate_size": 96, "mamba_n_heads": 4, "mamba_n_groups": 2, "mamba_d_state": 24,
            "mamba_expand": 1, "mamba_d_conv": 4, "attention_multiplier": 0.3, "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5, "logits_scaling": 4.0, "rms_norm_eps": 1e-4,
        },
    ),
    Case(
        "granitehybrid_mamba", "Granite 4 H", "GraniteMoeHybridConfig", 222,
        "no attention at all, tied head, biases", gguf=Gguf("granitehybrid", keys, change),
        ranges={"A_log": (-1.0, 1.5), "dt_bias": (-2.0, 2.0)},
        sizes={
            "layer_types": ["linear_attention"] * 3, "num_local_experts": 0, "shared_intermediate_size": 96,
            "mamba_n_heads": 2, "mamba_n_groups": 1, "mamba_d_state": 16, "mamba_expand": 1, "mamba_d_conv": 3,
            "mamba_conv_bias": True, "mamba_proj_bias": True, "tie_word_embeddings": True,
        },
    ),
    Case(
        "granitehybrid_experts", "Granite 4 H", "GraniteMoeHybridConfig", 223,
        "experts with a shared one, a rotation, no bias", gguf=None, strict=True, resized=RESIZED, read=READ,
        ranges={"A_log": (-1.0, 1.5), "dt_bias": (-2.0, 2.0)},
        gains={r"mamba\.(in|out)_proj|(in|out)put_linear": 2.0, "conv1d": 1.5},
        sizes={
            "layer_types": ["linear_attention", "full_attention", "linear_attention"], "num_local_experts": 6,
            "num_experts_per_tok": 2, "intermediate_size": 32, "shared_intermediate_size": 64, "mamba_n_heads": 6,
            "mamba_n_groups": 3, "mamba_d_state": 20, "mamba_expand": 3, "attention_multiplier": 0.3,
            "residual_multiplier": 0.5, "logits_scaling": 2.0, "position_embedding_type": "rope",
            "mamba_conv_bias": False,
        },
    ),
    Case(
        "granitehybrid_experts_one", "Granite 4 H", "GraniteMoeHybridConfig", 224,
        "one layer, tied, biases", gguf=Gguf("granitehybrid", keys, change),
        ranges={"A_log": (-1.0, 1.5), "dt_bias": (-2.0, 2.0)},
        sizes={
            "num_hidden_layers": 1, "layer_types": ["linear_attention"], "num_local_experts": 4,
            "num_experts_per_tok": 2, "intermediate_size": 32, "shared_intermediate_size": 64, "mamba_n_heads": 2,
            "mamba_n_groups": 2, "mamba_d_state": 16, "mamba_expand": 1, "mamba_proj_bias": True,
            "residual_multiplier": 0.5, "tie_word_embeddings": True,
        },
    ),
)  # fmt: skip
