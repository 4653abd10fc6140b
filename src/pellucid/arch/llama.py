"""Llama: pre-norm blocks of grouped-query attention and SwiGLU (Touvron et al. 2023). Also Mistral, SmolLM2 and kin."""

from __future__ import annotations

from pellucid.arch.config import Config, Reader, Source
from pellucid.plan import Plan


def config(source: Source) -> Config:
    return Reader(source).base()


def block(p: Plan, c: Config, i: int) -> None:
    qkv = p.qkv(i, p.norm(i, "attn_norm"), c.attention)
    p.rope_append(i, qkv, c.rope)
    p.add(i, "attn_output", p.attend(i, qkv))
    p.add(i, "ffn_down", p.glu(i, p.norm(i, "ffn_norm"), c.ff, "silu"))
