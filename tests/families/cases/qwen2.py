"""Qwen2 and Qwen2.5: biases on q, k and v; a window on the later layers."""

from __future__ import annotations

from tests.families.case import Case, Gguf, Settings, common_keys


def keys(config: Settings) -> Settings:
    return {**common_keys(config), "attention.key_length": None, "attention.value_length": None}


QWEN2 = Gguf("qwen2", keys)
CASES = (
    Case(
        "qwen2", "Qwen2, Qwen2.5", "Qwen2Config", 101, "biases on q, k, v", gguf=QWEN2, strict=True,
        sizes={"rms_norm_eps": 1e-4, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    ),
    Case(
        "qwen2_tied", "Qwen2, Qwen2.5", "Qwen2Config", 102, "tied head, one KV head for five query heads", gguf=QWEN2,
        sizes={"tie_word_embeddings": True, "num_attention_heads": 5, "num_key_value_heads": 1, "hidden_size": 160},
    ),
    # A GGUF file has no key for the window of Qwen2: converters leave it out.
    Case(
        "qwen2_windows", "Qwen2, Qwen2.5", "Qwen2Config", 103, "use_sliding_window with max_window_layers",
        sizes={"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},
    ),
    Case(
        "qwen2_yarn", "Qwen2, Qwen2.5", "Qwen2Config", 104, "YaRN with 3 of 16 pairs on the ramp", gguf=QWEN2,
        sizes={"hidden_size": 128, "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}},
    ),
    # No key of GGUF files says that the ramp's ends are no whole pairs.
    Case(
        "qwen2_yarn_ramp", "Qwen2, Qwen2.5", "Qwen2Config", 105, "YaRN with all its parameters",
        sizes={"hidden_size": 128, "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 32,
            "truncate": False, "beta_fast": 16.0, "beta_slow": 2.0, "mscale": 0.7, "mscale_all_dim": 1.2}},
    ),
    Case(
        "qwen2_dynamic", "Qwen2, Qwen2.5", "Qwen2Config", 106, "dynamic scaling, which is none within the context",
        sizes={"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}},
    ),
)  # fmt: skip
