"""EXAONE 4: norms after each half, normed heads, rotation only where there is a window."""

from __future__ import annotations

from tests.families.case import Case, Gguf, Settings, common_keys


def keys(config: Settings) -> Settings:
    found = common_keys(config)
    if config["sliding_window"] is not None:
        found["attention.sliding_window"] = config["sliding_window"]
        found["attention.sliding_window_pattern"] = [kind == "sliding_attention" for kind in config["layer_types"]]
    return found


EXAONE4 = Gguf("exaone4", keys)
CASES = (
    Case("exaone4", "EXAONE 4", "Exaone4Config", 161, "windows in three of four layers", gguf=EXAONE4, strict=True,
         sizes={"num_hidden_layers": 4, "sliding_window": 24, "head_dim": 16, "rms_norm_eps": 1e-4}),
    Case("exaone4_full", "EXAONE 4", "Exaone4Config", 162, "no windows: all layers are rotated", gguf=EXAONE4,
         sizes={"sliding_window": None, "layer_types": ["full_attention"] * 3, "head_dim": 24,
                "tie_word_embeddings": True}),
)  # fmt: skip
