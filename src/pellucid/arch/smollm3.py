"""SmolLM3: Llama without rotation in every fourth layer (Hugging Face 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.arch.config import Config, Reader, Source
from pellucid.arch.llama import block as block
from pellucid.folder import ANY, KEYS, MLP, QKVO, Folder, Settings, windows

_INTERVAL = 4  # of the layers without rotation


def config(source: Source) -> Config:
    r = Reader(source)
    c = r.base(halves=False)
    default = [(i + 1) % _INTERVAL != 0 for i in range(c.layers)]
    return replace(c, rotated=tuple(source.get_list(r.key("rotated_layers"), default, of=bool, length=c.layers)))


def _layers(c: Settings) -> Mapping[str, Any]:
    """Layers without rotation have the window, if there is one and layer_types does not name others.

    Windows that layer_types names without use_sliding_window are refused: some of transformers' attention
    implementations apply them then, others do not.
    """
    layers = c.get_int("num_hidden_layers", min=1, max=4096)
    every = c.get_int("no_rope_layer_interval", _INTERVAL, min=1, max=1 << 24)
    rotated = c.get_list("no_rope_layers", None, of=int, length=layers)
    if rotated is None:
        rotated = [int((i + 1) % every != 0) for i in range(layers)]
    window = c.get_int("sliding_window", None, min=1, max=1 << 24)
    if not c.get_bool("use_sliding_window", False):
        window = None
    local = windows(c, lambda i: window is not None and not rotated[i])
    if window is None and any(local):
        raise c.refuse("layer_types", "full_attention without use_sliding_window and a sliding_window")
    found: dict[str, Any] = {"rotated_layers": [bool(x) for x in rotated]}
    if any(local):
        found |= {"attention.sliding_window": window, "attention.sliding_window_pattern": local}
    return found


FOLDERS = {
    "smollm3": Folder(
        classes=("SmolLM3ForCausalLM",),
        keys=KEYS,
        defaults={
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32768,
            "hidden_act": "silu",
            "num_key_value_heads": 4,
            "rope_theta": 2000000.0,
        },
        inert={"max_window_layers": ANY},
        biases={"attention_bias": QKVO, "mlp_bias": MLP},
        tied=True,
        derive=_layers,
    )
}
