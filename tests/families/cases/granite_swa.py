"""Granite with windows: sinks, and a rotation base for each layer."""

from __future__ import annotations

from tests.families.case import Array, Case, Gguf, Settings, Weights
from tests.families.cases import granite, granitemoe


def keys(config: Settings) -> Settings:
    return {
        **(granitemoe.keys(config) if "num_local_experts" in config else granite.keys(config)),
        "attention.sliding_window": config["sliding_window"],
        "attention.sliding_window_pattern": [kind == "sliding_attention" for kind in config["layer_types"]],
        "rope.freq_base": max(config["layer_rope_theta"]),
        "attention.rope_pattern": [base != 0 for base in config["layer_rope_theta"]],
    }


def change(config: Settings, name: str, value: Array) -> Array | Weights:
    layer = name.split(".")[2] if ".layers." in name else ""
    if name.endswith("sinks"):
        return {f"blk.{layer}.attn_sinks.weight": value}
    if name.endswith("shared_mlp.input_linear.weight"):  # gate and up of the shared expert stay one
        return {f"blk.{layer}.ffn_up_shexp.weight": value}
    fused = {"experts.gate_up_proj": "ffn_gate_up_exps", "experts.down_proj": "ffn_down_exps", "router.weight":
             "ffn_gate_inp"}  # fmt: skip
    for own, found in fused.items():
        if name.endswith(f"block_sparse_moe.{own}"):
            return {f"blk.{layer}.{found}.weight": value}
    return granitemoe.change(config, name, value)


SWA = Gguf("granite_swa", keys, change)
READ = granite.READ | {"layer_rope_theta", "num_experts_per_tok"}
RESIZED = granitemoe.RESIZED
CASES = (
    Case("granite_swa", "Granite with windows", "GraniteSWAConfig", 511, "windows, a layer without a rotation",
         gguf=SWA, strict=True, read=READ, resized=RESIZED, ranges={"sinks": (-2.0, 3.0)},
         sizes={"num_hidden_layers": 4, "sliding_window": 20, "attention_multiplier": 0.3, "residual_multiplier": 0.5,
                "logits_scaling": 2.0, "embedding_multiplier": 3.0, "rms_norm_eps": 1e-4,
                "layer_rope_theta": [1e4, 1e4, 0.0, 1e4]}),
    Case("granite_swa_bases", "Granite with windows", "GraniteSWAConfig", 512, "other bases in layers, untied, biases",
         ranges={"sinks": (-2.0, 3.0)},
         sizes={"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 33,
                "layer_rope_theta": [300.0, 1e6, 0.0], "attention_multiplier": 0.25,
                "tie_word_embeddings": False, "attention_bias": True,
                "mlp_bias": True}),
    Case("granitemoe_swa", "Granite with windows", "GraniteMoeSWAConfig", 513, "experts and a shared one", gguf=SWA,
         strict=True, read=READ, resized=RESIZED, ranges={"sinks": (-2.0, 3.0)},
         gains={**granitemoe.GAINS, "(q|k)_proj": 0.25},  # scores in range for the strict tests
         sizes={"num_local_experts": 6, "num_experts_per_tok": 2, "shared_intermediate_size": 64, "sliding_window": 20,
                "residual_multiplier": 0.5, "layer_rope_theta": [5e3, 0.0, 5e3]}),
)  # fmt: skip
