"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values (Qwen Team 2024)."""

from __future__ import annotations

from pellucid.arch.config import Config, Reader, Source
from pellucid.arch.llama import block as block
from pellucid.folder import Folder, later_windows


def config(source: Source) -> Config:
    return Reader(source).base(halves=True)


FOLDERS = {
    "qwen2": Folder(
        classes=("Qwen2ForCausalLM", "Qwen2Model"),
        sizes={
            "hidden_size": 4096,
            "intermediate_size": 22016,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
        },
        defaults={
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32768,
            "hidden_act": "silu",
            "num_key_value_heads": 32,
            "sliding_window": 4096,
            "max_window_layers": 28,
        },
        biased=("attn_q", "attn_k", "attn_v"),
        derive=later_windows,
    )
}
