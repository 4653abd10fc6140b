"""Phi-1, Phi-1.5 and Phi-2: LayerNorm, both halves of a layer in parallel, GELU without a gate; norms of heads if the
model specifies them (Microsoft 2023)."""

from __future__ import annotations

from dataclasses import replace

from pellucid.arch.config import Config, Reader, Source
from pellucid.folder import KEYS, QKVO, Folder
from pellucid.plan import Plan


def config(source: Source) -> Config:
    r = Reader(source)
    return replace(r.base(halves=True, act="gelu_tanh", norms="layer"), head_norms=r.norms_heads())


def block(p: Plan, c: Config, i: int) -> None:
    attention, rope = c.kind(i)
    h = p.norm(i, "attn_norm")
    qkv = p.qkv(i, h, attention)
    if c.head_norms:
        q, k = attention.n_q * attention.dk, attention.n_kv * attention.dk
        p.norm_columns(i, "attn_q_norm", qkv.buffer, 0, q, each=attention.dk, norm="layer")
        p.norm_columns(i, "attn_k_norm", qkv.buffer, q, k, each=attention.dk, norm="layer")
    p.rope_append(i, qkv, rope)
    p.add(i, "attn_output", p.attend(i, qkv))
    p.add(i, "ffn_down", p.mlp(i, h, c.ff, c.act))


FOLDERS = {
    "phi": Folder(
        classes=("PhiForCausalLM",),
        keys={
            **{key: name for key, name in KEYS.items() if key not in ("rms_norm_eps", "head_dim")},
            "layer_norm_eps": "attention.layer_norm_epsilon",
            "qk_layernorm": "attention.qk_norm",  # not a GGUF key
        },
        defaults={
            "layer_norm_eps": 1e-5,
            "max_position_embeddings": 2048,
            "hidden_act": "gelu_new",
            "qk_layernorm": False,
        },
        biases={"qk_layernorm": ("attn_q_norm", "attn_k_norm")},
        biased=(*QKVO, "ffn_up", "ffn_down", "attn_norm", "output_norm", "output"),
        names={
            "model.embed_tokens": "token_embd",
            "model.final_layernorm": "output_norm",
            "lm_head": "output",
            "input_layernorm": "attn_norm",
            "self_attn.q_proj": "attn_q",
            "self_attn.k_proj": "attn_k",
            "self_attn.v_proj": "attn_v",
            "self_attn.dense": "attn_output",
            "self_attn.q_layernorm": "attn_q_norm",
            "self_attn.k_layernorm": "attn_k_norm",
            "mlp.fc1": "ffn_up",
            "mlp.fc2": "ffn_down",
        },
        partial=0.5,
    )
}
