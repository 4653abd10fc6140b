"""Kimi Linear: the delta rule with a decay for each key channel, attention over latent rows without a rotation."""

from __future__ import annotations

import numpy as np

from tests.families.case import Array, Case, Gguf, Settings, Weights
from tests.families.mixture import merged


def keys(config: Settings) -> Settings:
    rank, rope = config["kv_lora_rank"], config["qk_rope_head_dim"]
    return {
        "context_length": config["model_max_length"],
        "block_count": config["num_hidden_layers"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": [int(kind == "full_attention") for kind in config["layer_types"]],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "attention.q_lora_rank": config["q_lora_rank"],
        "attention.kv_lora_rank": rank,
        "attention.key_length": rank + rope,
        "attention.key_length_mla": config["qk_nope_head_dim"] + rope,
        "attention.value_length_mla": config["v_head_dim"],
        "rope.dimension_count": rope,
        "ssm.conv_kernel": config["linear_conv_kernel_dim"],
        "kda.head_dim": config["linear_head_dim"],
        "expert_count": config["num_experts"],
        "expert_used_count": config["num_experts_per_token"],
        "expert_feed_forward_length": config["moe_intermediate_size"],
        "expert_shared_count": config["num_shared_experts"],
        "expert_gating_func": 2,
        "leading_dense_block_count": config["mlp_layer_types"].index("sparse"),
        "expert_weights_scale": config["routed_scaling_factor"],
        "vocab_size": config["vocab_size"],
    }


NAMES = {"f_a_proj": "ssm_f_a", "f_b_proj": "ssm_f_b", "g_a_proj": "ssm_g_a", "g_b_proj": "ssm_g_b",
         "b_proj": "ssm_beta", "o_norm": "ssm_norm", "o_proj": "attn_output", "q_proj": "attn_q", "k_proj": "attn_k",
         "v_proj": "attn_v"}  # fmt: skip


def change(config: Settings, name: str, value: Array) -> Array | Weights:
    layer = name.split(".")[2] if ".layers." in name else ""
    own = name.partition("self_attn.")[2]
    if own == "A_log":
        return {f"blk.{layer}.ssm_a": -np.exp(value)}
    if own == "dt_bias":
        return {f"blk.{layer}.ssm_dt.bias": value}
    if "_conv1d" in own:
        return {f"blk.{layer}.ssm_conv1d_{own[0]}.weight": value.reshape(1, len(value), 1, -1)}
    if own.removesuffix(".weight") in NAMES:
        return {f"blk.{layer}.{NAMES[own.removesuffix('.weight')]}.weight": value}
    if name.endswith("e_score_correction_bias"):
        return {f"blk.{layer}.exp_probs_b.bias": value}
    if name.endswith("block_sparse_moe.gate.weight"):
        return {f"blk.{layer}.ffn_gate_inp.weight": value}
    if name.split("block_sparse_moe.")[-1] in ("gate_proj.weight", "up_proj.weight", "down_proj.weight"):
        return {f"blk.{layer}.ffn_{name.split('.')[-2].removesuffix('_proj')}.weight": value}
    if ".shared_experts." in name:
        return {f"blk.{layer}.ffn_{name.split('.')[-2].removesuffix('_proj')}_shexp.weight": value}
    if name.endswith("kv_b_proj.weight"):
        nope, dv = config["qk_nope_head_dim"], config["v_head_dim"]
        parts = value.reshape(config["num_attention_heads"], nope + dv, -1)
        k = np.ascontiguousarray(parts[:, :nope].swapaxes(1, 2))
        return {
            f"blk.{layer}.attn_k_b.weight": k,
            f"blk.{layer}.attn_v_b.weight": np.ascontiguousarray(parts[:, nope:]),
        }
    return value


KIMI = Gguf("kimi-linear", keys, change, merge=merged)
RANGES = {"A_log": (-1.0, 1.5), "dt_bias": (-2.0, 2.0), "correction_bias": (-0.2, 0.2)}
GAINS = {r"(b|f_b|g_b|q|k|v)_proj": 2.0, "conv1d": 1.5, "kv_b": 2.0}
READ = frozenset({"num_experts_per_token", "num_expert_group", "topk_group", "routed_scaling_factor",
                  "moe_renormalize", "num_experts_per_tok", "n_group", "norm_topk_prob"})  # fmt: skip
RESIZED = frozenset({
    "linear_head_dim", "linear_num_heads", "linear_conv_kernel_dim", "layer_types", "mlp_layer_types", "kv_lora_rank",
    "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "num_experts", "num_local_experts",
    "moe_intermediate_size", "num_shared_experts", "n_shared_experts", "first_k_dense_replace", "ssm.conv_kernel",
    "kda.head_dim", "model_max_length",
})  # fmt: skip
SIZES = {
    "num_hidden_layers": 4, "num_key_value_heads": 4, "q_lora_rank": None, "kv_lora_rank": 32, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16, "v_head_dim": 24, "num_local_experts": 8, "num_experts_per_tok": 3,
    "moe_intermediate_size": 32, "n_shared_experts": 1, "linear_num_heads": 4, "rms_norm_eps": 1e-4,
}  # fmt: skip
CASES = (
    Case("kimi_linear", "Kimi Linear", "KimiLinearConfig", 531, "one layer with attention, the first layer dense",
         tokens=1, gguf=KIMI, strict=True, read=READ, resized=RESIZED, ranges=RANGES, gains=GAINS,
         sizes={**SIZES, "linear_head_dim": 20,
                "layer_types": ["linear_attention", "full_attention", "linear_attention", "linear_attention"]}),
    Case("kimi_linear_groups", "Kimi Linear", "KimiLinearConfig", 532,
         "queries of low rank, groups of experts, other numbers of heads, three taps", ranges=RANGES, gains=GAINS,
         sizes={**SIZES, "q_lora_rank": 24, "n_group": 4, "topk_group": 2, "linear_num_heads": 3,
                "linear_head_dim": 32, "linear_conv_kernel_dim": 3, "num_hidden_layers": 3, "norm_topk_prob": False,
                "layer_types": ["linear_attention", "linear_attention", "full_attention"]}),
)  # fmt: skip
