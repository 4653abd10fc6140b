"""Gemma 1: GeGLU, a scaled embedding, norms that are offsets from 1."""

from __future__ import annotations

from tests.families.case import Array, Case, Gguf, Settings, common_keys


def plus_one(config: Settings, name: str, value: Array) -> Array:
    return value + 1 if name.endswith("norm.weight") else value


GEMMA = Gguf("gemma", common_keys, change=plus_one)
CASES = (
    Case("gemma", "Gemma", "GemmaConfig", 151, "heads wider than hidden / heads", gguf=GEMMA, strict=True,
         sizes={"head_dim": 32, "num_key_value_heads": 1}, gains={"embed": 1.0}),
    Case("gemma_mha", "Gemma", "GemmaConfig", 152, "one KV head for each query head", gguf=GEMMA,
         sizes={"head_dim": 24, "num_key_value_heads": 4, "rms_norm_eps": 1e-3}, gains={"embed": 1.0}),
)  # fmt: skip
