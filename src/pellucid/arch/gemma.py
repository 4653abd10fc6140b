"""Gemma 1: Llama with GeGLU, a scaled embedding and norm weights that are offsets from 1 (Gemma Team 2024)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pellucid.arch.config import Config, Reader, Source
from pellucid.arch.llama import block as block
from pellucid.folder import QKVO, Folder


def config(source: Source) -> Config:
    c = Reader(source).base(halves=True, act="gelu_tanh")
    act = "gelu_tanh" if c.act == "gelu" else c.act  # the first releases say gelu but mean its approximation
    return replace(c, act=act, embed_scale=float(np.sqrt(np.float32(c.dim))))


FOLDERS = {
    "gemma": Folder(
        classes=("GemmaForCausalLM",),
        defaults={
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 8192,
            "hidden_act": "gelu_pytorch_tanh",
            "num_key_value_heads": 16,
            "head_dim": 256,
        },
        biases={"attention_bias": QKVO},
        tied=True,
        norm_offset=1.0,
    )
}
