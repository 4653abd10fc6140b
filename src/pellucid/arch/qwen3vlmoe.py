"""Qwen3-VL with experts: Qwen3 MoE whose rotation has three positions for images and one for text (Qwen Team 2025)."""

from __future__ import annotations

from typing import Any

import numpy as np

from pellucid.arch import qwen3moe
from pellucid.arch.config import Config, Source
from pellucid.arch.qwen2vl import check_images
from pellucid.arch.qwen3 import block as block
from pellucid.arch.qwen3vl import deepstack
from pellucid.folder import EXPERTS, NAMES, QKVO, Folder, Settings, sparse_layers


def config(source: Source) -> Config:
    check_images(source)
    return qwen3moe.config(source)


def _gate_up(c: Settings, x: Any) -> Any:
    return _outputs_first(x, 2 * c.get_int("moe_intermediate_size", min=1), c.get_int("hidden_size", min=1))


def _down(c: Settings, x: Any) -> Any:
    return _outputs_first(x, c.get_int("hidden_size", min=1), c.get_int("moe_intermediate_size", min=1))


def _outputs_first(x: Any, rows: int, columns: int) -> Any:
    """Experts' matrices (experts, rows, columns) from those of the releases, which are transposed. Square ones cannot
    be recognised as transposed and stay as they are, as in transformers."""
    return x if x.ndim != 3 or x.shape[1:] == (rows, columns) else np.swapaxes(x, 1, 2)


FOLDERS = {
    "qwen3_vl_moe_text": Folder(
        classes=("Qwen3VLMoeTextModel",),
        keys={key: name for key, name in qwen3moe.OWN_KEYS.items() if key != "norm_topk_prob"},
        sizes={
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "num_experts": 60,
        },
        defaults={
            "num_key_value_heads": 16,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 128000,
            "hidden_act": "silu",
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 1408,
            "rope_theta": 500000.0,
        },
        inert={"norm_topk_prob": True},
        biases={"attention_bias": QKVO},
        names={**NAMES, **EXPERTS},
        change={"ffn_gate_up_exps": _gate_up, "ffn_down_exps": _down},
        mrope=True,
        derive=lambda c: {**sparse_layers(c), **deepstack(c)},
    )
}
