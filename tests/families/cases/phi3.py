"""Phi-3: fused matrices, windows, LongRoPE."""

from __future__ import annotations

import math

import numpy as np

from tests.families.case import Case, Gguf, Settings, Weights, common_keys


def attention_factor(config: Settings) -> float | None:
    if config["rope_parameters"]["rope_type"] != "longrope":
        return None
    original = config["original_max_position_embeddings"]
    factor = config["max_position_embeddings"] / original
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


def factors(config: Settings) -> Weights:
    rope = config["rope_parameters"]
    return {
        f"rope_factors_{kind}.weight": np.array(rope[f"{kind}_factor"], np.float32)
        for kind in ("short", "long")
        if rope["rope_type"] == "longrope"
    }


def keys(config: Settings) -> Settings:
    width = config["hidden_size"] // config["num_attention_heads"]
    part = config["rope_parameters"].get("partial_rotary_factor", 1.0)
    return {
        **common_keys(config),
        "attention.key_length": None,
        "attention.value_length": None,
        "rope.dimension_count": int(width * part),
        "rope.scaling.attn_factor": attention_factor(config),
        "rope.scaling.original_context_length": config["original_max_position_embeddings"],
        "attention.sliding_window": config["sliding_window"] or 0,
    }


PHI3 = Gguf("phi3", keys, extra=factors)
LONG = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1 + i / 8 for i in range(8)],
    "long_factor": [1.0 + i * i for i in range(8)],
}  # fmt: skip
READ = frozenset({"partial_rotary_factor"})
CASES = (
    Case("phi3", "Phi-3, Phi-4", "Phi3Config", 171, "fused matrices", gguf=PHI3, strict=True, read=READ,
         sizes={"rms_norm_eps": 1e-4}),
    Case("phi3_windows", "Phi-3, Phi-4", "Phi3Config", 172, "a window; three quarters rotated; tied", gguf=PHI3,
         sizes={"sliding_window": 30, "partial_rotary_factor": 0.75, "tie_word_embeddings": True}),
    # Longer than the original context of 16: the long factors. Shorter texts have the short ones in transformers.
    Case("phi3_longrope", "Phi-3, Phi-4", "Phi3Config", 173, "LongRoPE beyond the original context", gguf=PHI3,
         sizes={"rope_parameters": LONG, "original_max_position_embeddings": 16}, lengths=(17, 200)),
    Case("phi3_shortrope", "Phi-3, Phi-4", "Phi3Config", 174, "LongRoPE within the original context", gguf=PHI3,
         sizes={"rope_parameters": LONG, "original_max_position_embeddings": 256}),
    Case("phi3_partial", "Phi-3, Phi-4", "Phi3Config", 175, "LongRoPE of part of a head, as in Phi-4-mini",
         gguf=PHI3, lengths=(17, 200),
         sizes={"rope_parameters": {**LONG, "partial_rotary_factor": 0.75, "short_factor": [1.0] * 6,
                                    "long_factor": [1.0 + i * i for i in range(6)]},
                "original_max_position_embeddings": 16, "tie_word_embeddings": True}),
)  # fmt: skip
