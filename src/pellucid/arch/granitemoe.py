"""Granite 3 with experts: Granite whose layers are mixtures of experts, in some with a shared expert (IBM 2024)."""

from __future__ import annotations

from pellucid.arch.config import Config, Reader, Source
from pellucid.arch.granite import EXPERTS, MULTIPLIERS, multiplied, without_recurrence
from pellucid.arch.granite import block as block
from pellucid.arch.mixture import OWN, with_experts
from pellucid.folder import KEYS, NAMES, QKVO, Folder


def config(source: Source) -> Config:
    r = Reader(source)
    c = without_recurrence(r, multiplied(r, r.base(halves=False, own=OWN)))
    return with_experts(r, c, gate="top_first")


OWN_KEYS = {**KEYS, **MULTIPLIERS, "num_local_experts": "expert_count", "num_experts_per_tok": "expert_used_count"}
SHARED_KEY = {"shared_intermediate_size": "expert_shared_feed_forward_length"}
DEFAULTS = {
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048,
    "hidden_act": "silu",
    **dict.fromkeys(MULTIPLIERS, 1.0),
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
OWN_NAMES = {**{name: own for name, own in NAMES.items() if not name.startswith("mlp.")}, **EXPERTS}
SHARED = {"shared_mlp.input_linear": "ffn_up_shexp", "shared_mlp.output_linear": "ffn_down_shexp"}
FOLDERS = {
    "granitemoe": Folder(
        classes=("GraniteMoeForCausalLM",),
        keys=OWN_KEYS,
        defaults=DEFAULTS,
        biases={"attention_bias": QKVO},
        names=OWN_NAMES,
    ),
    "granitemoeshared": Folder(
        classes=("GraniteMoeSharedForCausalLM",),
        keys={**OWN_KEYS, **SHARED_KEY},
        defaults={**DEFAULTS, "shared_intermediate_size": 0},
        biases={"attention_bias": QKVO},
        names={**OWN_NAMES, **SHARED},
    ),
}
