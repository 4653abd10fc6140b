"""Nemotron (Minitron): LayerNorm with weights that are offsets from 1, squared ReLU, half rotation (NVIDIA 2024)."""

from __future__ import annotations

from pellucid.arch.arcee import block as block
from pellucid.arch.config import Config, Reader, Source
from pellucid.folder import KEYS, NAMES, QKVO, Folder


def config(source: Source) -> Config:
    return Reader(source).base(halves=True, act="relu2", norms="layer")


FOLDERS = {
    "nemotron": Folder(
        classes=("NemotronForCausalLM",),
        keys={
            **{key: name for key, name in KEYS.items() if key != "rms_norm_eps"},
            "norm_eps": "attention.layer_norm_epsilon",
        },
        defaults={"norm_eps": 1e-5, "max_position_embeddings": 4096, "hidden_act": "relu2"},
        biases={"attention_bias": QKVO, "mlp_bias": ("ffn_up", "ffn_down")},
        biased=("attn_norm", "ffn_norm", "output_norm"),
        names={name: own for name, own in NAMES.items() if name != "mlp.gate_proj"},
        norm_offset=1.0,
        partial=0.5,
    )
}
