"""ERNIE 4.5 with experts: a bias for the choice, shared experts, some layers dense."""

from __future__ import annotations

from tests.families.case import Array, Case, Gguf, Settings
from tests.families.mixture import SHARED, keys, merged

RESIZED = frozenset({"moe_num_experts", "moe_intermediate_size", "moe_num_shared_experts", "moe_layer_interval",
                     "moe_layer_start_index", "moe_layer_end_index"})  # fmt: skip
NAMES = {f"model.layers.{i}.mlp.moe_statics.e_score_correction_bias": f"blk.{i}.exp_probs_b.bias" for i in range(4)}


def ernie_keys(config: Settings) -> Settings:
    return {
        **keys(config),
        "interleave_moe_layer_step": config["moe_layer_interval"],
        "leading_dense_block_count": config["moe_layer_start_index"],
        "expert_shared_count": config["moe_num_shared_experts"],
        "expert_shared_feed_forward_length": config["moe_num_shared_experts"] * config["moe_intermediate_size"],
    }


def change(config: Settings, name: str, value: Array) -> Array:
    return value[0] if name.endswith("e_score_correction_bias") else value


ERNIE = Gguf("ernie4_5-moe", ernie_keys, change, names={**SHARED, **NAMES}, merge=merged)
SIZES = {"moe_num_experts": 8, "moe_k": 3, "moe_intermediate_size": 32, "head_dim": 16}
CASES = (
    Case("ernie4_5_moe", "ERNIE 4.5 with experts", "Ernie4_5_MoeConfig", 321, "first layer dense, two shared experts",
         tokens=1, gguf=ERNIE, strict=True, read=frozenset({"moe_k"}), resized=RESIZED,
         sizes={**SIZES, "rms_norm_eps": 1e-4}, ranges={"e_score": (-0.1, 0.1)}),
    Case("ernie4_5_moe_interval", "ERNIE 4.5 with experts", "Ernie4_5_MoeConfig", 322, "every second layer, no shared",
         gguf=ERNIE, ranges={"e_score": (-0.1, 0.1)},
         sizes={**SIZES, "moe_layer_interval": 2, "moe_layer_start_index": 0, "num_hidden_layers": 4,
                "moe_num_shared_experts": 0, "tie_word_embeddings": False}),
)  # fmt: skip
