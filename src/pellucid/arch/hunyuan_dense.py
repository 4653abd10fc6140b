"""Hunyuan, dense: Llama with heads that are normed after their rotation (Tencent 2025)."""

from __future__ import annotations

from pellucid.arch.config import Config, Reader, Source
from pellucid.folder import NAMES, QKVO, Folder
from pellucid.plan import Plan


def config(source: Source) -> Config:
    return Reader(source).base(halves=True)


def block(p: Plan, c: Config, i: int) -> None:
    attention, rope = c.kind(i)
    qkv = p.qkv(i, p.norm(i, "attn_norm"), attention)
    if rope is not None:
        p.rotate(i, qkv, rope)
    p.head_norm(i, qkv)
    p.rope_append(i, qkv, None)
    p.add(i, "attn_output", p.attend(i, qkv))
    p.add(i, "ffn_down", p.glu(i, p.norm(i, "ffn_norm"), c.ff, c.act))


FOLDERS = {
    "hunyuan_v1_dense": Folder(
        classes=("HunYuanDenseV1ForCausalLM",),
        defaults={"rms_norm_eps": 1e-5, "max_position_embeddings": 2048, "hidden_act": "silu"},
        biases={"attention_bias": QKVO},
        names={
            **{name: own for name, own in NAMES.items() if name not in ("self_attn.q_norm", "self_attn.k_norm")},
            "self_attn.query_layernorm": "attn_q_norm",
            "self_attn.key_layernorm": "attn_k_norm",
        },
        alpha=True,
    )
}
