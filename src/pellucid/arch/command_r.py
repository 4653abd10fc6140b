"""Command-R and Aya: LayerNorm without bias, both halves of a layer in parallel, scaled logits; in Command-R+ also
norms of heads (Cohere 2024)."""

from __future__ import annotations

from dataclasses import replace

from pellucid.arch.config import Config, Reader, Source
from pellucid.arch.stablelm import block as block
from pellucid.folder import KEYS, NAMES, QKVO, Folder


def config(source: Source) -> Config:
    r = Reader(source)
    c = r.base(halves=False, norms="layer")
    return replace(c, logit_scale=r.number("logit_scale"), head_norms=r.norms_heads(), parallel=True)


FOLDERS = {
    "cohere": Folder(
        classes=("CohereForCausalLM",),
        keys={
            **{key: name for key, name in KEYS.items() if key != "rms_norm_eps"},
            "layer_norm_eps": "attention.layer_norm_epsilon",
            "logit_scale": "logit_scale",
            "use_qk_norm": "attention.qk_norm",  # not a GGUF key
        },
        defaults={
            "layer_norm_eps": 1e-5,
            "max_position_embeddings": 8192,
            "hidden_act": "silu",
            "logit_scale": 0.0625,
            "use_qk_norm": False,
            "rope_theta": 500000.0,
        },
        biases={"attention_bias": QKVO},
        names={name: own for name, own in NAMES.items() if name != "post_attention_layernorm"},
        tied=True,
        halves=False,
    )
}
