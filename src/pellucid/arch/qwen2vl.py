"""Qwen2-VL and Qwen2.5-VL: Qwen2 whose rotation has three positions for images and one for text (Qwen Team 2024)."""

from __future__ import annotations

from dataclasses import replace

from pellucid.arch import qwen2
from pellucid.arch.config import Config, Source
from pellucid.arch.llama import block as block
from pellucid.folder import Folder, later_windows


def config(source: Source) -> Config:
    check_images(source)
    return qwen2.config(source)


def check_images(source: Source) -> bool:
    """Reads the keys that only matter for images: how pairs are divided among the three positions, which are equal for
    text, and how many layers receive image features. Returns whether pairs are divided."""
    sections = source.get_list(f"{source.architecture}.rope.dimension_sections", None, of=int)
    source.get_int(f"{source.architecture}.n_deepstack_layers", 0, min=0)
    return sections is not None and len(sections) > 1 and min(sections[:2]) > 0


_TEXT = Folder(
    classes=("Qwen2VLTextModel",),
    sizes={
        "hidden_size": 8192,
        "intermediate_size": 29568,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
    },
    defaults={
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 32768,
        "hidden_act": "silu",
        "sliding_window": 4096,
        "max_window_layers": 80,
        "rope_theta": 1e6,
    },
    biased=("attn_q", "attn_k", "attn_v"),
    mrope=True,
    older_rotations={"mrope": "default"},
    derive=later_windows,
)
FOLDERS = {"qwen2_vl_text": _TEXT, "qwen2_5_vl_text": replace(_TEXT, classes=("Qwen2_5_VLTextModel",))}
