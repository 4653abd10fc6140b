"""Llama: pre-norm layers of grouped-query attention and SwiGLU (Touvron et al. 2023); also Mistral, SmolLM2 and
Mixtral, whose layers are mixtures of experts (Jiang et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.arch.config import Config, Reader, Source
from pellucid.arch.mixture import OWN, feed_forward, with_experts
from pellucid.folder import KEYS, MLP, NAMES, QKVO, Folder, Settings, windows
from pellucid.plan import Plan


def config(source: Source) -> Config:
    r = Reader(source)
    return with_experts(r, r.base(halves=False, own=OWN), renorm=True)


def block(p: Plan, c: Config, i: int) -> None:
    attention, rope = c.kind(i)
    qkv = p.qkv(i, p.norm(i, "attn_norm"), attention)
    p.rope_append(i, qkv, rope)
    p.add(i, "attn_output", p.attend(i, qkv))
    feed_forward(p, c, i)


def _full(c: Settings) -> Mapping[str, Any]:
    if any(windows(c, lambda i: False)):
        raise c.refuse("layer_types", "full_attention")
    return {}


def _mistral(c: Settings) -> Mapping[str, Any]:
    """All layers have the window, or none has."""
    window = c.get_int("sliding_window", None, min=1, max=1 << 24)
    if {*windows(c, lambda i: window is not None)} != {window is not None}:
        raise c.refuse("layer_types", "all sliding_attention with a sliding_window, else all full_attention")
    return {}


FOLDERS = {
    "llama": Folder(
        classes=("LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel"),
        sizes={
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
        },
        defaults={
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 2048,
            "hidden_act": "silu",
        },
        biases={"attention_bias": QKVO, "mlp_bias": MLP},
        derive=_full,
    ),
    "mistral": Folder(
        classes=("MistralForCausalLM", "MistralModel"),
        keys={**KEYS, "sliding_window": "attention.sliding_window"},
        sizes={
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
        },
        defaults={
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 131072,
            "hidden_act": "silu",
            "num_key_value_heads": 8,
            "sliding_window": 4096,
        },
        derive=_mistral,
    ),
    "mixtral": Folder(
        classes=("MixtralForCausalLM",),
        keys={
            **KEYS,
            "sliding_window": "attention.sliding_window",
            "num_local_experts": "expert_count",
            "num_experts_per_tok": "expert_used_count",
        },
        defaults={
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 131072,
            "hidden_act": "silu",
            "num_key_value_heads": 8,
            "rope_theta": 1e6,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        },
        names={
            **NAMES,
            "mlp.gate": "ffn_gate_inp",
            "block_sparse_moe.gate": "ffn_gate_inp",
            "block_sparse_moe.experts.*.w1": "ffn_gate_exps",
            "block_sparse_moe.experts.*.w3": "ffn_up_exps",
            "block_sparse_moe.experts.*.w2": "ffn_down_exps",
            "mlp.experts.gate_up_proj": "ffn_gate_up_exps.weight",
            "mlp.experts.down_proj": "ffn_down_exps.weight",
        },
        derive=_mistral,
    ),
}
