"""Hunyuan, dense: heads normed after their rotation, whose base depends on alpha."""

from __future__ import annotations

from tests.families.case import Case, Gguf, Settings, common_keys


def keys(config: Settings) -> Settings:
    found, rope = common_keys(config), config["rope_parameters"]
    if rope["rope_type"] == "dynamic":
        d = config["head_dim"]
        found["rope.freq_base"] = rope["rope_theta"] * rope["alpha"] ** (d / (d - 2))
        found["rope.scaling.type"] = "none"
        found["rope.scaling.factor"] = 1.0
        found["rope.scaling.original_context_length"] = 262144
    return found


HUNYUAN = Gguf("hunyuan-dense", keys)
ALPHA = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 1.0, "alpha": 50.0}
CASES = (
    Case("hunyuan", "Hunyuan", "HunYuanDenseV1Config", 231, "alpha", gguf=HUNYUAN, strict=True,
         sizes={"head_dim": 24, "rope_parameters": ALPHA, "rms_norm_eps": 1e-4}),
    Case("hunyuan_tied", "Hunyuan", "HunYuanDenseV1Config", 232, "tied, no alpha", gguf=HUNYUAN,
         sizes={"head_dim": 16, "tie_word_embeddings": True}),
)  # fmt: skip
