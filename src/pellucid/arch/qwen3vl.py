"""Qwen3-VL: Qwen3 whose rotation has three positions for images and one for text (Qwen Team 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.arch import qwen3
from pellucid.arch.config import Config, Source
from pellucid.arch.qwen2vl import check_images
from pellucid.arch.qwen3 import block as block
from pellucid.folder import QKVO, Folder, Settings


def config(source: Source) -> Config:
    check_images(source)
    return qwen3.config(source)


def deepstack(c: Settings) -> Mapping[str, Any]:
    """The number of layers that receive image features, which converted files have for other programs."""
    taken = c.folder.get_list("config.vision_config.deepstack_visual_indexes", None, of=int)
    return {"n_deepstack_layers": len(taken)} if taken else {}


FOLDERS = {
    "qwen3_vl_text": Folder(
        classes=("Qwen3VLTextModel",),
        sizes={
            "hidden_size": 4096,
            "intermediate_size": 22016,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
        },
        defaults={
            "num_key_value_heads": 32,
            "head_dim": 128,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 128000,
            "hidden_act": "silu",
            "rope_theta": 500000.0,
        },
        biases={"attention_bias": QKVO},
        mrope=True,
        derive=deepstack,
    )
}
