"""Gemma 2: norms before and after each half, windows in every other layer, soft caps on scores and logits (Gemma Team
2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pellucid.arch.config import Config, Reader, Source
from pellucid.folder import KEYS, NAMES, QKVO, Folder, Same, Settings, cap, windows
from pellucid.plan import Plan

_PERIOD = 2
_WINDOW = 4096  # where a file gives none, as the first ones did
_27B = 46  # layers; only this size scales scores by its width per head instead of the head's size


def config(source: Source) -> Config:
    r = Reader(source)
    c = r.base(halves=True, act="gelu_tanh", period=_PERIOD, window=_WINDOW, own=("attn_logit_softcapping",))
    scale = r.number("attention.scale", (c.dim // c.attention.n_q if c.layers == _27B else c.attention.dk) ** -0.5)
    return replace(
        c,
        attention=replace(c.attention, scale=scale),
        local_attention=replace(c.local_attention, scale=scale),
        embed_scale=float(np.sqrt(np.float32(c.dim))),
        logit_cap=float(source.get_float(r.key("final_logit_softcapping"), 30.0, min=0.0)),
        score_cap=float(source.get_float(r.key("attn_logit_softcapping"), 50.0, min=0.0)),
    )


def block(p: Plan, c: Config, i: int) -> None:
    attention, rope = c.kind(i)
    qkv = p.qkv(i, p.norm(i, "attn_norm"), attention)
    p.rope_append(i, qkv, rope)
    p.add(i, "attn_output", p.attend(i, qkv, cap=c.score_cap), post_norm="post_attention_norm")
    p.add(i, "ffn_down", p.glu(i, p.norm(i, "ffn_norm"), c.ff, c.act), post_norm="post_ffw_norm")


def _derive(c: Settings) -> Mapping[str, Any]:
    return {
        "attention.scale": c.get_float("query_pre_attn_scalar", min=1e-6) ** -0.5,
        "attention.sliding_window_pattern": windows(c, lambda i: (i + 1) % _PERIOD != 0),
        # GGUF's keys have defaults.
        **{key: cap(c, key) or 0.0 for key in ("final_logit_softcapping", "attn_logit_softcapping")},
    }


FOLDERS = {
    "gemma2": Folder(
        classes=("Gemma2ForCausalLM", "Gemma2Model"),
        keys={
            **{key: name for key, name in KEYS.items() if key != "hidden_act"},
            "hidden_activation": "hidden_activation",
            "sliding_window": "attention.sliding_window",
        },
        defaults={
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 8192,
            "hidden_activation": "gelu_pytorch_tanh",
            "num_key_value_heads": 4,
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "final_logit_softcapping": 30.0,
            "attn_logit_softcapping": 50.0,
        },
        inert={"hidden_act": Same("hidden_activation"), "sliding_window_size": Same("sliding_window")},
        biases={"attention_bias": QKVO},
        names={
            **NAMES,
            "post_attention_layernorm": "post_attention_norm",
            "pre_feedforward_layernorm": "ffn_norm",
            "post_feedforward_layernorm": "post_ffw_norm",
        },
        tied=True,
        norm_offset=1.0,
        derive=_derive,
    )
}
