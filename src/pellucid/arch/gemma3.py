"""Gemma 3: five local layers, then a global one; QK norm, pre and post norms, GeGLU (Gemma Team 2025)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pellucid.arch.config import Config, Reader, Source
from pellucid.plan import Plan

# What the architecture defines and files leave out.
_LOCAL_BASE = 10000.0
_GLOBAL_BASE = 1e6
_PERIOD = 6


def config(source: Source) -> Config:
    r = Reader(source)
    c = r.base(rope=None)
    a = c.attention
    # The 27B model alone scales scores by its width per head, not by the head's size.
    width = c.dim // a.n_q if c.layers == 62 else a.dk
    a = replace(a, scale=r.number("attention.scale", width**-0.5))
    halves = r.halves(True)
    return replace(
        c,
        attention=a,
        rope=r.rope(a.dk, r.rope_base("rope.freq_base", _GLOBAL_BASE), halves=halves),
        local_attention=replace(a, window=r.size("attention.sliding_window")),
        local_rope=r.rope(a.dk, r.rope_base("rope.freq_base_swa", _LOCAL_BASE), halves=halves, scaled=False),
        local_period=r.size("attention.sliding_window_pattern", _PERIOD),
        embed_scale=float(np.sqrt(np.float32(c.dim))),
        logit_cap=float(source.get_float(r.key("final_logit_softcapping"), 0.0, min=0.0)),
    )


def block(p: Plan, c: Config, i: int) -> None:
    local = c.is_local(i)
    attention, rope = (c.local_attention, c.local_rope) if local else (c.attention, c.rope)
    assert attention is not None and rope is not None
    qkv = p.qkv(i, p.norm(i, "attn_norm"), attention)
    p.head_norm(i, qkv)
    p.rope_append(i, qkv, rope)
    p.add(i, "attn_output", p.attend(i, qkv), post_norm="post_attention_norm")
    p.add(i, "ffn_down", p.glu(i, p.norm(i, "ffn_norm"), c.ff, "gelu_tanh"), post_norm="post_ffw_norm")
