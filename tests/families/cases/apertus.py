"""Apertus: an activation with parameters, norms of heads, Llama 3's rotation."""

from __future__ import annotations

import numpy as np

from pellucid import rotary
from tests.families.case import Array, Case, Gguf, Settings, Weights, common_keys

PARAMETERS = ("alpha_p", "alpha_n", "beta", "eps")
ROPE = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 64,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0}  # fmt: skip
XIELU = {"alpha_[pn]$": (-1.0, 1.5), "beta$": (0.2, 0.8), "eps$": (-0.3, -0.1)}


def without_parameters(config: Settings, name: str, value: Array) -> Array | Weights:
    return {} if ".act_fn." in name else value


def factors(config: Settings) -> Weights:
    n = config["hidden_size"] // config["num_attention_heads"]
    rope = config["rope_parameters"]
    found = rotary.llama3(n, rope["rope_theta"], rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"],
                          rope["original_max_position_embeddings"])  # fmt: skip
    return {"rope_freqs.weight": np.array(found, np.float32)}


def parameters(tensors: Weights) -> Settings:
    """Converters write what are tensors of folders as lists, whose keys lack the architecture's name."""
    layers = sum(name.endswith("act_fn.beta") for name in tensors)
    return {
        f"xielu.{name}": [float(tensors[f"model.layers.{i}.mlp.act_fn.{name}"].reshape(-1)[0]) for i in range(layers)]
        for name in PARAMETERS
    }


APERTUS = Gguf("apertus", common_keys, change=without_parameters, extra=factors, bare=parameters)
CASES = (
    Case("apertus", "Apertus", "ApertusConfig", 361, "parameters of each layer", gguf=APERTUS, strict=True,
         read=frozenset({"original_max_position_embeddings"}),
         ranges=XIELU, sizes={"rope_parameters": ROPE, "rms_norm_eps": 1e-4}),
    Case("apertus_biases", "Apertus", "ApertusConfig", 362, "one layer, three heads, tied, biases of attention",
         ranges=XIELU,
         sizes={"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "num_hidden_layers": 1,
                "num_attention_heads": 3, "num_key_value_heads": 3, "hidden_size": 60, "tie_word_embeddings": True,
                "attention_bias": True}),
)  # fmt: skip
