"""Qwen3-Next: layers like those of Qwen3.5 with experts, with projections stored by key head (Qwen Team 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.arch import qwen35, qwen35moe
from pellucid.arch.config import Config, Reader, Source
from pellucid.arch.mixture import OWN, with_experts
from pellucid.arch.qwen35 import block as block
from pellucid.folder import EXPERTS, QKVO, Folder, Settings, sparse_layers


def config(source: Source) -> Config:
    r = Reader(source)
    return with_experts(r, qwen35.read(r, OWN, tiled=False), renorm=True, gated=True)


def _derive(c: Settings) -> Mapping[str, Any]:
    return {**qwen35.derive(c), **sparse_layers(c)}


FOLDERS = {
    "qwen3_next": Folder(
        classes=("Qwen3NextForCausalLM",),
        keys={
            **qwen35moe.KEYS,
            "intermediate_size": "feed_forward_length",
            "norm_topk_prob": "expert_weights_norm",
        },
        defaults={
            **qwen35moe.DEFAULTS,
            "intermediate_size": 5632,
            "num_hidden_layers": 48,
            "num_experts": 512,
            "num_experts_per_tok": 10,
            "norm_topk_prob": True,
        },
        biases={"attention_bias": QKVO},
        names={
            **{name: own for name, own in qwen35.OWN_NAMES.items() if ".in_proj_" not in name},
            **EXPERTS,
            **qwen35moe.SHARED,
            "linear_attn.in_proj_qkvz": "ssm_in",
            "linear_attn.in_proj_ba": "ssm_ba",
        },
        others=qwen35.OTHERS,
        norm_offset=1.0,
        plain_norms=("ssm_norm",),
        partial=0.25,
        derive=_derive,
    )
}
