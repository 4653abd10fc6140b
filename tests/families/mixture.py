"""How converters write experts: merged into one tensor for all experts of a layer."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from tests.families.case import Array, Settings, Weights, common_keys

KEYS = {  # names that older and newer configurations have for the same numbers
    "expert_count": ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    "expert_used_count": ("num_experts_per_tok", "moe_k"),
    "expert_feed_forward_length": ("moe_intermediate_size",),
}
PARTS = {"gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps",
         "w1": "ffn_gate_exps", "w3": "ffn_up_exps", "w2": "ffn_down_exps"}  # fmt: skip


def keys(config: Settings) -> Settings:
    found = {name: next((config[key] for key in own if key in config), None) for name, own in KEYS.items()}
    return {**common_keys(config), **found}


def merged(tensors: Weights) -> Weights:
    """The tensors of single experts, by names of the hub, as GGUF's of all experts."""
    out: Weights = {}
    experts: dict[str, dict[int, Array]] = {}
    for name, value in tensors.items():
        match = re.fullmatch(r"model\.layers\.(\d+)\..+\.experts\.(\d+)\.(\w+)\.weight", name)
        if match is None:
            out[name] = value
        else:
            experts.setdefault(f"blk.{match[1]}.{PARTS[match[3]]}.weight", {})[int(match[2])] = value
    return out | {name: np.stack([parts[e] for e in sorted(parts)]) for name, parts in experts.items()}


def fused(tensors: Mapping[str, Array]) -> Weights:
    """GGUF's tensors with gate and up of each layer as one."""
    out = dict(tensors)
    for name in [name for name in out if "ffn_gate_exps" in name]:
        up = out.pop(name.replace("gate", "up"))
        out[name.replace("gate", "gate_up")] = np.concatenate([out.pop(name), up], axis=1)
    return out


SHARED = {
    f"model.layers.{i}.mlp.shared_experts.{own}.weight": f"blk.{i}.{name}.weight"
    for i in range(4)
    for own, name in (("gate_proj", "ffn_gate_shexp"), ("up_proj", "ffn_up_shexp"), ("down_proj", "ffn_down_shexp"))
}
