"""SmolLM3: no rotation in every fourth layer."""

from __future__ import annotations

from tests.families.case import Case, Gguf, common_keys, interleaved

SMOLLM3 = Gguf("smollm3", common_keys, change=interleaved)
CASES = (
    Case(
        "smollm3", "SmolLM3", "SmolLM3Config", 111, "four layers, the last without rotation", gguf=SMOLLM3, strict=True,
        sizes={"num_hidden_layers": 4, "rms_norm_eps": 1e-4},
        read=frozenset({"no_rope_layers", "no_rope_layer_interval"}),
    ),
    Case(
        "smollm3_windows", "SmolLM3", "SmolLM3Config", 112, "other layers without rotation; those have a window",
        sizes={"no_rope_layers": [0, 1, 0], "use_sliding_window": True, "sliding_window": 20,
               "tie_word_embeddings": False},
    ),
    Case(
        "smollm3_odd", "SmolLM3", "SmolLM3Config", 113, "nine layers, two without rotation; three heads of 14 columns",
        gguf=SMOLLM3,
        sizes={"num_hidden_layers": 9, "num_attention_heads": 3, "num_key_value_heads": 3, "hidden_size": 42,
               "tie_word_embeddings": False},
    ),
)  # fmt: skip
