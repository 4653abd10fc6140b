"""Nomic BERT: BERT with rotated queries and keys in place of learned positions, SwiGLU and no biases (Nussbaum et al.
2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.arch.bert import SIZES, has_types, last_norm, token_type
from pellucid.arch.config import Config, Reader, Source
from pellucid.folder import Folder, Settings
from pellucid.plan import Plan


def config(source: Source) -> Config:
    c = Reader(source).base(halves=True, base=1000.0, causal=False, norms="layer")
    return replace(c, final_norm=last_norm(c), typed=has_types(source))


def begin(p: Plan, c: Config) -> None:
    if c.typed:
        p.shift("token_types", token_type(p, c)[0])
    p.settle(-1, "token_embd_norm")


def block(p: Plan, c: Config, i: int) -> None:
    qkv = p.qkv(i, p.stream(), c.attention)
    p.rope_append(i, qkv, c.rope)
    p.add(i, "attn_output", p.attend(i, qkv))
    h = p.settle(i, "attn_output_norm")
    p.add(i, "ffn_down", p.glu(i, h, c.ff, c.act))
    if i + 1 < c.layers:
        p.settle(i, "layer_output_norm")


# Names of sizes in the releases (from before transformers had the model) -> in transformers, and in GGUF.
_OLDER = {
    "n_embd": ("hidden_size", "embedding_length"),
    "n_layer": ("num_hidden_layers", "block_count"),
    "n_head": ("num_attention_heads", "attention.head_count"),
    "n_inner": ("intermediate_size", "feed_forward_length"),
    "n_positions": ("max_position_embeddings", "context_length"),
}
# The releases' other keys that affect results, with the only supported value.
_ONLY = {
    "activation_function": "swiglu",
    "causal": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "parallel_block": False,
    "prenorm": False,
    "qkv_proj_bias": False,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True,
    "use_rms_norm": False,
}
_UNUSED = (
    "attn_pdrop", "dense_seq_output", "fused_bias_fc", "fused_dropout_add_ln", "max_trained_positions",
    "pad_vocab_size_multiple", "parallel_block_tied_norm", "reorder_and_upcast_attn", "summary_activation",
    "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj", "use_xentropy",
)  # fmt: skip


def _derive(c: Settings) -> Mapping[str, Any]:
    return {} if c.get_any("n_embd", None) is None else _older(c)


def _older(c: Settings) -> Mapping[str, Any]:
    """Reads the releases' keys; missing ones are refused, since their defaults differ from those here."""
    for key, only in _ONLY.items():
        value = c.get_any(key, None)
        if value is None:
            raise c.fail(key, "no such key beside n_embd", str(only).lower())
        if value != only or isinstance(value, bool) != isinstance(only, bool):
            raise c.refuse(key, str(only).lower())
    for key in _UNUSED:
        c.get_any(key, None)
    found: dict[str, Any] = {}
    for key, (newer, name) in _OLDER.items():
        found[name] = c.get_int(key, min=1, max=1 << 23)
        if c.get_int(newer) not in (found[name], _DEFAULTS[newer]):
            raise c.fail(newer, f"it is {c.get_int(newer)}", f"{found[name]}, as {key} says")
    found["attention.layer_norm_epsilon"] = c.get_float("layer_norm_epsilon", min=1e-30)
    found["rope.freq_base"] = c.get_float("rotary_emb_base", min=1.0)
    return found


_DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 2048,
    "hidden_act": "silu",
    "type_vocab_size": 2,
    "rope_theta": 1000.0,
}


FOLDERS = {
    "nomic_bert": Folder(
        classes=("NomicBertModel",),
        keys={**SIZES, "head_dim": "attention.key_length", "rope_theta": "rope.freq_base"},
        defaults=_DEFAULTS,
        biased=("token_embd_norm", "attn_output_norm", "layer_output_norm"),
        names={
            "nomic_bert.embeddings.word_embeddings": "token_embd",
            "nomic_bert.embeddings.token_type_embeddings": "token_types",
            "nomic_bert.emb_ln": "token_embd_norm",
            "attn.Wqkv": "attn_qkv",
            "attn.out_proj": "attn_output",
            "norm1": "attn_output_norm",
            "mlp.fc11": "ffn_up",
            "mlp.fc12": "ffn_gate",
            "mlp.fc2": "ffn_down",
            "norm2": "layer_output_norm",
        },
        base="nomic_bert.",
        layers="nomic_bert.encoder.layers",
        encoder=True,
        derive=_derive,
    )
}
