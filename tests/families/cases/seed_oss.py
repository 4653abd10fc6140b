"""Seed-OSS: biases on q, k and v; heads wider than hidden / heads."""

from __future__ import annotations

from tests.families.case import Case, Gguf, common_keys

CASES = (
    Case(
        "seed_oss", "Seed-OSS", "SeedOssConfig", 121, "biases on q, k, v alone", gguf=Gguf("seed_oss", common_keys),
        strict=True, sizes={"head_dim": 24, "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}},
        read=frozenset({"attention_out_bias"}),
    ),
    Case(
        "seed_oss_biases", "Seed-OSS", "SeedOssConfig", 122, "biases everywhere", gguf=Gguf("seed_oss", common_keys),
        sizes={"head_dim": 16, "attention_out_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
)  # fmt: skip
