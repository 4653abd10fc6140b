"""Phi-3.5-MoE: Phi-3 with LayerNorm, biases, and two experts in each layer, weighted by SparseMixer (Microsoft 2024).
llama.cpp computes RMSNorm and a softmax over the two instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.arch.config import Config, Reader, Source
from pellucid.arch.mixture import OWN, with_experts
from pellucid.arch.phi3 import all_or_none
from pellucid.experts import mixture
from pellucid.folder import EXPERTS, KEYS, NAMES, QKVO, Folder, Settings
from pellucid.plan import Plan

_JITTER = 0.01  # of SparseMixer in the released models; files have no key for it


def config(source: Source) -> Config:
    r = Reader(source)
    c = replace(r.base(halves=True, own=OWN), norms="layer")  # its epsilon has the other norm's key
    c = with_experts(r, c, limit=r.number("expert_jitter", _JITTER, min=0.0, max=1e3))
    if c.experts is None:
        raise source.fail(r.key("expert_count"), "there are no experts", "a number from 2 on")
    if c.experts.top_k != 2:
        raise source.refuse(r.key("expert_used_count"), "2")
    return replace(c, experts=replace(c.experts, weights=frozenset({"sparse"})))


def block(p: Plan, c: Config, i: int) -> None:
    assert c.experts is not None
    attention, rope = c.kind(i)
    qkv = p.qkv(i, p.norm(i, "attn_norm"), attention)
    p.rope_append(i, qkv, rope)
    p.add(i, "attn_output", p.attend(i, qkv))
    mixture(p, i, p.norm(i, "ffn_norm"), c.experts, c.act)


def _derive(c: Settings) -> Mapping[str, Any]:
    c.get_any("input_jitter_noise", None)  # for training
    return all_or_none(c)


FOLDERS = {
    "phimoe": Folder(
        classes=("PhiMoEForCausalLM", "PhimoeForCausalLM"),
        keys={
            **KEYS,
            "sliding_window": "attention.sliding_window",
            "num_local_experts": "expert_count",
            "num_experts_per_tok": "expert_used_count",
            "router_jitter_noise": "expert_jitter",  # not a GGUF key
        },
        defaults={
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "hidden_act": "silu",
            "rope_theta": 1e6,
            "num_local_experts": 16,
            "num_experts_per_tok": 2,
            "router_jitter_noise": 0.01,
        },
        biases={"attention_bias": QKVO, "lm_head_bias": ("output",)},
        biased=("attn_norm", "ffn_norm", "output_norm"),
        names={
            **{name: own for name, own in NAMES.items() if not name.startswith("mlp.")},
            **{name: own for name, own in EXPERTS.items() if "*" not in name and name != "mlp.gate"},
            "mlp.router": "ffn_gate_inp",
            "block_sparse_moe.gate": "ffn_gate_inp",
            "block_sparse_moe.experts.*.w1": "ffn_gate_exps",
            "block_sparse_moe.experts.*.w3": "ffn_up_exps",
            "block_sparse_moe.experts.*.w2": "ffn_down_exps",
        },
        mscales=True,
        derive=_derive,
    )
}
