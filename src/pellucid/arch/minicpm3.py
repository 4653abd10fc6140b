"""MiniCPM3: attention over latent rows; multipliers of the embedding, of the output of each half of a layer, and of
logits (OpenBMB 2024). GGUF files do not have the multipliers: they are those of MiniCPM3 4B, the only such model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid import latent
from pellucid.arch.config import Config, Source
from pellucid.arch.deepseek2 import COMMON, KEYS, LATENT_NAMES, LatentReader, latent_keys
from pellucid.folder import MLP, Folder, Settings
from pellucid.plan import Plan


def config(source: Source) -> Config:
    r = LatentReader(source)
    c = r.base(halves=True)
    a = r.latent(c.attention.n_q)
    heads = latent.attention(a, r.score_scale(a))
    return replace(
        c,
        latent=a,
        attention=heads,
        local_attention=heads,
        embed_scale=r.number("embedding_scale", 12.0),
        residual_scale=r.number("residual_scale", 1.4 / math.sqrt(c.layers)),
        logit_scale=r.number("logit_scale", 256 / c.dim),
    )


def block(p: Plan, c: Config, i: int) -> None:
    assert c.latent is not None
    values = latent.attend(p, i, p.norm(i, "attn_norm"), c.latent, c.rope, c.attention.scale)
    p.add(i, "attn_output", values, scale=c.residual_scale)
    p.add(i, "ffn_down", p.glu(i, p.norm(i, "ffn_norm"), c.ff, c.act), scale=c.residual_scale)


def _derive(c: Settings) -> Mapping[str, Any]:
    dim, layers = c.get_int("hidden_size", min=1, max=1 << 24), c.get_int("num_hidden_layers", min=1, max=4096)
    heads = c.get_int("num_attention_heads", min=1, max=4096)
    depth = c.get_float("scale_depth", math.sqrt(layers), min=1e-6, max=1e6)
    return {
        **latent_keys(c),
        "attention.value_length_mla": c.get_int("v_head_dim", max(dim // heads, 1), min=1, max=4096),
        "residual_scale": depth / math.sqrt(layers),
        "logit_scale": c.get_int("dim_model_base", dim, min=1, max=1 << 24) / dim,
    }


FOLDERS = {
    "minicpm3": Folder(
        classes=("MiniCPM3ForCausalLM",),
        keys={
            **{key: name for key, name in KEYS.items() if key != "v_head_dim"},
            "scale_emb": "embedding_scale",
        },
        defaults={
            "hidden_act": "silu",
            "kv_lora_rank": 256,
            "q_lora_rank": 768,
            "qk_rope_head_dim": 32,
            "qk_nope_head_dim": 64,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 32768,
            "scale_emb": 12,
            "scale_depth": 1.4,
            "dim_model_base": 256,
        },
        names=LATENT_NAMES,
        tied=True,
        derive=_derive,
        **{**COMMON, "halves": True, "biases": {**COMMON["biases"], "mlp_bias": MLP}},
    )
}
