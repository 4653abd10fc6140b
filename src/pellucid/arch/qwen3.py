"""Qwen3: Llama with RMS-normalised query and key heads (Qwen Team 2025)."""

from __future__ import annotations

from dataclasses import replace

from pellucid.arch.config import Config, Reader, Source
from pellucid.plan import Plan

_BASE = 1e6  # of the rotation, in every released model


def config(source: Source) -> Config:
    r = Reader(source)
    c = r.base(rope=None)
    return replace(c, rope=r.rope(c.attention.dk, r.rope_base("rope.freq_base", _BASE), halves=r.halves(True)))


def block(p: Plan, c: Config, i: int) -> None:
    qkv = p.qkv(i, p.norm(i, "attn_norm"), c.attention)
    p.head_norm(i, qkv)
    p.rope_append(i, qkv, c.rope)
    p.add(i, "attn_output", p.attend(i, qkv))
    p.add(i, "ffn_down", p.glu(i, p.norm(i, "ffn_norm"), c.ff, "silu"))
