"""ERNIE 4.5, dense: Llama with adjacent rotary pairs, also in folders (Baidu 2025)."""

from __future__ import annotations

from pellucid.arch.config import Config, Reader, Source
from pellucid.arch.llama import block as block
from pellucid.folder import MLP, QKVO, Folder


def config(source: Source) -> Config:
    return Reader(source).base(halves=False)


FOLDERS = {
    "ernie4_5": Folder(
        classes=("Ernie4_5ForCausalLM",),
        defaults={
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 131072,
            "hidden_act": "silu",
            "num_key_value_heads": 2,
            "head_dim": 128,
            "rope_theta": 500000.0,
        },
        biases={"use_bias": (*QKVO, *MLP)},
        tied=True,
        halves=False,
    )
}
