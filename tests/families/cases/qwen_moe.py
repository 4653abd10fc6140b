"""Qwen2 MoE, with a shared expert behind a gate, and Qwen3 MoE."""

from __future__ import annotations

from tests.families.case import Array, Case, Gguf, Settings
from tests.families.mixture import keys, merged

READ = frozenset({"norm_topk_prob", "num_experts_per_tok", "max_window_layers"})
RESIZED = frozenset({"num_experts", "num_local_experts", "moe_intermediate_size", "shared_expert_intermediate_size",
                     "decoder_sparse_step", "mlp_only_layers"})  # fmt: skip
SHARED = {
    f"model.layers.{i}.mlp.shared_expert{own}.weight": f"blk.{i}.{name}.weight"
    for i in range(4)
    for own, name in (
        (".gate_proj", "ffn_gate_shexp"), (".up_proj", "ffn_up_shexp"), (".down_proj", "ffn_down_shexp"),
        ("_gate", "ffn_gate_inp_shexp"),
    )
}  # fmt: skip


def qwen2_keys(config: Settings) -> Settings:
    width = {"expert_shared_feed_forward_length": config["shared_expert_intermediate_size"]}
    return {**keys(config), **width, "attention.key_length": None, "attention.value_length": None}


def qwen2_change(config: Settings, name: str, value: Array) -> Array:
    """The gate of the shared expert has one row, and in files no dimension for it."""
    return value[0] if name.endswith("shared_expert_gate.weight") else value


QWEN2 = Gguf("qwen2moe", qwen2_keys, qwen2_change, names=SHARED, merge=merged)
QWEN3 = Gguf("qwen3moe", keys, merge=merged)
SIZES2 = {
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 64,
}
SIZES3 = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32, "head_dim": 24}
CASES = (
    Case("qwen2moe", "Qwen2-MoE", "Qwen2MoeConfig", 311, "a shared expert, weights as softmax has them", gguf=QWEN2,
         tokens=1, strict=True, read=READ | {"qkv_bias"}, resized=RESIZED, sizes={**SIZES2, "rms_norm_eps": 1e-4}),
    Case("qwen2moe_dense_layers", "Qwen2-MoE", "Qwen2MoeConfig", 312, "dense layers among others, windows, no biases",
         tokens=4, sizes={**SIZES2, "mlp_only_layers": [1], "num_hidden_layers": 4, "use_sliding_window": True,
                "qkv_bias": False, "sliding_window": 24, "max_window_layers": 3, "norm_topk_prob": True}),
    Case("qwen2moe_odd", "Qwen2-MoE", "Qwen2MoeConfig", 315, "one layer, three heads of 14 columns, five experts of 32",
         gguf=QWEN2,
         sizes={"num_hidden_layers": 1, "num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 42,
                "num_experts": 5, "num_experts_per_tok": 1, "moe_intermediate_size": 32,
                "shared_expert_intermediate_size": 50}),
    Case("qwen3moe", "Qwen3-MoE", "Qwen3MoeConfig", 313, "weights renormalised", gguf=QWEN3, strict=True, read=READ,
         resized=RESIZED, sizes={**SIZES3, "norm_topk_prob": True, "rms_norm_eps": 1e-4}),
    Case("qwen3moe_dense_layers", "Qwen3-MoE", "Qwen3MoeConfig", 314, "every second layer dense, tied, one expert",
         sizes={**SIZES3, "decoder_sparse_step": 2, "num_experts_per_tok": 1, "tie_word_embeddings": True,
                "num_hidden_layers": 4, "norm_topk_prob": False}),
    Case("qwen3moe_odd", "Qwen3-MoE", "Qwen3MoeConfig", 316, "one layer, five heads of 18 columns, every one of five "
         "experts", gguf=QWEN3,
         sizes={"num_hidden_layers": 1, "num_attention_heads": 5, "num_key_value_heads": 1, "hidden_size": 45,
                "head_dim": 18, "num_experts": 5, "num_experts_per_tok": 5, "moe_intermediate_size": 32,
                "norm_topk_prob": True, "tie_word_embeddings": True}),
)  # fmt: skip
