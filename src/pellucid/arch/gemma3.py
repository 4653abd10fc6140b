"""Gemma 3: five local layers, then a global one; QK norm, pre-norms and post-norms, GeGLU (Gemma Team 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pellucid.arch.config import Config, Reader, Source
from pellucid.folder import KEYS, NAMES, QKVO, Folder, Settings, cap, windows
from pellucid.plan import Plan

# Constants of the architecture that files may leave out.
_LOCAL_BASE = 10000.0
_GLOBAL_BASE = 1e6
_PERIOD = 6


def config(source: Source, causal: bool = True) -> Config:
    r = Reader(source)
    c = r.base(halves=True, base=_GLOBAL_BASE, act="gelu_tanh", period=_PERIOD, causal=causal)
    # Only the 27B model (62 layers) scales scores by its width per head instead of the head's size.
    width = c.dim // c.attention.n_q if c.layers == 62 else c.attention.dk
    scale = r.number("attention.scale", width**-0.5)
    local_base = r.rope_base("rope.freq_base_swa", _LOCAL_BASE)
    return replace(
        c,
        attention=replace(c.attention, scale=scale),
        local_attention=replace(c.local_attention, scale=scale),
        local_rope=r.rope(c.attention.dk, local_base, halves=c.rope.halves, scaled=False),
        embed_scale=float(np.sqrt(np.float32(c.dim))),
        logit_cap=float(source.get_float(r.key("final_logit_softcapping"), 0.0, min=0.0)),
    )


def block(p: Plan, c: Config, i: int) -> None:
    attention, rope = c.kind(i)
    qkv = p.qkv(i, p.norm(i, "attn_norm"), attention)
    p.head_norm(i, qkv)
    p.rope_append(i, qkv, rope)
    p.add(i, "attn_output", p.attend(i, qkv), post_norm="post_attention_norm")
    p.add(i, "ffn_down", p.glu(i, p.norm(i, "ffn_norm"), c.ff, c.act), post_norm="post_ffw_norm")


def _variant(c: Settings) -> str | None:
    if not c.get_bool("use_bidirectional_attention", False):
        return None
    if c.prefix != "config." or c.get_list("architectures", None, of=str) != ["Gemma3TextModel"]:
        raise c.refuse("use_bidirectional_attention", "false, or true of a Gemma3TextModel, which embeds texts")
    return "gemma-embedding"


def _derive(c: Settings) -> Mapping[str, Any]:
    period = c.get_int("sliding_window_pattern", _PERIOD, min=1)
    if cap(c, "final_logit_softcapping") is not None and c.prefix != "config.":
        raise c.refuse("final_logit_softcapping", "null, beside images: transformers' class for both has no cap")
    return {
        "attention.scale": c.get_float("query_pre_attn_scalar", min=1e-6) ** -0.5,
        "attention.sliding_window_pattern": windows(c, lambda i: (i + 1) % period != 0),
    }


FOLDERS = {
    "gemma3_text": Folder(
        classes=("Gemma3ForCausalLM", "Gemma3TextModel"),
        keys={
            **{key: name for key, name in KEYS.items() if key != "hidden_act"},
            "hidden_activation": "hidden_activation",
            "rope_local_base_freq": "rope.freq_base_swa",
            "sliding_window": "attention.sliding_window",
            "final_logit_softcapping": "final_logit_softcapping",
        },
        # Sizes too: a wrapper's text_config leaves out keys that have these values.
        defaults={
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 131072,
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "rope_theta": _GLOBAL_BASE,
            "rope_local_base_freq": _LOCAL_BASE,
        },
        biases={"attention_bias": QKVO},
        # Attention and the feed-forward network each have a norm before and one after.
        names={
            **NAMES,
            "post_attention_layernorm": "post_attention_norm",
            "pre_feedforward_layernorm": "ffn_norm",
            "post_feedforward_layernorm": "post_ffw_norm",
        },
        tied=True,
        norm_offset=1.0,
        ropes=True,
        derive=_derive,
        variant=_variant,
    ),
}
