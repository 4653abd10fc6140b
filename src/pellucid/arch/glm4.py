"""GLM-4: norms before and after each half, a rotation of half the columns (Zhipu AI 2024)."""

from __future__ import annotations

from pellucid.arch.config import Config, Reader, Source, without_predictors
from pellucid.arch.gemma2 import block as block
from pellucid.arch.qwen2vl import check_images
from pellucid.folder import NAMES, Folder


def config(source: Source) -> Config:
    r = Reader(source)
    divided = check_images(source)  # GLM-4.1V, GLM-OCR: converters then reorder the rows of queries and keys
    return without_predictors(r, r.base(halves=divided, own=("nextn_predict_layers",)))


FOLDERS = {
    "glm4": Folder(
        classes=("Glm4ForCausalLM",),
        defaults={
            "rms_norm_eps": 1.5625e-7,
            "max_position_embeddings": 131072,
            "hidden_act": "silu",
            "num_key_value_heads": 2,
            "head_dim": 128,
            "attention_bias": True,
        },
        biases={"attention_bias": ("attn_q", "attn_k", "attn_v")},
        names={
            **{name: own for name, own in NAMES.items() if name not in ("mlp.gate_proj", "mlp.up_proj")},
            "mlp.gate_up_proj": "ffn_up",
            "post_self_attn_layernorm": "post_attention_norm",
            "post_mlp_layernorm": "post_ffw_norm",
        },
        partial=0.5,
        halves=False,
    )
}
