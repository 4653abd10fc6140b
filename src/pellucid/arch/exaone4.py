"""EXAONE 4: norms only after each half, normed heads, and, if some layers have windows, no rotation in the others (LG
AI Research 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.arch.config import Config, Reader, Source, without_predictors
from pellucid.folder import ANY, KEYS, NAMES, Folder, Settings, windows
from pellucid.plan import Plan

_PERIOD = 4  # of the layers with full attention


def config(source: Source) -> Config:
    r = Reader(source)
    # The window's size decides, even if no layer has it.
    size = source.get_any(r.key("attention.sliding_window"), None)
    windowed = size is not None and not (type(size) is int and size == 0)
    c = r.base(halves=True, period=_PERIOD if windowed else 0, own=("nextn_predict_layers",))
    return without_predictors(r, replace(c, rotated=c.local) if windowed else c)


def block(p: Plan, c: Config, i: int) -> None:
    attention, rope = c.kind(i)
    x = p.stream()
    qkv = p.qkv(i, x, attention)
    p.head_norm(i, qkv)
    p.rope_append(i, qkv, rope)
    p.add(i, "attn_output", p.attend(i, qkv), post_norm="post_attention_norm")
    p.add(i, "ffn_down", p.glu(i, x, c.ff, c.act), post_norm="post_ffw_norm")


def _windows(c: Settings) -> Mapping[str, Any]:
    window = c.get_int("sliding_window", None, min=1, max=1 << 24)
    layers = c.get_int("num_hidden_layers", min=1, max=4096)
    pattern = c.get_any("sliding_window_pattern", None)
    if isinstance(pattern, str) and pattern and {*pattern} <= {"L", "G"}:
        regular = [pattern[i % len(pattern)] == "L" for i in range(layers)]
    else:
        unused = window is None or (pattern is None and c.get_any("layer_types", None) is not None)
        period = 1 if unused else c.get_int("sliding_window_pattern", min=1, max=1 << 24)
        regular = [(i + 1) % period != 0 for i in range(layers)]
    local = windows(c, lambda i: window is not None and regular[i])
    if window is None and any(local):
        raise c.refuse("layer_types", "full_attention without sliding_window")
    return {} if window is None else {"attention.sliding_window_pattern": local}


FOLDERS = {
    "exaone4": Folder(
        classes=("Exaone4ForCausalLM",),
        keys={**KEYS, "sliding_window": "attention.sliding_window"},
        sizes={
            "hidden_size": 4096,
            "intermediate_size": 16384,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
        },
        defaults={
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 2048,
            "hidden_act": "silu",
            "num_key_value_heads": 32,
            "sliding_window": 4096,
            "sliding_window_pattern": _PERIOD,
        },
        inert={"max_window_layers": ANY, "reorder_qk_norm": True},
        names={
            **{name: own for name, own in NAMES.items() if name != "input_layernorm"},
            "post_attention_layernorm": "post_attention_norm",
            "post_feedforward_layernorm": "post_ffw_norm",
        },
        derive=_windows,
    )
}
