"""LFM2 with experts: sigmoid scores, a bias for the choice, the first layers dense."""

from __future__ import annotations

from tests.families.case import Case, Gguf, Settings
from tests.families.cases import lfm2
from tests.families.mixture import keys, merged

RESIZED = frozenset({"num_experts", "moe_intermediate_size", "num_dense_layers", "use_expert_bias", "conv_L_cache",
                     "full_attn_idxs", "layer_types", "shortconv.l_cache"})  # fmt: skip
READ = frozenset({"norm_eps", "num_experts_per_tok", "routed_scaling_factor", "norm_topk_prob"})
NAMES = {f"model.layers.{i}.feed_forward.expert_bias": f"blk.{i}.exp_probs_b.bias" for i in range(4)}
GAINS = {r"in_proj|out_proj|w2": 2.0, r"conv\.conv": 1.5}


def lfm_keys(config: Settings) -> Settings:
    own = {**config, "block_auto_adjust_ff_dim": False}
    number = {"leading_dense_block_count": config["num_dense_layers"], "expert_gating_func": 2}
    return {**keys({**config, "rms_norm_eps": config["norm_eps"]}), **lfm2.keys(own), **number}


LFM2 = Gguf("lfm2moe", lfm_keys, lfm2.change, names=NAMES, merge=merged)
SIZES = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32, "num_hidden_layers": 4,
         "layer_types": ["conv", "full_attention", "conv", "full_attention"]}  # fmt: skip
CASES = (
    Case("lfm2moe", "LFM2 with experts", "Lfm2MoeConfig", 341, "two dense layers", gguf=LFM2, strict=True, read=READ,
         resized=RESIZED, gains=GAINS, ranges={"expert_bias": (-0.1, 0.1)}, sizes={**SIZES, "norm_eps": 1e-4}),
    Case("lfm2moe_no_bias", "LFM2 with experts", "Lfm2MoeConfig", 342, "no bias, scaled weights that are not divided",
         gains=GAINS,
         sizes={**SIZES, "use_expert_bias": False, "norm_topk_prob": False, "routed_scaling_factor": 0.5,
                "num_dense_layers": 0, "tie_word_embeddings": False}),
    Case("lfm2moe_odd", "LFM2 with experts", "Lfm2MoeConfig", 343, "three heads of 14 columns, five experts, four "
         "taps", gguf=LFM2, gains=GAINS, ranges={"expert_bias": (-0.1, 0.1)},
         sizes={"num_hidden_layers": 3, "layer_types": ["full_attention", "conv", "conv"], "num_attention_heads": 3,
                "num_key_value_heads": 1, "hidden_size": 42, "num_experts": 5,
                "num_experts_per_tok": 2, "moe_intermediate_size": 32, "num_dense_layers": 1, "conv_L_cache": 4}),
)  # fmt: skip
