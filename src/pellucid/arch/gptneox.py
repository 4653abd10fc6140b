"""GPT-NeoX and Pythia: LayerNorm, both halves of a layer in parallel, each with a norm (EleutherAI 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.arch.config import Config, Reader, Source
from pellucid.folder import KEYS, Folder, Settings
from pellucid.plan import Plan


def config(source: Source) -> Config:
    r = Reader(source)
    parallel = bool(source.get_bool(r.key("use_parallel_residual")))
    return replace(r.base(halves=True, act="gelu", norms="layer", own=("use_parallel_residual",)), parallel=parallel)


def block(p: Plan, c: Config, i: int) -> None:
    attention, rope = c.kind(i)
    qkv = p.qkv(i, p.norm(i, "attn_norm"), attention)
    p.rope_append(i, qkv, rope)
    a = p.attend(i, qkv)
    if not c.parallel:
        p.add(i, "attn_output", a)
    f = p.mlp(i, p.norm(i, "ffn_norm"), c.ff, c.act)
    if c.parallel:
        p.add(i, "attn_output", a)
    p.add(i, "ffn_down", f)


_PART = 0.25  # share of a head's columns that is rotated
_OLDER = {"rope_theta": ("rotary_emb_base", 10000.0), "partial_rotary_factor": ("rotary_pct", _PART)}


def _same_rotation(c: Settings) -> Mapping[str, Any]:
    """Refuses rope_theta and partial_rotary_factor beside the table, which transformers writes there but ignores,
    unless they agree with what it computes."""
    for key, (older, value) in _OLDER.items():
        for place in (older, f"rope_parameters.{key}", f"rope_scaling.{key}"):
            value = c.get_float(place, value)
        if c.get_float(key, value) != value:
            raise c.refuse(key, f"{value:g}, as {older} and the rotation's table say")
    return {}


def _by_part(c: Settings, values: Any) -> Any:
    """Rows by head, each with its query, key and value -> all queries, all keys, all values."""
    heads = c.get_int("num_attention_heads", min=1, max=4096)
    return values.reshape(heads, 3, len(values) // heads // 3, -1).swapaxes(0, 1).reshape(values.shape)


FOLDERS = {
    "gpt_neox": Folder(
        classes=("GPTNeoXForCausalLM",),
        keys={
            **{
                key: name
                for key, name in KEYS.items()
                if key not in ("rms_norm_eps", "head_dim", "num_key_value_heads", "rope_theta")
            },
            "rotary_emb_base": "rope.freq_base",
            "layer_norm_eps": "attention.layer_norm_epsilon",
            "use_parallel_residual": "use_parallel_residual",
        },
        defaults={
            "layer_norm_eps": 1e-5,
            "max_position_embeddings": 2048,
            "hidden_act": "gelu",
            "attention_bias": True,
            "use_parallel_residual": True,
        },
        biases={"attention_bias": ("attn_qkv", "attn_output")},
        biased=("ffn_up", "ffn_down", "attn_norm", "ffn_norm", "output_norm"),
        names={
            "gpt_neox.embed_in": "token_embd",
            "gpt_neox.final_layer_norm": "output_norm",
            "embed_out": "output",
            "input_layernorm": "attn_norm",
            "post_attention_layernorm": "ffn_norm",
            "attention.query_key_value": "attn_qkv",
            "attention.dense": "attn_output",
            "mlp.dense_h_to_4h": "ffn_up",
            "mlp.dense_4h_to_h": "ffn_down",
        },
        base="gpt_neox.",
        layers="gpt_neox.layers",
        partial=_PART,
        part="rotary_pct",
        change={"attn_qkv": _by_part},
        derive=_same_rotation,
    )
}
