"""DeepSeek V2 and V3, GLM-4.7-Flash: attention over latent rows."""

from __future__ import annotations

import numpy as np

from tests.families.case import Array, Case, Gguf, Settings, Weights
from tests.families.cases.phi3 import LONG, factors
from tests.families.mixture import SHARED, keys, merged

RESIZED = frozenset({"n_routed_experts", "num_local_experts", "num_experts", "moe_intermediate_size",
                     "n_shared_experts", "first_k_dense_replace", "num_nextn_predict_layers", "num_mtp_layers",
                     "kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim",
                     "mlp_layer_types", "n_group", "topk_group", "expert_group_count",
                     "expert_group_used_count", "expert_used_count", "num_experts_per_tok"})  # fmt: skip
READ = frozenset({"num_experts_per_tok", "n_group", "topk_group", "routed_scaling_factor", "norm_topk_prob",
                  "rope_interleave", "topk_method", "original_max_position_embeddings"})  # fmt: skip
CHOICE = {f"model.layers.{i}.mlp.gate.e_score_correction_bias": f"blk.{i}.exp_probs_b.bias" for i in range(4)}


def latent_keys(config: Settings) -> Settings:
    rank, rope, nope = config["kv_lora_rank"], config["qk_rope_head_dim"], config["qk_nope_head_dim"]
    types = config.get("mlp_layer_types") or []
    multiplier = config["rope_parameters"].get("mscale_all_dim")
    return {
        **keys(config),
        "attention.head_count_kv": 1,
        "attention.key_length": rank + rope,
        "attention.value_length": rank,
        "attention.key_length_mla": nope + rope,
        "attention.value_length_mla": config["v_head_dim"],
        "attention.kv_lora_rank": rank,
        "attention.q_lora_rank": config["q_lora_rank"],
        "rope.dimension_count": rope,
        "rope.scaling.yarn_log_multiplier": None if multiplier is None else 0.1 * multiplier,
        "leading_dense_block_count": config.get("first_k_dense_replace", types.count("dense")),
        "expert_shared_count": config["n_shared_experts"],
        "expert_weights_scale": config["routed_scaling_factor"],
        "expert_weights_norm": True if config.get("norm_topk_prob") else None,
        "expert_group_count": config.get("n_group"),
        "expert_group_used_count": config.get("topk_group"),
    }


def sigmoid(config: Settings) -> Settings:
    return {**latent_keys(config), "expert_gating_func": 2}


def mistral4(config: Settings) -> Settings:
    rope = config["rope_parameters"]
    return {
        **latent_keys(config),
        "attention.temperature_scale": rope["llama_4_scaling_beta"],
        "attention.temperature_length": rope["original_max_position_embeddings"],
    }


def split(config: Settings, name: str, value: Array) -> Array | Weights:
    """kv_b_proj as the matrices of keys, transposed, and of values, by heads."""
    if not name.endswith("kv_b_proj.weight"):
        return value
    nope, rank = config["qk_nope_head_dim"], value.shape[-1]
    parts = value.reshape(config["num_attention_heads"], nope + config["v_head_dim"], rank)
    return {
        name.replace("kv_b", "k_b"): np.ascontiguousarray(parts[:, :nope].swapaxes(1, 2)),
        name.replace("kv_b", "v_b"): np.ascontiguousarray(parts[:, nope:]),
    }


def in_one_keys(config: Settings) -> Settings:
    """Of files that have the matrices of keys and values in one tensor."""
    return {
        **latent_keys(config),
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": config["qk_nope_head_dim"] + config["qk_rope_head_dim"],
        "attention.key_length_mla": None,
        "attention.value_length": config["v_head_dim"],
        "attention.value_length_mla": None,
    }


def minicpm3(config: Settings) -> Settings:
    """The multipliers, and the width of values, have no keys: the defaults are those of the published model."""
    assert config["v_head_dim"] == config["hidden_size"] // config["num_attention_heads"]
    return {
        name: value
        for name, value in in_one_keys({"n_shared_experts": None, "routed_scaling_factor": None, **config}).items()
        if not name.startswith(("expert_", "leading_")) and name != "attention.value_length"
    }


V2 = Gguf("deepseek2", latent_keys, split, names=SHARED, merge=merged)
V2_IN_ONE = Gguf("deepseek2", in_one_keys, names=SHARED, merge=merged)
MINICPM3 = Gguf("minicpm3", minicpm3, extra=factors)
V3 = Gguf("deepseek2", sigmoid, split, names={**SHARED, **CHOICE}, merge=merged)
WHOLE = {  # of all experts in one tensor, as this folder has them
    f"model.layers.{i}.mlp.experts.{own}": f"blk.{i}.{name}.weight"
    for i in range(4)
    for own, name in (("gate_up_proj", "ffn_gate_up_exps"), ("down_proj", "ffn_down_exps"))
}
MISTRAL4 = Gguf("mistral4", mistral4, split, names={**SHARED, **WHOLE})
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64,
        "beta_fast": 32.0, "beta_slow": 1.0}  # fmt: skip
SIZES = {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32, "num_key_value_heads": 4,
         "kv_lora_rank": 64, "qk_rope_head_dim": 16, "qk_nope_head_dim": 32, "v_head_dim": 24}  # fmt: skip
BIAS = {"e_score": (-0.1, 0.1)}
CASES = (
    Case("deepseek_v2", "DeepSeek V2", "DeepseekV2Config", 341, "queries of the residual stream, YaRN, two shared "
         "experts, a dense layer", gguf=V2, strict=True, read=READ, resized=RESIZED,
         sizes={**SIZES, "q_lora_rank": None, "first_k_dense_replace": 1, "rms_norm_eps": 1e-4,
                "rope_parameters": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}}),
    Case("deepseek_v2_in_one", "DeepSeek V2", "DeepseekV2Config", 350, "keys and values in one tensor of the file, as "
         "before April 2025", gguf=V2_IN_ONE, strict=True, read=READ, resized=RESIZED,
         sizes={**SIZES, "q_lora_rank": 48, "first_k_dense_replace": 1, "hidden_size": 96, "num_attention_heads": 3,
                "num_key_value_heads": 3, "qk_nope_head_dim": 12,
                "rope_parameters": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}}),
    Case("deepseek_v2_groups", "DeepSeek V2", "DeepseekV2Config", 342, "groups, biases, five heads, other widths",
         tokens=1, sizes={**SIZES, "hidden_size": 80, "num_attention_heads": 5, "num_key_value_heads": 5,
                "q_lora_rank": 40, "kv_lora_rank": 24,
                "qk_nope_head_dim": 10, "v_head_dim": 34, "qk_rope_head_dim": 6, "topk_method": "group_limited_greedy",
                "n_routed_experts": 12, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 4.0,
                "attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"}),
    Case("deepseek_v3", "DeepSeek V3, Moonlight", "DeepseekV3Config", 343, "latent queries, groups", gguf=V3,
         strict=True, read=READ, resized=RESIZED, ranges=BIAS,
         sizes={**SIZES, "q_lora_rank": 64, "first_k_dense_replace": 1, "n_routed_experts": 12, "n_group": 4,
                "topk_group": 2, "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}}),
    Case("deepseek_v3_one_layer", "DeepSeek V3, Moonlight", "DeepseekV3Config", 344, "one layer, one head, tied, "
         "rotated halves, weights as sigmoid has them",
         ranges=BIAS, sizes={**SIZES, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
                             "q_lora_rank": None, "first_k_dense_replace": 0, "n_group": 1, "topk_group": 1,
                             "rope_interleave": False, "norm_topk_prob": False, "tie_word_embeddings": True,
                             "attention_bias": True}),
    Case("glm4_moe_lite", "GLM-4.7-Flash", "Glm4MoeLiteConfig", 345, "values wider than keys", gguf=V3, strict=True,
         read=READ, resized=RESIZED, ranges=BIAS,
         sizes={**SIZES, "q_lora_rank": 32, "v_head_dim": 64, "num_attention_heads": 3, "num_key_value_heads": 3,
                "rms_norm_eps": 1e-4}),
    Case("mistral4", "Mistral Small 4", "Mistral4Config", 346, "queries that grow, groups, a dense layer",
         tokens=3, gguf=MISTRAL4, strict=True, read=READ, resized=RESIZED,
         sizes={**SIZES, "q_lora_rank": 32, "first_k_dense_replace": 1, "n_routed_experts": 12, "n_group": 4,
                "topk_group": 2, "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0,
                                                     "llama_4_scaling_beta": 0.5}}),
    Case("minicpm3", "MiniCPM3", "MiniCPM3Config", 347, "multipliers", strict=True,
         read=frozenset({"scale_emb", "scale_depth", "dim_model_base", "original_max_position_embeddings"}),
         resized=RESIZED,
         sizes={"num_key_value_heads": 4, "kv_lora_rank": 64, "q_lora_rank": 32, "qk_rope_head_dim": 16,
                "qk_nope_head_dim": 8, "scale_emb": 3, "dim_model_base": 32}),
    Case("minicpm3_in_one", "MiniCPM3", "MiniCPM3Config", 349, "as in the published model: its multipliers, LongRoPE; "
         "keys and values in one tensor of the file", gguf=MINICPM3, strict=True,
         read=frozenset({"scale_emb", "scale_depth", "dim_model_base", "original_max_position_embeddings"}),
         resized=RESIZED,
         sizes={"num_key_value_heads": 4, "kv_lora_rank": 64, "q_lora_rank": 32, "qk_rope_head_dim": 16,
                "qk_nope_head_dim": 32, "max_position_embeddings": 1024,
                "rope_parameters": {**LONG, "original_max_position_embeddings": 1024}}),
    Case("minicpm3_one_layer", "MiniCPM3", "MiniCPM3Config", 348, "one layer, three heads, biases, untied",
         sizes={"num_attention_heads": 3, "num_key_value_heads": 3, "hidden_size": 60, "num_hidden_layers": 1,
                "kv_lora_rank": 22, "q_lora_rank": None, "qk_rope_head_dim": 6, "qk_nope_head_dim": 11,
                "v_head_dim": 7, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False,
                "rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.2}}),
)  # fmt: skip
