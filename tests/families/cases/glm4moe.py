"""GLM-4.5: sigmoid scores, a bias for the choice, groups, a scale, a shared expert, a dense first layer."""

from __future__ import annotations

from tests.families.case import Case, Gguf, Settings
from tests.families.mixture import SHARED, keys, merged

RESIZED = frozenset({"n_routed_experts", "num_local_experts", "moe_intermediate_size", "n_shared_experts",
                     "first_k_dense_replace", "use_qk_norm", "num_nextn_predict_layers"})  # fmt: skip
READ = frozenset({"num_experts_per_tok", "n_group", "topk_group", "routed_scaling_factor", "norm_topk_prob",
                  "partial_rotary_factor"})  # fmt: skip
NAMES = {f"model.layers.{i}.mlp.gate.e_score_correction_bias": f"blk.{i}.exp_probs_b.bias" for i in range(4)}


def glm_keys(config: Settings) -> Settings:
    return {
        **keys(config),
        "block_count": config["num_hidden_layers"],
        "rope.dimension_count": int(config["head_dim"] * config["rope_parameters"]["partial_rotary_factor"]),
        "expert_shared_count": config["n_shared_experts"],
        "expert_weights_scale": config["routed_scaling_factor"],
        "expert_weights_norm": config["norm_topk_prob"],
        "expert_gating_func": 2,
        "expert_group_count": config["n_group"],
        "expert_group_used_count": config["topk_group"],
        "leading_dense_block_count": config["first_k_dense_replace"],
    }


GLM = Gguf("glm4moe", glm_keys, names={**SHARED, **NAMES}, merge=merged)
SIZES = {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32, "head_dim": 16}
CASES = (
    Case("glm4moe", "GLM-4.5", "Glm4MoeConfig", 331, "biases, scaled weights", gguf=GLM, strict=True,
         read=READ, resized=RESIZED, ranges={"e_score": (-0.1, 0.1)},
         sizes={**SIZES, "attention_bias": True, "routed_scaling_factor": 2.5, "rms_norm_eps": 1e-4}),
    Case("glm4moe_groups", "GLM-4.5", "Glm4MoeConfig", 332, "groups, norms of heads, two shared experts, all sparse",
         gguf=GLM, ranges={"e_score": (-0.1, 0.1)},
         sizes={**SIZES, "n_routed_experts": 12, "n_group": 4, "topk_group": 2, "use_qk_norm": True,
                "n_shared_experts": 2, "first_k_dense_replace": 0, "norm_topk_prob": False}),
)  # fmt: skip
