"""Qwen1.5 and Qwen2 MoE: Qwen2 with mixtures of experts and a shared expert, which is multiplied by the sigmoid of a
score (Qwen Team 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.arch.config import Config, Reader, Source
from pellucid.arch.llama import block as block
from pellucid.arch.mixture import OWN, with_experts
from pellucid.folder import EXPERTS, KEYS, NAMES, Folder, Settings, sparse_layers, windows


def config(source: Source) -> Config:
    r = Reader(source)
    c = r.base(halves=True, own=OWN)
    return with_experts(r, c, gated=True, divided=True, shared=c.ff)  # the first files give no widths of experts


def _derive(c: Settings) -> Mapping[str, Any]:
    """With use_sliding_window, every other layer among the first max_window_layers has a window, unless layer_types
    says otherwise."""
    window = c.get_int("sliding_window", None, min=0, max=1 << 24)
    first = c.get_int("max_window_layers", 28, min=0)
    if not c.get_bool("use_sliding_window", False):
        window = None
    local = windows(c, lambda i: window is not None and i % 2 == 0 and i < first)
    if not window and any(local):
        raise c.refuse("layer_types", "full_attention without use_sliding_window and a sliding_window")
    found = {"attention.sliding_window": window, "attention.sliding_window_pattern": local} if any(local) else {}
    return {**sparse_layers(c), **found}


FOLDERS = {
    "qwen2_moe": Folder(
        classes=("Qwen2MoeForCausalLM",),
        keys={
            **KEYS,
            "num_experts": "expert_count",
            "num_experts_per_tok": "expert_used_count",
            "moe_intermediate_size": "expert_feed_forward_length",
            "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
            "norm_topk_prob": "expert_weights_norm",
        },
        defaults={
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32768,
            "hidden_act": "silu",
            "num_key_value_heads": 16,
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
            "norm_topk_prob": False,
            "qkv_bias": True,
            "sliding_window": 4096,
        },
        biases={"qkv_bias": ("attn_q", "attn_k", "attn_v")},
        names={
            **NAMES,
            **EXPERTS,
            "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
            "mlp.shared_expert.up_proj": "ffn_up_shexp",
            "mlp.shared_expert.down_proj": "ffn_down_shexp",
            "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
        },
        derive=_derive,
    )
}
