"""Qwen3: Llama with RMS-normalised query and key heads (Qwen Team 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.arch.config import Config, Reader, Source
from pellucid.folder import QKVO, Folder, Settings, windows
from pellucid.plan import Plan


def config(source: Source) -> Config:
    return Reader(source).base(halves=True)


def block(p: Plan, c: Config, i: int) -> None:
    attention, rope = c.kind(i)
    qkv = p.qkv(i, p.norm(i, "attn_norm"), attention)
    p.head_norm(i, qkv)
    p.rope_append(i, qkv, rope)
    p.add(i, "attn_output", p.attend(i, qkv))
    p.add(i, "ffn_down", p.glu(i, p.norm(i, "ffn_norm"), c.ff, c.act))


def _windows(c: Settings) -> Mapping[str, Any]:
    """With use_sliding_window, layers from max_window_layers on see a window, unless layer_types names others."""
    window = c.get_int("sliding_window", None, min=1, max=1 << 24)
    first = c.get_int("max_window_layers", min=0)
    if not c.get_bool("use_sliding_window", False):
        window = None
    local = windows(c, lambda i: window is not None and i >= first)
    if window is None and any(local):
        raise c.refuse("layer_types", "full_attention without use_sliding_window")
    return {"attention.sliding_window": window, "attention.sliding_window_pattern": local} if any(local) else {}


FOLDERS = {
    "qwen3": Folder(
        classes=("Qwen3ForCausalLM",),
        defaults={
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32768,
            "hidden_act": "silu",
            "num_key_value_heads": 32,
            "head_dim": 128,
            "sliding_window": 4096,
            "max_window_layers": 28,
        },
        biases={"attention_bias": QKVO},
        derive=_windows,
    )
}
