"""Ministral 3: YaRN, and queries that grow with their position."""

from __future__ import annotations

from tests.families.case import Case, Gguf, Settings, common_keys, interleaved


def keys(config: Settings) -> Settings:
    rope = config["rope_parameters"]
    return {
        **common_keys(config),
        "rope.scaling.yarn_log_multiplier": rope["mscale_all_dim"],
        "attention.temperature_scale": rope["llama_4_scaling_beta"],
    }


ROPE = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32,
        "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.5}  # fmt: skip
MINISTRAL = Gguf("mistral3", keys, change=interleaved)
CASES = (
    Case("ministral3", "Ministral 3", "Ministral3Config", 251, "seven steps of the queries' factor", gguf=MINISTRAL,
         strict=True, read=frozenset({"original_max_position_embeddings"}),
         sizes={"head_dim": 24, "rope_parameters": ROPE}),
    Case("ministral3_windows", "Ministral 3", "Ministral3Config", 252, "a window; tied",
         sizes={"head_dim": 16, "rope_parameters": ROPE, "sliding_window": 40, "tie_word_embeddings": True}),
    Case("ministral3_odd", "Ministral 3", "Ministral3Config", 253, "one layer, five heads of 18 columns, one KV head; "
         "tied", gguf=MINISTRAL,
         sizes={"num_hidden_layers": 1, "num_attention_heads": 5, "num_key_value_heads": 1, "hidden_size": 45,
                "head_dim": 18, "rope_parameters": ROPE, "tie_word_embeddings": True}),
)  # fmt: skip
