"""LFM2: gated short convolutions and, in some layers, attention."""

from __future__ import annotations

from tests.families.case import Array, Case, Gguf, Settings, Weights, common_keys


def keys(config: Settings) -> Settings:
    heads = config["num_key_value_heads"]
    ff = config["intermediate_size"]
    if config["block_auto_adjust_ff_dim"]:
        unit = config["block_multiple_of"]
        ff = -(-int(config["block_ffn_dim_multiplier"] * (2 * ff // 3)) // unit) * unit
    return {
        **common_keys({**config, "rms_norm_eps": config["norm_eps"], "intermediate_size": ff}),
        "attention.head_count_kv": [heads if kind == "full_attention" else 0 for kind in config["layer_types"]],
        "shortconv.l_cache": config["conv_L_cache"],
    }


def change(config: Settings, name: str, value: Array) -> Array | Weights:
    return value[:, 0] if name.endswith("conv.conv.weight") else value


RESIZED = frozenset({
    "block_auto_adjust_ff_dim", "block_ff_dim", "block_ffn_dim_multiplier", "block_multiple_of", "conv_L_cache",
    "full_attn_idxs", "layer_types", "shortconv.l_cache",
})  # fmt: skip
LFM2 = Gguf("lfm2", keys, change)
CASES = (
    Case(
        "lfm2", "LFM2, LFM2.5", "Lfm2Config", 201, "convolution, attention, convolution; adjusted width",
        gguf=LFM2, strict=True, resized=RESIZED, read=frozenset({"norm_eps"}),
        gains={r"in_proj|out_proj|w2": 2.0, r"conv\.conv": 1.5},
        sizes={
            "layer_types": ["conv", "full_attention", "conv"], "norm_eps": 1e-4, "block_multiple_of": 32,
            "intermediate_size": 120, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
    ),
    Case(
        "lfm2_bias", "LFM2, LFM2.5", "Lfm2Config", 202, "biases, four taps, channels that are no multiple of 16",
        gguf=LFM2, gains={r"in_proj|out_proj|w2": 2.0, r"conv\.conv": 1.5},
        sizes={
            "layer_types": ["conv", "conv", "full_attention", "conv"], "num_hidden_layers": 4, "conv_bias": True,
            "conv_L_cache": 4, "hidden_size": 40, "block_auto_adjust_ff_dim": False, "tie_word_embeddings": False,
        },
    ),
)  # fmt: skip
