"""Nemotron-H: a layer is Mamba 2, attention, a feed-forward network or a mixture of experts."""

from __future__ import annotations

import re

import numpy as np

from tests.families.case import Array, Case, Gguf, Settings, Weights
from tests.families.cases.mamba2 import GAINS, RANGES, mixer


def keys(config: Settings) -> Settings:
    kinds = config["layers_block_type"]
    heads, ff = config["num_key_value_heads"], config["intermediate_size"]
    return {
        "context_length": config["max_position_embeddings"],
        "block_count": len(kinds),
        "embedding_length": config["hidden_size"],
        "feed_forward_length": [ff if kind in ("mlp", "moe") else 0 for kind in kinds],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": [heads if kind == "full_attention" else 0 for kind in kinds],
        "attention.key_length": config["head_dim"],
        "attention.value_length": config["head_dim"],
        "attention.layer_norm_rms_epsilon": config["layer_norm_epsilon"],
        "rope.scaling.finetuned": False,
        "ssm.conv_kernel": config["conv_kernel"],
        "ssm.inner_size": config["mamba_num_heads"] * config["mamba_head_dim"],
        "ssm.state_size": config["ssm_state_size"],
        "ssm.time_step_rank": config["mamba_num_heads"],
        "ssm.group_count": config["n_groups"],
        "vocab_size": config["vocab_size"],
    }


def moe_keys(config: Settings) -> Settings:
    ff = [config["moe_intermediate_size"] if n else 0 for n in keys(config)["feed_forward_length"]]
    return {
        **keys(config),
        "feed_forward_length": ff,
        "expert_count": config["n_routed_experts"],
        "expert_used_count": config["num_experts_per_tok"],
        "expert_feed_forward_length": config["moe_intermediate_size"],
        "expert_shared_feed_forward_length": config["moe_shared_expert_intermediate_size"],
        "expert_shared_count": config["n_shared_experts"],
        "expert_weights_norm": config["norm_topk_prob"],
        "expert_weights_scale": config["routed_scaling_factor"],
        "expert_group_count": config["n_group"],
        "moe_latent_size": config["moe_latent_size"],
    }


NAMES = {
    "in_proj": "ssm_in", "out_proj": "ssm_out", "conv1d": "ssm_conv1d", "norm": "ssm_norm", "q_proj": "attn_q",
    "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "up_proj": "ffn_up", "down_proj": "ffn_down",
    "gate": "ffn_gate_inp", "shared_experts.up_proj": "ffn_up_shexp", "shared_experts.down_proj": "ffn_down_shexp",
    "fc1_latent_proj": "ffn_latent_down", "fc2_latent_proj": "ffn_latent_up",
}  # fmt: skip


def change(config: Settings, name: str, value: Array) -> Array | Weights:
    match = re.fullmatch(r"backbone\.layers\.(\d+)\.mixer\.(.+)", name)
    if match is None:
        return value
    layer, own = match.groups()
    found = mixer(layer, name, value, config["n_groups"])
    if isinstance(found, dict):
        return found
    if own == "gate.e_score_correction_bias":
        return {f"blk.{layer}.exp_probs_b.bias": value}
    stem, _, end = own.rpartition(".")
    if stem.startswith("experts."):
        return value
    return {f"blk.{layer}.{NAMES[stem]}.{end}": value if found is None else found}


def merged(tensors: Weights) -> Weights:
    """All experts of a layer in one tensor."""
    out: Weights = {}
    experts: dict[str, dict[int, Array]] = {}
    for name, value in tensors.items():
        match = re.fullmatch(r"backbone\.layers\.(\d+)\.mixer\.experts\.(\d+)\.(up|down)_proj\.weight", name)
        if match is None:
            out[name] = value
        else:
            experts.setdefault(f"blk.{match[1]}.ffn_{match[3]}_exps.weight", {})[int(match[2])] = value
    return out | {name: np.stack([parts[e] for e in sorted(parts)]) for name, parts in experts.items()}


DENSE = Gguf("nemotron_h", keys, change)
MOE = Gguf("nemotron_h_moe", moe_keys, change, merge=merged)
READ = frozenset({
    "layer_norm_epsilon", "time_step_min", "mlp_hidden_act", "num_experts_per_tok", "norm_topk_prob", "n_group",
    "topk_group", "routed_scaling_factor",
})  # fmt: skip
RESIZED = frozenset({
    "layers_block_type", "layer_types", "conv_kernel", "n_groups", "mamba_num_heads", "mamba_head_dim",
    "ssm_state_size", "use_bias", "use_conv_bias", "n_routed_experts", "num_local_experts", "moe_intermediate_size",
    "moe_shared_expert_intermediate_size", "moe_latent_size", "ssm.conv_kernel", "ssm.group_count", "ssm.inner_size",
    "ssm.state_size", "ssm.time_step_rank", "expert_count", "expert_used_count", "n_group",
})  # fmt: skip
MAMBA = {"mamba_num_heads": 6, "mamba_head_dim": 16, "n_groups": 3, "ssm_state_size": 20, "conv_kernel": 4}
EXPERTS = {
    "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 64,
}  # fmt: skip
MOE_RANGES = {**RANGES, "correction_bias": (-0.2, 0.2)}
CASES = (
    Case("nemotron_h", "Nemotron-H", "NemotronHConfig", 491, "each kind of layer but experts, heads of another width",
         gguf=DENSE, strict=True, read=READ, resized=RESIZED, ranges=RANGES, gains=GAINS,
         sizes={**MAMBA, "layers_block_type": ["linear_attention", "full_attention", "mlp", "linear_attention"],
                "head_dim": 24, "layer_norm_epsilon": 1e-4}),
    Case("nemotron_h_mamba", "Nemotron-H", "NemotronHConfig", 492, "Mamba 2 alone, dt from 0.3 on, biases",
         ranges=RANGES, gains=GAINS,
         sizes={"mamba_num_heads": 2, "mamba_head_dim": 48, "n_groups": 1, "ssm_state_size": 16, "use_bias": True,
                "layers_block_type": ["linear_attention"] * 2, "time_step_min": 0.3,
                "use_conv_bias": False}),
    Case("nemotron_h_mlp", "Nemotron-H", "NemotronHConfig", 493, "one network, after attention; biases", gguf=DENSE,
         ranges=RANGES, gains=GAINS,
         sizes={**MAMBA, "layers_block_type": ["full_attention", "mlp", "linear_attention"], "mlp_bias": True}),
    Case("nemotron_h_moe", "Nemotron 3, with experts", "NemotronHConfig", 494, "scaled weights, a bias for the choice",
         gguf=MOE, strict=True, read=READ, resized=RESIZED, ranges=MOE_RANGES, gains=GAINS,
         sizes={**MAMBA, **EXPERTS, "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"],
                "routed_scaling_factor": 2.5, "n_group": 1, "topk_group": 1}),
    Case("nemotron_h_moe_latent", "Nemotron 3, with experts", "NemotronHConfig", 495,
         "experts in a space of another width", gguf=MOE, ranges=MOE_RANGES, gains=GAINS,
         sizes={**MAMBA, **EXPERTS, "layers_block_type": ["moe", "full_attention", "linear_attention", "moe"],
                "moe_latent_size": 32, "norm_topk_prob": False}),
    Case("nemotron_h_moe_groups", "Nemotron 3, with experts", "NemotronHConfig", 496,
         "two of four groups of experts, biases, a dense network too", ranges=MOE_RANGES, gains=GAINS,
         sizes={**MAMBA, **EXPERTS, "layers_block_type": ["mlp", "moe", "linear_attention"], "n_group": 4,
                "topk_group": 2, "mlp_bias": True, "moe_latent_size": 24}),
)  # fmt: skip
