"""Phi-3.5-MoE: SparseMixer, LayerNorm, biases, LongRoPE with a factor of its own."""

from __future__ import annotations

from tests.families.case import Case, Gguf, Settings
from tests.families.cases import phi3
from tests.families.mixture import keys, merged


def moe_keys(config: Settings) -> Settings:
    rope = config["rope_parameters"]
    long = rope["rope_type"] == "longrope"
    return {
        **keys(config),
        "attention.key_length": None,
        "attention.sliding_window": config["sliding_window"] or 0,
        "attention.value_length": None,
        "rope.dimension_count": config["hidden_size"] // config["num_attention_heads"],
        "rope.scaling.attn_factor": rope["short_mscale"] if long else None,
        "rope.scaling.original_context_length": rope["original_max_position_embeddings"] if long else None,
    }


PHIMOE = Gguf("phimoe", moe_keys, extra=phi3.factors, merge=merged)
LONG = {**phi3.LONG, "short_mscale": 1.2, "long_mscale": 1.2, "original_max_position_embeddings": 256}
GAINS = {r"moe\.gate\.weight": 3.0}
BIASES = {"attention_bias": True, "lm_head_bias": True}
CASES = (
    Case("phimoe", "Phi-3.5-MoE", "PhimoeConfig", 521, "all biases", gguf=PHIMOE, strict=True, gains=GAINS,
         read=frozenset({"num_experts_per_tok", "router_jitter_noise"}), resized=frozenset({"num_local_experts"}),
         sizes={**BIASES, "rms_norm_eps": 1e-4, "num_local_experts": 6}),
    # Within the original context: transformers 5.24 takes the short factors of this model for any length.
    Case("phimoe_longrope", "Phi-3.5-MoE", "PhimoeConfig", 522, "LongRoPE, a window", gguf=PHIMOE, gains=GAINS,
         tokens=4, sizes={**BIASES, "num_local_experts": 16, "sliding_window": 40, "rope_parameters": LONG}),
    # GGUF has no key for the noise.
    Case("phimoe_noise", "Phi-3.5-MoE", "PhimoeConfig", 523, "several experts near the best, no biases, tied",
         tokens=1, gains=GAINS,
         sizes={"num_local_experts": 8, "router_jitter_noise": 0.4, "tie_word_embeddings": True}),
)  # fmt: skip
