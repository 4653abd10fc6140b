"""StarCoder2: LayerNorm, GELU without a gate, biases, a window (BigCode 2024)."""

from __future__ import annotations

from pellucid.arch.arcee import block as block
from pellucid.arch.config import Config, Reader, Source
from pellucid.arch.phi3 import all_or_none
from pellucid.folder import ANY, KEYS, NAMES, QKVO, Folder, Same


def config(source: Source) -> Config:
    return Reader(source).base(halves=True, act="gelu_tanh", norms="layer")


FOLDERS = {
    "starcoder2": Folder(
        classes=("Starcoder2ForCausalLM",),
        keys={
            **{key: name for key, name in KEYS.items() if key not in ("rms_norm_eps", "head_dim")},
            "norm_epsilon": "attention.layer_norm_epsilon",
            "sliding_window": "attention.sliding_window",
        },
        defaults={
            "norm_epsilon": 1e-5,
            "max_position_embeddings": 4096,
            "hidden_act": "gelu_pytorch_tanh",
            "num_key_value_heads": 2,
            "use_bias": True,
        },
        inert={
            "attention_softmax_in_fp32": ANY,
            "layer_norm_epsilon": Same("norm_epsilon"),
            "mlp_type": "default",
            "norm_type": "layer_norm",
            "scale_attention_softmax_in_fp32": ANY,
            "scale_attn_weights": True,
        },
        biases={"use_bias": (*QKVO, "ffn_up", "ffn_down")},
        biased=("attn_norm", "ffn_norm", "output_norm"),
        names={
            **{name: own for name, own in NAMES.items() if not name.startswith("mlp.")},
            "mlp.c_fc": "ffn_up",
            "mlp.c_proj": "ffn_down",
        },
        tied=True,
        derive=all_or_none,
    )
}
