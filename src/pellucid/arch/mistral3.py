"""Ministral 3: Mistral with YaRN, and queries that grow with the logarithm of their position (Mistral AI 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.arch.config import Config, Reader, Source, growing_queries
from pellucid.arch.phi3 import all_or_none
from pellucid.folder import KEYS, Folder, Settings
from pellucid.plan import Plan


def config(source: Source) -> Config:
    r = Reader(source)
    c = r.base(halves=False)
    beta = r.number("attention.temperature_scale", 0.0, min=0.0)
    return growing_queries(r, c, beta, r.size("rope.scaling.original_context_length")) if beta else c


def block(p: Plan, c: Config, i: int) -> None:
    attention, rope = c.kind(i)
    qkv = p.qkv(i, p.norm(i, "attn_norm"), attention)
    p.rope_append(i, qkv, rope, factors=c.query_factors, every=c.query_every)
    p.add(i, "attn_output", p.attend(i, qkv))
    p.add(i, "ffn_down", p.glu(i, p.norm(i, "ffn_norm"), c.ff, c.act))


def _derive(c: Settings) -> Mapping[str, Any]:
    found = dict(all_or_none(c))
    beta = c.get_float("rope_parameters.llama_4_scaling_beta", min=0.0, max=1e3)
    found["attention.temperature_scale"] = beta
    original = c.get_int("rope_parameters.original_max_position_embeddings", min=1, max=1 << 24)
    # The key next to the table takes precedence.
    original = c.get_int("original_max_position_embeddings", original, min=1, max=1 << 24)
    found["rope.scaling.original_context_length"] = original
    c.get_int("rope_parameters.max_position_embeddings", None, min=1)  # a copy of the one beside the table
    return found


FOLDERS = {
    "ministral3": Folder(
        classes=("Ministral3ForCausalLM",),
        keys={**KEYS, "sliding_window": "attention.sliding_window"},
        sizes={
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 34,
            "num_attention_heads": 32,
        },
        defaults={
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 262144,
            "hidden_act": "silu",
            "num_key_value_heads": 8,
            "head_dim": 128,
        },
        derive=_derive,
    )
}
