"""GPT-2: learned positions, LayerNorm, GELU without a gate, biases everywhere (Radford et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.arch.arcee import block as block
from pellucid.arch.config import Config, Reader, Source
from pellucid.folder import Folder, Settings
from pellucid.plan import Plan

_MATRICES = ("attn_qkv", "attn_output", "ffn_up", "ffn_down")


def config(source: Source) -> Config:
    c = Reader(source).base(halves=True, act="gelu_tanh", norms="layer", rotates=False)
    return replace(c, rotated=(False,) * c.layers)


def begin(p: Plan, c: Config) -> None:
    p.positions("position_embd", p.table("position_embd", c.context, c.dim))


def _derive(c: Settings) -> Mapping[str, Any]:
    if not c.get_bool("scale_attn_weights", True):
        raise c.refuse("scale_attn_weights", "true")
    for key in ("rope_parameters", "rope_scaling"):
        if c.get_any(key, None):
            raise c.refuse(key)
    c.get_bool("reorder_and_upcast_attn", False)  # the same sums in another precision
    for key in (
        "summary_type",
        "summary_use_proj",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "n_ctx",
        "attn_pdrop",
    ):
        c.get_any(key, None)  # of other heads and of training; another name of n_positions
    width = c.get_int("n_embd", min=1, max=1 << 24)
    inner = c.get_any("n_inner", None)
    return {"feed_forward_length": 4 * width if inner is None else c.get_int("n_inner", min=1, max=1 << 24)}


def _turned(c: Settings, values: Any) -> Any:
    """The folder's matrices are (in, out)."""
    return values.T if values.ndim == 2 else values


FOLDERS = {
    "gpt2": Folder(
        classes=("GPT2LMHeadModel",),
        keys={
            "n_embd": "embedding_length",
            "n_layer": "block_count",
            "n_head": "attention.head_count",
            "n_positions": "context_length",
            "activation_function": "hidden_activation",
            "layer_norm_epsilon": "attention.layer_norm_epsilon",
        },
        defaults={
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
            "n_positions": 1024,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
        },
        biased=(*_MATRICES, "attn_norm", "ffn_norm", "output_norm"),
        names={
            "transformer.wte": "token_embd",
            "transformer.wpe": "position_embd",
            "transformer.ln_f": "output_norm",
            "lm_head": "output",
            "ln_1": "attn_norm",
            "attn.c_attn": "attn_qkv",
            "attn.c_proj": "attn_output",
            "ln_2": "ffn_norm",
            "mlp.c_fc": "ffn_up",
            "mlp.c_proj": "ffn_down",
        },
        base="transformer.",
        layers="transformer.h",
        unused=r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",
        tied=True,
        heads="n_head",
        width="n_embd",
        change=dict.fromkeys(_MATRICES, _turned),
        turned=_MATRICES,
        derive=_derive,
    )
}
