"""Configurations that no case has: several keys of one are drawn anew, sizes among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

import transformers

from tests.families import reference
from tests.families.case import SIZES, Case

ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "relu2")
# Flags and factors that say how to run or to train.
OTHER = {
    "output_attentions", "output_hidden_states", "output_router_logits", "return_dict", "use_cache", "is_decoder",
    "is_encoder_decoder", "add_cross_attention", "rescale_prenorm_residual", "initializer_range",
}  # fmt: skip
# Lists whose length is that of the layers.
OF_LAYERS = ("layer_types", "layers_block_type", "mlp_layer_types", "no_rope_layers")
ROPES: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 2.0, "original_max_position_embeddings": 64},
    "llama3": {
        "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
    },
}  # fmt: skip


def drawn(case: Case, random: Random) -> Case:
    """The case with some keys of its configuration drawn anew. Not every one is possible."""
    made = getattr(transformers, case.config)
    known = reference.fields(made)
    sizes = {key: value for key, value in SIZES.items() if key in known} | dict(case.sizes)
    given = {key: value for key, value in made(**sizes).to_dict().items() if key in known}
    new: dict[str, Any] = {}
    if "num_attention_heads" in given and random.random() < 0.7:
        new |= _heads(given, random)
    if "num_hidden_layers" in given and random.random() < 0.5:
        new["num_hidden_layers"] = random.choice((1, 2, 4, 5))
        sizes = {key: value for key, value in sizes.items() if key not in OF_LAYERS}
    for key, values in {"intermediate_size": (1, 33, 50, 96), "sliding_window": (1, 2, 3, 7, 64, None)}.items():
        if key in given and random.random() < 0.5:
            new[key] = random.choice(values)
    for key, value in given.items():
        if key not in new and key not in OTHER and random.random() < 0.3:
            new.update((key, other) for other in _others(key, value, random))
    rope = given.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope and random.random() < 0.3:
        kind = random.choice(tuple(ROPES))
        new["rope_parameters"] = {**rope, "rope_type": kind, **ROPES[kind]}
    return replace(case, sizes={**sizes, **new})


def _heads(given: Mapping[str, Any], random: Random) -> dict[str, Any]:
    heads = random.randint(1, 8)
    width = random.choice((8, 12, 16, 20, 24, 32))
    new = {"num_attention_heads": heads, "hidden_size": heads * width}
    if "num_key_value_heads" in given:
        new["num_key_value_heads"] = random.choice([n for n in range(1, heads + 1) if heads % n == 0])
    if "head_dim" in given:
        new |= {"head_dim": width, "hidden_size": random.choice((48, 64, 80, heads * width))}
    return {key: value for key, value in new.items() if key in given}


def _others(key: str, value: Any, random: Random) -> list[Any]:
    """Another value, or none."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, float) and "drop" not in key and "loss" not in key and "jitter" not in key:
        return [value * random.choice((0.5, 2.0))]
    if key in ("hidden_act", "hidden_activation", "activation_function", "mlp_hidden_act"):
        return [random.choice(ACTIVATIONS)]
    if key in ("num_experts", "num_local_experts", "n_routed_experts") and value:
        return [random.choice((1, 2, 4, 6, 8))]
    if key in ("num_experts_per_tok", "n_shared_experts", "first_k_dense_replace") and value:
        return [random.choice((1, 2, 3))]
    if key in ("moe_intermediate_size", "shared_expert_intermediate_size") and value:
        return [random.choice((16, 32, 48))]
    return []
