"""Qwen3 MoE: Qwen3 whose layers, or some of them, are mixtures of experts (Qwen Team 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.arch.config import Config, Reader, Source
from pellucid.arch.mixture import OWN, with_experts
from pellucid.arch.qwen3 import block as block
from pellucid.folder import EXPERTS, KEYS, NAMES, QKVO, Folder, Settings, sparse_layers, windows


def config(source: Source) -> Config:
    r = Reader(source)
    return with_experts(r, r.base(halves=True, own=OWN), renorm=True, divided=True)


def derive(c: Settings) -> Mapping[str, Any]:
    """Every layer has the window, if there is one."""
    window = c.get_int("sliding_window", None, min=1, max=1 << 24)
    c.get_int("max_window_layers", None, min=0)  # transformers' class does not read it
    if not c.get_bool("use_sliding_window", False):
        window = None
    if any(windows(c, lambda i: False)):
        raise c.refuse("layer_types", "full_attention")
    return {**sparse_layers(c), **({"attention.sliding_window": window} if window else {})}


OWN_KEYS = {
    **KEYS,
    "num_experts": "expert_count",
    "num_local_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "norm_topk_prob": "expert_weights_norm",
}
FOLDERS = {
    "qwen3_moe": Folder(
        classes=("Qwen3MoeForCausalLM", "Qwen3MoeModel"),
        keys=OWN_KEYS,
        sizes={
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 24,
            "num_attention_heads": 32,
            "num_experts": 128,
        },
        defaults={
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32768,
            "hidden_act": "silu",
            "num_key_value_heads": 4,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
            "norm_topk_prob": False,
            "sliding_window": 4096,
        },
        biases={"attention_bias": QKVO},
        names={**NAMES, **EXPERTS},
        derive=derive,
    )
}
