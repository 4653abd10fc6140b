"""BERT and XLM-R: encoders with learned positions and a LayerNorm after each half (Devlin et al. 2018, Conneau et al.
2019); also MiniLM, mxbai-embed, bge and multilingual-e5, and rerankers with a classifier of two texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid.arch.config import Config, Reader, Source
from pellucid.folder import Folder, Settings, score_activation
from pellucid.plan import Plan

_HEAD = "cls.output"


class _Reader(Reader):
    scores = True


def config(source: Source) -> Config:
    r = _Reader(source)
    c = r.base(halves=True, act="gelu", causal=False, norms="layer", rotates=False)
    first = source.get_int(r.key("first_position"), 0, min=0, max=c.context - 1)  # in folders of XLM-R
    c = replace(c, context=c.context - first, first_position=first, final_norm=last_norm(c))
    c = replace(c, padding=_padding(source, first))
    c = replace(c, typed=has_types(source))
    pooler = source.get_str(r.key("classifier.pooler"), "cls")  # in folders of BERT
    sigmoid = source.get_bool(r.key("classifier.sigmoid"), True)
    labels = source.get_list(r.key("classifier.output_labels"), None, of=str)
    if labels is not None and len(labels) != 1:
        raise source.refuse(r.key("classifier.output_labels"), "one label")
    if not any(name.startswith("cls.") for name in source.tensors) and not r.ranks():
        source.used.update({"pooler.weight", "pooler.bias"})  # in a folder; embedding does not use them
        return c
    rows = source.tensors.get("token_types.weight")
    several = rows is not None and len(rows.shape) == 2 and rows.shape[0] > 1
    layers = ((pooler, c.dim, c.dim), (_HEAD, 1, c.dim))
    return replace(c, scorer=layers, sigmoid=sigmoid, second_type=c.context if several else 0)


def _padding(source: Source, first: int) -> int | None:
    """For XLM-R and RoBERTa, whose positions begin after that of padding. GGUF files lack the rows before; there, the
    tokenizer's kind decides."""
    if first or source.get_str("tokenizer.ggml.model", None) not in ("t5", "gpt2"):
        return first - 1 if first else None
    found: int | None = source.get_int("tokenizer.ggml.padding_token_id", None, min=0)
    return found


def has_types(source: Source) -> bool:
    """Whether tokens have types. Files of DistilBERT, where they do not, give their number as 1 and have no table.
    Raises ModelFileError if the file's number of token types differs from that of its table."""
    rows = source.tensors.get("token_types.weight")
    if rows is None or len(rows.shape) != 2:
        return rows is not None or source.get_int("tokenizer.ggml.token_type_count", 0, min=0) != 1
    for key, least in ((f"{source.architecture}.token_types", 1), ("tokenizer.ggml.token_type_count", 0)):
        said = source.get_int(key, 0, min=least)
        if said not in (0, rows.shape[0]):
            raise source.fail(key, f"it is {said}", f"{rows.shape[0]}, the rows of {source.own_name(rows.name)}")
    return True


def token_type(p: Plan, c: Config, i: int = 0) -> npt.NDArray[np.float32]:
    """The embedding of a token type (1, dim): of the first, used for all tokens, or of the type of a second text."""
    rows = p.tensors.get("token_types.weight")
    return p.table("token_types", 1 if rows is None else rows.shape[0], c.dim)[i : i + 1]


def last_norm(c: Config) -> str:
    """For an encoder whose norms follow its halves: the norm before the head."""
    return f"blk.{c.layers - 1}.layer_output_norm"


def begin(p: Plan, c: Config) -> None:
    rows = p.table("position_embd", c.first_position + c.context, c.dim)[c.first_position :]
    if c.typed:
        rows = np.concatenate([rows + token_type(p, c, i) for i in range(2 if c.second_type else 1)])
    p.positions("position_embd", rows)
    p.settle(-1, "token_embd_norm")


def block(p: Plan, c: Config, i: int) -> None:
    qkv = p.qkv(i, p.stream(), c.attention)
    p.rope_append(i, qkv, None)
    p.add(i, "attn_output", p.attend(i, qkv))
    h = p.settle(i, "attn_output_norm")
    p.add(i, "ffn_down", p.mlp(i, h, c.ff, c.act))
    if i + 1 < c.layers:
        p.settle(i, "layer_output_norm")


SIZES = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "layer_norm_eps": "attention.layer_norm_epsilon",
    "max_position_embeddings": "context_length",
    "hidden_act": "hidden_activation",
    "type_vocab_size": "token_types",
}
_NORMS = ("token_embd_norm", "attn_output_norm", "layer_output_norm")
_LINEARS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down")


def _derive(c: Settings) -> Mapping[str, Any]:
    if c.get_str("position_embedding_type", "absolute") != "absolute":
        raise c.refuse("position_embedding_type", "absolute")
    for key in ("is_decoder", "add_cross_attention"):
        if c.get_bool(key, False):
            raise c.refuse(key, "false")
    return score_activation(c)


def _before_head(c: Settings) -> Mapping[str, Any]:
    return {**_derive(c), "classifier.pooler": "pooler"}


def _after_padding(c: Settings) -> Mapping[str, Any]:
    """Positions begin after that of padding."""
    return {**_derive(c), "first_position": c.get_int("pad_token_id", min=0, max=1 << 20) + 1}


def _folder(base: str, name: str, unused: str, first: bool) -> Folder:
    """first: positions begin after that of padding, and the classifier has an additional layer before its last."""
    head = {f"{base}.pooler.dense": "pooler"}
    head |= {"classifier.dense": "cls", "classifier.out_proj": _HEAD} if first else {"classifier": _HEAD}
    return Folder(
        classes=(f"{name}Model", f"{name}ForMaskedLM", f"{name}ForSequenceClassification"),
        keys=SIZES,
        defaults={
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "layer_norm_eps": 1e-12,
            "max_position_embeddings": 512,
            "hidden_act": "gelu",
            "type_vocab_size": 2,
            "pad_token_id": 1 if first else 0,
        },
        biased=(*_NORMS, *_LINEARS, "pooler", "cls", _HEAD),
        names={
            f"{base}.embeddings.word_embeddings": "token_embd",
            f"{base}.embeddings.position_embeddings": "position_embd",
            f"{base}.embeddings.token_type_embeddings": "token_types",
            f"{base}.embeddings.LayerNorm": "token_embd_norm",
            "attention.self.query": "attn_q",
            "attention.self.key": "attn_k",
            "attention.self.value": "attn_v",
            "attention.output.dense": "attn_output",
            "attention.output.LayerNorm": "attn_output_norm",
            "intermediate.dense": "ffn_up",
            "output.dense": "ffn_down",
            "output.LayerNorm": "layer_output_norm",
            **head,
        },
        base=f"{base}.",
        layers=f"{base}.encoder.layer",
        unused=unused,
        encoder=True,
        derive=_after_padding if first else _before_head,
    )


FOLDERS = {
    "bert": _folder("bert", "Bert", r"cls\..+", first=False),
    "roberta": _folder("roberta", "Roberta", r"lm_head\..+", first=True),
    "xlm-roberta": _folder("roberta", "XLMRoberta", r"lm_head\..+", first=True),
}
