"""LFM2: most layers mix tokens with a short gated convolution, the others by attention with QK norm (Liquid AI
2025)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from pellucid.arch.config import Config, Reader, Source
from pellucid.arch.mixture import feed_forward
from pellucid.folder import ANY, KEYS, NAMES, Folder, Same, Settings
from pellucid.plan import Plan, Recurrent
from pellucid.recurrent import MOST_TAPS, conv, project


def config(source: Source) -> Config:
    return read(Reader(source))


def read(r: Reader, own: Collection[str] = ()) -> Config:
    """The configuration of LFM2, with experts or without. own: as for Reader.base."""
    source = r.source
    c = r.base(halves=True, base=1e6, recurrent=True, own=own)
    taps = r.size("shortconv.l_cache", max=MOST_TAPS)
    if taps < 2:
        raise source.fail(r.key("shortconv.l_cache"), f"it is {taps}", f"2 to {MOST_TAPS}")
    return replace(c, memory=Recurrent(taps, c.dim), final_norm="token_embd_norm")


def block(p: Plan, c: Config, i: int) -> None:
    h = p.norm(i, "attn_norm")
    if c.recurrent[i]:
        parts = project(p, i, h, [("shortconv.in_proj", 3 * c.dim)])
        p.add(i, "shortconv.out_proj", conv(p, i, "shortconv.conv", parts, c.memory, act="none", gated=True))
    else:
        attention, rope = c.kind(i)
        qkv = p.qkv(i, h, attention)
        p.head_norm(i, qkv)
        p.rope_append(i, qkv, rope)
        p.add(i, "attn_output", p.attend(i, qkv))
    feed_forward(p, c, i)


def kv_heads(c: Settings) -> list[int]:
    """The key-value heads of each layer; 0 if it is a convolution."""
    layers = c.get_int("num_hidden_layers", min=1, max=4096)
    full = c.get_list("full_attn_idxs", None, of=int)
    full = range(layers) if full is None else {*full}
    kinds = c.get_list("layer_types", None, of=str, length=layers)
    if kinds is None:
        kinds = ["full_attention" if i in full else "conv" for i in range(layers)]
    if not {*kinds} <= {"full_attention", "conv"}:
        raise c.refuse("layer_types", "full_attention, conv")
    heads = int(c.get_int("num_key_value_heads", min=1, max=4096))
    return [heads if kind == "full_attention" else 0 for kind in kinds]


def _derive(c: Settings) -> Mapping[str, Any]:
    return {"attention.head_count_kv": kv_heads(c), "feed_forward_length": _ff(c)}


def _ff(c: Settings) -> int:
    """The width of the feed-forward network. Files have two names for it, and may give it before adjustment."""
    ff = int(c.get_int("block_ff_dim", c.get_int("intermediate_size", min=1, max=1 << 24), min=1, max=1 << 24))
    unit = int(c.get_int("block_multiple_of", min=1, max=1 << 24))
    factor = c.get_float("block_ffn_dim_multiplier", None, min=1e-3, max=1e3)
    if not c.get_bool("block_auto_adjust_ff_dim"):
        return ff
    ff = 2 * ff // 3
    if factor is None:
        return ff
    return -(-int(factor * ff) // unit) * unit


OWN_KEYS = {
    **{
        key: name
        for key, name in KEYS.items()
        if key not in ("hidden_act", "intermediate_size", "num_key_value_heads", "rms_norm_eps")
    },
    "norm_eps": "attention.layer_norm_rms_epsilon",
    "conv_L_cache": "shortconv.l_cache",
}
INERT = {
    "block_dim": Same("hidden_size"),
    "block_mlp_init_scale": ANY,
    "block_norm_eps": Same("norm_eps"),
    "block_out_init_scale": ANY,
    "block_use_swiglu": True,
    "block_use_xavier_init": ANY,
    "conv_dim": Same("hidden_size"),
    "conv_dim_out": Same("hidden_size"),
    "conv_use_xavier_init": ANY,
    "num_heads": Same("num_attention_heads"),
    "theta": Same("rope_theta"),
    "tie_embedding": Same("tie_word_embeddings", True),
    "use_pos_enc": True,
}
BIASES = {"conv_bias": ("shortconv.conv", "shortconv.in_proj", "shortconv.out_proj")}
OWN_NAMES = {
    **{name: gguf for name, gguf in NAMES.items() if not name.startswith("mlp.")},
    "model.embedding_norm": "token_embd_norm",
    "operator_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
    "self_attn.out_proj": "attn_output",
    "self_attn.q_layernorm": "attn_q_norm",
    "self_attn.k_layernorm": "attn_k_norm",
    "conv.conv": "shortconv.conv",
    "conv.in_proj": "shortconv.in_proj",
    "conv.out_proj": "shortconv.out_proj",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w3": "ffn_up",
    "feed_forward.w2": "ffn_down",
}
FOLDERS = {
    "lfm2": Folder(
        classes=("Lfm2ForCausalLM",),
        keys=OWN_KEYS,
        defaults={
            "hidden_size": 2560,
            "intermediate_size": 12288,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 128000,
            "norm_eps": 1e-5,
            "rope_theta": 1e6,
            "conv_L_cache": 3,
            "block_multiple_of": 256,
            "block_ffn_dim_multiplier": 1.0,
            "block_auto_adjust_ff_dim": True,
        },
        inert=INERT,
        biases=BIASES,
        names=OWN_NAMES,
        tied=True,
        derive=_derive,
    )
}
