"""Arcee (AFM): Llama with a squared ReLU in place of SwiGLU (Arcee AI 2025)."""

from __future__ import annotations

from pellucid.arch.config import Config, Reader, Source
from pellucid.folder import NAMES, QKVO, Folder
from pellucid.plan import Plan


def config(source: Source) -> Config:
    return Reader(source).base(halves=False, act="relu2")


def block(p: Plan, c: Config, i: int) -> None:
    attention, rope = c.kind(i)
    qkv = p.qkv(i, p.norm(i, "attn_norm"), attention)
    p.rope_append(i, qkv, rope)
    p.add(i, "attn_output", p.attend(i, qkv))
    p.add(i, "ffn_down", p.mlp(i, p.norm(i, "ffn_norm"), c.ff, c.act))


FOLDERS = {
    "arcee": Folder(
        classes=("ArceeForCausalLM",),
        defaults={"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "hidden_act": "relu2"},
        biases={"attention_bias": QKVO, "mlp_bias": ("ffn_up", "ffn_down")},
        names={name: own for name, own in NAMES.items() if name != "mlp.gate_proj"},
    )
}
