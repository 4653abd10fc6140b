"""Falcon-H1: attention and Mamba 2 in each layer, multipliers of all parts."""

from __future__ import annotations

import numpy as np

from tests.families.case import Array, Case, Gguf, Settings, Weights, common_keys
from tests.families.cases.mamba2 import GAINS, RANGES, mixer


def keys(config: Settings) -> Settings:
    return {
        **common_keys(config),
        "ssm.conv_kernel": config["mamba_d_conv"],
        "ssm.inner_size": config["mamba_d_ssm"],
        "ssm.state_size": config["mamba_d_state"],
        "ssm.time_step_rank": config["mamba_n_heads"],
        "ssm.group_count": config["mamba_n_groups"],
    }


def multiplied(config: Settings, name: str, value: Array) -> Array:
    """As converters write: weights times the multipliers of their parts."""
    own = next((part for part in name.split(".") if part in PARTS), None)
    if name.endswith("in_proj.weight"):
        inner, keys = config["mamba_d_ssm"], config["mamba_n_groups"] * config["mamba_d_state"]
        widths = [inner, inner, keys, keys, config["mamba_n_heads"]]
        factors = np.repeat(np.array(config["ssm_multipliers"], np.float32), widths)
        return value * np.float32(config["ssm_in_multiplier"]) * factors[:, None]
    return value if own is None else value * np.float32(PARTS[own](config))


PARTS = {
    "q_proj": lambda c: c["attention_in_multiplier"],
    "k_proj": lambda c: c["attention_in_multiplier"] * c["key_multiplier"],
    "v_proj": lambda c: c["attention_in_multiplier"],
    "o_proj": lambda c: c["attention_out_multiplier"],
    "out_proj": lambda c: c["ssm_out_multiplier"],
    "gate_proj": lambda c: c["mlp_multipliers"][0],
    "down_proj": lambda c: c["mlp_multipliers"][1],
    "lm_head": lambda c: c["lm_head_multiplier"],
    "embed_tokens": lambda c: c["embedding_multiplier"],
}


def change(config: Settings, name: str, value: Array) -> Array | Weights:
    layer = name.split(".")[2] if ".layers." in name else ""
    found = mixer(layer, name, value, config["mamba_n_groups"])
    return multiplied(config, name, value) if found is None else found


NAMES = {f"model.layers.{i}.pre_ff_layernorm.weight": f"blk.{i}.ffn_norm" for i in range(4)}
FALCON = Gguf("falcon-h1", keys, change)
SHORT_NAMES = Gguf("falcon-h1", keys, change, names=NAMES)
ONE = ("attention_in", "attention_out", "key", "ssm_in", "ssm_out", "embedding", "lm_head")
READ = frozenset({f"{name}_multiplier" for name in ONE} | {"ssm_multipliers", "mlp_multipliers", "time_step_limit"})
RESIZED = frozenset({
    "mamba_d_ssm", "mamba_d_conv", "mamba_d_state", "mamba_d_head", "mamba_n_groups", "mamba_n_heads", "mamba_rms_norm",
    "mamba_expand", "ssm.conv_kernel", "ssm.group_count", "ssm.inner_size", "ssm.state_size", "ssm.time_step_rank",
    "mamba_conv_bias", "mamba_proj_bias", "projectors_bias",
})  # fmt: skip
MULTIPLIERS = {
    "attention_in_multiplier": 0.7, "attention_out_multiplier": 0.9, "key_multiplier": 0.4, "ssm_in_multiplier": 1.3,
    "ssm_out_multiplier": 0.6, "embedding_multiplier": 2.5, "lm_head_multiplier": 0.3,
    "ssm_multipliers": [0.8, 1.2, 0.5, 0.9, 1.5], "mlp_multipliers": [1.4, 0.7],
}  # fmt: skip
MAMBA = {"mamba_d_ssm": 96, "mamba_n_heads": 6, "mamba_d_head": 16, "mamba_n_groups": 3, "mamba_d_state": 20}
CASES = (
    Case("falcon_h1", "Falcon-H1", "FalconH1Config", 481, "all multipliers, three groups, no norm of Mamba 2",
         gguf=FALCON, strict=True, read=READ, resized=RESIZED, ranges=RANGES, gains=GAINS,
         sizes={**MULTIPLIERS, **MAMBA, "rms_norm_eps": 1e-4, "head_dim": 24}),
    Case("falcon_h1_norm", "Falcon-H1", "FalconH1Config", 482, "a norm after the gate, one layer, a norm's other name",
         gguf=SHORT_NAMES, ranges=RANGES, gains=GAINS,
         sizes={**MULTIPLIERS, **MAMBA, "mamba_rms_norm": True, "mamba_norm_before_gate": False,
                "num_hidden_layers": 1, "num_key_value_heads": 1}),
    Case("falcon_h1_biases", "Falcon-H1", "FalconH1Config", 483, "a norm before the gate, all biases, tied",
         ranges=RANGES, gains=GAINS,
         sizes={**MULTIPLIERS, "mamba_d_ssm": 64, "mamba_n_heads": 2, "mamba_n_groups": 1, "mamba_d_state": 16,
                "mamba_rms_norm": True, "attention_bias": True, "mlp_bias": True, "mamba_proj_bias": True,
                "projectors_bias": True, "tie_word_embeddings": True}),
)  # fmt: skip
