"""Granite 3 with experts, without and with a shared one."""

from __future__ import annotations

import numpy as np

from tests.families.case import Array, Case, Gguf, Settings, Weights, interleaved
from tests.families.cases import granite

READ = granite.READ | {"num_experts_per_tok"}
RESIZED = frozenset({"num_local_experts", "num_experts", "shared_intermediate_size", "expert_count",
                     "expert_used_count"})  # fmt: skip


def keys(config: Settings) -> Settings:
    return {
        **granite.keys(config),
        "expert_count": config["num_local_experts"],
        "expert_used_count": config["num_experts_per_tok"],
        "expert_shared_feed_forward_length": config.get("shared_intermediate_size"),
    }


def change(config: Settings, name: str, value: Array) -> Array | Weights:
    """Gate and up apart; all experts of a layer in one tensor."""
    layer = name.split(".")[2] if ".layers." in name else ""
    own = "exps" if "block_sparse_moe" in name else "shexp"
    if name.endswith("router.layer.weight"):
        return {f"blk.{layer}.ffn_gate_inp.weight": value}
    if name.endswith("input_linear.weight"):
        gate, up = np.split(value, 2, axis=-2)
        return {f"blk.{layer}.ffn_gate_{own}.weight": gate, f"blk.{layer}.ffn_up_{own}.weight": up}
    if name.endswith("output_linear.weight"):
        return {f"blk.{layer}.ffn_down_{own}.weight": value}
    return interleaved(config, name, value)


GRANITE = Gguf("granitemoe", keys, change)
GAINS = {"(in|out)put_linear": 2.0}
CASES = (
    Case("granitemoe", "Granite 3 with experts", "GraniteMoeConfig", 461, "all multipliers", gguf=GRANITE, strict=True,
         tokens=1, read=READ, resized=RESIZED, gains=GAINS,
         sizes={"attention_multiplier": 0.3, "embedding_multiplier": 3.0, "residual_multiplier": 0.5,
                "logits_scaling": 4.0, "rms_norm_eps": 1e-4, "num_local_experts": 6, "num_experts_per_tok": 2}),
    Case("granitemoe_shared", "Granite 3 with experts", "GraniteMoeSharedConfig", 462,
         "a shared expert of another width, biases, tied", tokens=1, gguf=GRANITE, strict=True, read=READ,
         resized=RESIZED,
         gains={**GAINS, "(q|k)_proj": 0.5},  # scores that stay in range for the factors of the strict tests
         sizes={"attention_multiplier": 0.25, "residual_multiplier": 0.7, "attention_bias": True,
                "tie_word_embeddings": True, "num_local_experts": 5, "num_experts_per_tok": 3,
                "shared_intermediate_size": 64}),
)  # fmt: skip
