"""ModernBERT: an encoder with rotations, norms before each half, GeGLU, and windows in most layers (Warner et al.
2024); the first layer has no norm before its attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.arch.config import Config, Reader, Source
from pellucid.folder import Folder, Settings, score_activation, windows
from pellucid.plan import Plan

_BASES = (160000.0, 10000.0)  # of the rotation in layers with full attention, and with windows
_PERIOD = 3
_HEAD = "cls.output"
_POOLINGS = {"cls": "first", "mean": "mean"}
_NUMBERS = {1: "mean", 2: "cls"}  # of GGUF's pooling types


class _Reader(Reader):
    scores = True


def config(source: Source) -> Config:
    r = _Reader(source)
    c = r.base(halves=True, base=_BASES[0], act="gelu", period=_PERIOD, causal=False, norms="layer")
    period = source.get_any(r.key("attention.sliding_window_pattern"), _PERIOD)
    if type(period) is int and any(c.local):  # every period-th layer has full attention, from the first one on
        c = replace(c, local=tuple(i % period != 0 for i in range(c.layers)))
    local = r.rope(c.attention.dk, r.rope_base("rope.freq_base_swa", _BASES[1]), halves=c.rope.halves, scaled=False)
    c = replace(c, local_rope=local)
    number = source.get_int(r.key("classifier.pooling_type"), 1)  # mean, in files without the key
    if number not in _NUMBERS:
        raise source.refuse(r.key("classifier.pooling_type"), "1 (mean), 2 (first)")
    pooling = source.get_str(r.key("classifier.pooling"), _NUMBERS[number])  # in folders
    if pooling not in _POOLINGS:
        raise source.refuse(r.key("classifier.pooling"), ", ".join(_POOLINGS))
    labels = source.get_list(r.key("classifier.output_labels"), None, of=str)
    if labels is not None and len(labels) != 1:
        raise source.refuse(r.key("classifier.output_labels"), "one label")
    sigmoid = source.get_bool(r.key("classifier.sigmoid"), True)
    if not any(name.startswith(f"{_HEAD}.") for name in source.tensors):
        source.used.update(name for name in source.tensors if name.startswith("cls."))  # in a masked language model
        return c
    return replace(
        c,
        scorer=(("cls", c.dim, c.dim), (_HEAD, 1, c.dim)),
        scorer_pooling=_POOLINGS[pooling],
        scorer_norm="cls.norm",
        sigmoid=sigmoid,
    )


def begin(p: Plan, c: Config) -> None:
    p.settle(-1, "token_embd_norm")


def block(p: Plan, c: Config, i: int) -> None:
    attention, rope = c.kind(i)
    qkv = p.qkv(i, p.norm(i, "attn_norm") if i else p.stream(), attention)
    p.rope_append(i, qkv, rope)
    p.add(i, "attn_output", p.attend(i, qkv))
    p.add(i, "ffn_down", p.glu(i, p.norm(i, "ffn_norm"), c.ff, c.act))


# Keys of heads and of training, and names that the model no longer uses.
_UNUSED = (
    "decoder_bias", "deterministic_flash_attn",
    "embedding_dropout", "initializer_cutoff_factor", "layer_norm_eps", "mlp_dropout", "position_embedding_type",
    "reference_compile", "repad_logits_with_grad", "sparse_pred_ignore_index", "sparse_prediction",
)  # fmt: skip


def _derive(c: Settings) -> Mapping[str, Any]:
    for key in _UNUSED:
        c.get_any(key, None)
    if c.get_any("sliding_window", None) is not None:  # in transformers it may set local_attention
        raise c.refuse("sliding_window", "local_attention in its place")
    if c.get_table("rope_scaling", None):  # transformers scales the rotations of both kinds of layer
        raise c.refuse("rope_scaling", "rope_parameters in its place")
    period = c.get_int("global_attn_every_n_layers", _PERIOD, min=1)
    if c.get_str("classifier_activation", "gelu") != "gelu":
        raise c.refuse("classifier_activation", "gelu")
    return {**score_activation(c), "attention.sliding_window_pattern": windows(c, lambda i: i % period != 0)}


_NORMS = ("token_embd_norm", "attn_norm", "ffn_norm", "output_norm", "cls.norm")
FOLDERS = {
    "modernbert": Folder(
        classes=("ModernBertModel", "ModernBertForMaskedLM", "ModernBertForSequenceClassification"),
        keys={
            "hidden_size": "embedding_length",
            "num_hidden_layers": "block_count",
            "intermediate_size": "feed_forward_length",
            "num_attention_heads": "attention.head_count",
            "norm_eps": "attention.layer_norm_epsilon",
            "max_position_embeddings": "context_length",
            "hidden_activation": "hidden_activation",
            "local_attention": "attention.sliding_window",
            "global_rope_theta": "rope.freq_base",
            "local_rope_theta": "rope.freq_base_swa",
            "classifier_pooling": "classifier.pooling",
        },
        defaults={
            "hidden_size": 768,
            "num_hidden_layers": 22,
            "intermediate_size": 1152,
            "num_attention_heads": 12,
            "norm_eps": 1e-5,
            "max_position_embeddings": 8192,
            "hidden_activation": "gelu",
            "local_attention": 128,
            "global_rope_theta": _BASES[0],
            "local_rope_theta": _BASES[1],
            "classifier_pooling": "cls",
        },
        biases={
            "attention_bias": ("attn_qkv", "attn_output"),
            "mlp_bias": ("ffn_up", "ffn_down"),
            "norm_bias": _NORMS,
            "classifier_bias": ("cls",),
        },
        biased=(_HEAD,),
        names={
            "model.embeddings.tok_embeddings": "token_embd",
            "model.embeddings.norm": "token_embd_norm",
            "model.final_norm": "output_norm",
            "attn_norm": "attn_norm",
            "attn.Wqkv": "attn_qkv",
            "attn.Wo": "attn_output",
            "mlp_norm": "ffn_norm",
            "mlp.Wi": "ffn_up",
            "mlp.Wo": "ffn_down",
            "head.dense": "cls",
            "head.norm": "cls.norm",
            "classifier": _HEAD,
        },
        unused=r"head\..+|decoder\..+",
        encoder=True,
        ropes=True,
        derive=_derive,
    )
}
