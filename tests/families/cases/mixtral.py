"""Mixtral: experts in every layer, weights renormalised; its GGUF architecture is llama."""

from __future__ import annotations

from tests.families.case import Case, Gguf, Settings, Weights, interleaved
from tests.families.mixture import fused, keys, merged


def both(tensors: Weights) -> Weights:
    return fused(merged(tensors))


def mixtral_keys(config: Settings) -> Settings:
    return {**keys(config), "attention.key_length": None, "attention.value_length": None}


CASES = (
    Case("mixtral", "Mixtral", "MixtralConfig", 301, "two of eight experts", strict=True,
         tokens=2, gguf=Gguf("llama", mixtral_keys, interleaved, merge=merged), read=frozenset({"num_experts_per_tok"}),
         resized=frozenset({"num_local_experts"}), sizes={"rms_norm_eps": 1e-4}),
    Case("mixtral_window", "Mixtral", "MixtralConfig", 302, "a window; gate and up in one tensor",
         gguf=Gguf("llama", lambda config: {**mixtral_keys(config), "attention.sliding_window": 24}, interleaved,
                   merge=both),
         sizes={"num_local_experts": 5, "num_experts_per_tok": 3, "sliding_window": 24}),
)  # fmt: skip
