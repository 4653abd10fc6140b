"""Mamba 2 alone."""

from __future__ import annotations

import numpy as np

from tests.families.case import Array, Case, Gguf, Settings, Weights

RANGES = {"A_log": (-1.0, 1.5), "dt_bias": (-2.0, 2.0)}
GAINS = {r"(in|out)_proj": 2.0, "conv1d": 1.5}


def keys(config: Settings) -> Settings:
    return {
        "context_length": 1 << 20,
        "embedding_length": config["hidden_size"],
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "block_count": config["num_hidden_layers"],
        "ssm.conv_kernel": config["conv_kernel"],
        "ssm.inner_size": config["expand"] * config["hidden_size"],
        "ssm.state_size": config["state_size"],
        "ssm.time_step_rank": config["num_heads"],
        "ssm.group_count": config["n_groups"],
        "attention.layer_norm_rms_epsilon": config["layer_norm_epsilon"],
        "vocab_size": config["vocab_size"],
    }


def mixer(layer: str, name: str, value: Array, groups: int) -> Array | Weights | None:
    """As converters write the tensors of a mixer; None for others."""
    if name.endswith("A_log"):
        return {f"blk.{layer}.ssm_a": -np.exp(value)[:, None]}
    if name.endswith("dt_bias"):
        return {f"blk.{layer}.ssm_dt.bias": value}
    if name.endswith(".D"):
        return {f"blk.{layer}.ssm_d": value[:, None]}
    if name.endswith("conv1d.weight"):
        return value[:, 0]
    return value.reshape(groups, -1) if name.endswith(("mixer.norm.weight", "mamba.norm.weight")) else None


def change(config: Settings, name: str, value: Array) -> Array | Weights:
    found = mixer(".".join(name.split(".")[2:3]), name, value, config["n_groups"])
    return value if found is None else found


RESIZED = frozenset({
    "num_heads", "state_size", "conv_kernel", "n_groups", "expand", "ssm.conv_kernel", "ssm.group_count",
    "ssm.inner_size", "ssm.state_size", "ssm.time_step_rank", "use_bias", "use_conv_bias",
})  # fmt: skip
MAMBA2 = Gguf("mamba2", keys, change)
CASES = (
    Case("mamba2", "Mamba 2", "Mamba2Config", 471, "two groups, dt at most 1.5",
         ranges=RANGES, gains=GAINS,
         sizes={"num_heads": 6, "head_dim": 32, "expand": 3, "state_size": 24, "n_groups": 2, "conv_kernel": 4,
                "layer_norm_epsilon": 1e-4, "time_step_limit": [0.0, 1.5]}),
    Case("mamba2_groups", "Mamba 2", "Mamba2Config", 472, "three groups, heads that are no multiple of 16", gguf=MAMBA2,
         ranges=RANGES, gains=GAINS, strict=True, resized=RESIZED,
         read=frozenset({"layer_norm_epsilon", "time_step_limit"}),
         sizes={"num_heads": 6, "head_dim": 16, "hidden_size": 96, "expand": 1, "state_size": 20, "n_groups": 3,
                "conv_kernel": 3}),
    Case("mamba2_one", "Mamba 2", "Mamba2Config", 473, "one layer, one head, tied, biases", gguf=MAMBA2, ranges=RANGES,
         gains=GAINS,
         sizes={"num_heads": 1, "head_dim": 64, "expand": 1, "state_size": 16, "n_groups": 1, "num_hidden_layers": 1,
                "use_bias": True, "use_conv_bias": False, "tie_word_embeddings": True}),
)  # fmt: skip
