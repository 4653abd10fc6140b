"""StableLM: LayerNorm, a rotation of a quarter of the columns, parallel residual."""

from __future__ import annotations

import re

import numpy as np

from tests.families.case import Case, Gguf, Settings, Weights, common_keys


def keys(config: Settings) -> Settings:
    width = config["hidden_size"] // config["num_attention_heads"]
    return {
        **common_keys(config),
        "rope.dimension_count": int(width * config["rope_parameters"]["partial_rotary_factor"]),
        "use_parallel_residual": config["use_parallel_residual"],
    }


def norms(tensors: Weights) -> Weights:
    """The norms of heads as one tensor for queries and one for keys of a layer."""
    out: Weights = {}
    for name, value in tensors.items():
        match = re.fullmatch(r"model\.layers\.(\d+)\.self_attn\.([qk])_layernorm\.norms\.(\d+)\.weight", name)
        if match is None:
            out[name] = value
        else:
            own = f"blk.{match[1]}.attn_{match[2]}_norm.weight"
            out[own] = np.concatenate([out.get(own, np.empty((0, len(value)), np.float32)), value[None]])
    return out


STABLELM = Gguf("stablelm", keys, merge=norms)
READ = frozenset({"partial_rotary_factor", "layer_norm_eps"})
RESIZED = frozenset({"use_parallel_residual"})
CASES = (
    Case("stablelm", "StableLM", "StableLmConfig", 181, "a quarter rotated", gguf=STABLELM, strict=True, read=READ,
         resized=RESIZED, sizes={"layer_norm_eps": 1e-3}),
    Case("stablelm_parallel", "StableLM", "StableLmConfig", 182, "parallel residual, biases", gguf=STABLELM,
         sizes={"use_parallel_residual": True, "use_qkv_bias": True, "hidden_size": 96, "partial_rotary_factor": 0.5}),
    Case("stablelm_norms", "StableLM", "StableLmConfig", 183, "norms of heads, one KV head, parallel residual",
         gguf=STABLELM,
         sizes={"use_parallel_residual": True, "qk_layernorm": True, "num_key_value_heads": 1, "num_hidden_layers": 2}),
)  # fmt: skip
