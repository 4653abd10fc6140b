"""Phi-3, Phi-3.5 and Phi-4: Llama with fused matrices, LongRoPE and windows (Microsoft 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.arch.config import Config, Reader, Source
from pellucid.arch.llama import block as block
from pellucid.folder import KEYS, NAMES, Folder, Settings, windows

_FUSED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")


def config(source: Source) -> Config:
    return Reader(source).base(halves=True)


def all_or_none(c: Settings) -> Mapping[str, Any]:
    """All layers have the window, or none has."""
    window = c.get_int("sliding_window", None, min=1, max=1 << 24)
    if {*windows(c, lambda i: window is not None)} != {window is not None}:
        raise c.refuse("layer_types", "all sliding_attention with a sliding_window, else all full_attention")
    return {}


FOLDERS = {
    "phi3": Folder(
        classes=("Phi3ForCausalLM",),
        keys={**KEYS, "sliding_window": "attention.sliding_window"},
        defaults={
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
            "hidden_act": "silu",
        },
        inert={"full_attn_mod": 1, "interpolate_factor": 1},
        names={
            **{name: own for name, own in NAMES.items() if name not in _FUSED},
            "self_attn.qkv_proj": "attn_qkv",
            "mlp.gate_up_proj": "ffn_up",
        },
        partial=1.0,
        older_rotations={"su": "longrope", "yarn": "longrope"},  # transformers treats both as longrope
        derive=all_or_none,
    )
}
