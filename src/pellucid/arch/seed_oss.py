"""Seed-OSS: Llama with biases on queries, keys and values (ByteDance 2025)."""

from __future__ import annotations

from pellucid.arch.config import Config, Reader, Source
from pellucid.folder import MLP, NAMES, Folder
from pellucid.plan import Plan


def config(source: Source) -> Config:
    return Reader(source).base(halves=True)


def block(p: Plan, c: Config, i: int) -> None:
    attention, rope = c.kind(i)
    qkv = p.qkv(i, p.norm(i, "attn_norm"), attention)
    p.rope_append(i, qkv, rope)
    p.add(i, "attn_output", p.attend(i, qkv))
    p.add(i, "ffn_down", p.glu(i, p.norm(i, "post_attention_norm"), c.ff, c.act))


FOLDERS = {
    "seed_oss": Folder(
        classes=("SeedOssForCausalLM",),
        defaults={
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 524288,
            "hidden_act": "silu",
            "num_key_value_heads": 8,
            "head_dim": 128,
            "attention_bias": True,
        },
        biases={
            "attention_bias": ("attn_q", "attn_k", "attn_v"),
            "attention_out_bias": ("attn_output",),
            "mlp_bias": MLP,
        },
        names={**NAMES, "post_attention_layernorm": "post_attention_norm"},
    )
}
