"""GLM-4: norms on both sides, half rotation of neighbours, gate and up in one matrix."""

from __future__ import annotations

from tests.families.case import Case, Gguf, Settings, common_keys


def keys(config: Settings) -> Settings:
    part = config["rope_parameters"]["partial_rotary_factor"]
    return {**common_keys(config), "rope.dimension_count": int(config["head_dim"] * part)}


GLM4 = Gguf("glm4", keys)
READ = frozenset({"partial_rotary_factor"})
CASES = (
    Case("glm4", "GLM-4", "Glm4Config", 141, "half rotation", gguf=GLM4, strict=True, read=READ,
         sizes={"head_dim": 16, "rms_norm_eps": 1e-4}),
    Case("glm4_quarter", "GLM-4", "Glm4Config", 142, "a quarter of 24 columns rotated; no biases", gguf=GLM4,
         sizes={"head_dim": 24, "attention_bias": False,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}}),
)  # fmt: skip
