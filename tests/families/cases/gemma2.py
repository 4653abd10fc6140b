"""Gemma 2: soft caps, windows in every other layer."""

from __future__ import annotations

from tests.families.case import Array, Case, Gguf, Settings, common_keys


def keys(config: Settings) -> Settings:
    return {
        **common_keys(config),
        "attn_logit_softcapping": config["attn_logit_softcapping"],
        "final_logit_softcapping": config["final_logit_softcapping"],
        "attention.sliding_window": config["sliding_window"],
    }


def plus_one(config: Settings, name: str, value: Array) -> Array:
    return value + 1 if name.endswith("norm.weight") else value


GEMMA2 = Gguf("gemma2", keys, change=plus_one)
READ = frozenset({"attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"})
CASES = (
    Case("gemma2", "Gemma 2", "Gemma2Config", 211, "caps that bend scores and logits", gguf=GEMMA2, strict=True,
         read=READ, gains={"embed": 1.0},
         sizes={"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 20, "attn_logit_softcapping": 2.0,
                "final_logit_softcapping": 3.0}),
    # The converter writes no scale: GGUF files of this shape have that of the head's width.
    Case("gemma2_scaled", "Gemma 2", "Gemma2Config", 212, "another scale of scores; other windows; no caps",
         gains={"embed": 1.0},
         sizes={"head_dim": 24, "query_pre_attn_scalar": 40, "sliding_window": 30, "attn_logit_softcapping": None,
                "final_logit_softcapping": None,
                "layer_types": ["full_attention", "sliding_attention", "sliding_attention"]}),
    Case("gemma2_odd", "Gemma 2", "Gemma2Config", 213, "five layers, three heads of 20 columns, one KV head, a window "
         "of 7 tokens", gguf=GEMMA2, gains={"embed": 1.0},
         sizes={"num_hidden_layers": 5, "num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 45,
                "head_dim": 20, "query_pre_attn_scalar": 20, "sliding_window": 7,
                "attn_logit_softcapping": 1.5, "final_logit_softcapping": 2.5}),
)  # fmt: skip
