"""ERNIE 4.5 with experts: ERNIE 4.5 whose later layers are mixtures of experts, chosen by weight plus a bias, plus
experts that every token uses (Baidu 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.arch.config import Config, Reader, Source
from pellucid.arch.llama import block as block
from pellucid.arch.mixture import OWN, with_experts
from pellucid.folder import ANY, EXPERTS, KEYS, NAMES, SHARED_EXPERT, Folder, Settings


def config(source: Source) -> Config:
    r = Reader(source)
    return with_experts(r, r.base(halves=False, own=OWN), renorm=True, biased=True)


def _derive(c: Settings) -> Mapping[str, Any]:
    if c.get_bool("use_bias", False):
        raise c.refuse("use_bias", "false")
    layers = c.get_int("num_hidden_layers", min=1, max=4096)
    step = c.get_int("moe_layer_interval", 1, min=1, max=1 << 24)
    first = c.get_int("moe_layer_start_index", 1, min=0, max=1 << 24)
    last = c.get_int("moe_layer_end_index", -1, min=-1, max=1 << 24)
    last = layers - 1 if last == -1 else last
    c.get_float("moe_norm_min", 1e-12, min=0.0, max=1e-6)  # lower bound of the sum of weights, which is always above it
    return {"expert_layers": [(i + 1) % step == 0 and first <= i <= last for i in range(layers)]}


FOLDERS = {
    "ernie4_5_moe": Folder(
        classes=("Ernie4_5_MoeForCausalLM",),
        keys={
            **KEYS,
            "moe_num_experts": "expert_count",
            "moe_k": "expert_used_count",
            "moe_intermediate_size": "expert_feed_forward_length",
            "moe_num_shared_experts": "expert_shared_count",
        },
        defaults={
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 131072,
            "hidden_act": "silu",
            "num_key_value_heads": 4,
            "rope_theta": 500000.0,
            "moe_num_experts": 64,
            "moe_k": 6,
            "moe_intermediate_size": 1536,
            "moe_num_shared_experts": 2,
        },
        names={**NAMES, **EXPERTS, **SHARED_EXPERT, "mlp.moe_statics.e_score_correction_bias": "exp_probs_b.bias"},
        inert={"moe_capacity": ANY, "moe_gate": "topk", "moe_gate_act": "softmax", "moe_use_aux_free": True},
        tied=True,
        halves=False,
        derive=_derive,
    )
}
