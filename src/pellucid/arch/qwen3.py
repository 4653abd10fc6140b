"""Qwen3: Llama with RMS-normalised query and key heads (Qwen Team 2025)."""

from __future__ import annotations

from dataclasses import replace

from pellucid.arch.config import Config, Reader, Source
from pellucid.arch.mixture import feed_forward
from pellucid.folder import QKVO, Folder, later_windows
from pellucid.plan import Plan

_HEAD = "cls.output"
_LABELS = ["yes", "no"]


class _Reader(Reader):
    scores = True


def config(source: Source) -> Config:
    r = _Reader(source)
    c = r.base(halves=True)
    labels = source.get_list(r.key("classifier.output_labels"), None, of=str)
    if f"{_HEAD}.weight" not in source.tensors and labels is None and not r.ranks():
        return c
    # Qwen3-Reranker, of whose head, if it is not the embedding, converters keep only the rows of its two answers.
    if labels != _LABELS:
        raise source.refuse(r.key("classifier.output_labels"), ", ".join(_LABELS))
    return replace(c, headless=True, scorer=((_HEAD, 2, c.dim),), scorer_pooling="last")


def block(p: Plan, c: Config, i: int) -> None:
    attention, rope = c.kind(i)
    qkv = p.qkv(i, p.norm(i, "attn_norm"), attention)
    p.head_norm(i, qkv)
    p.rope_append(i, qkv, rope)
    p.add(i, "attn_output", p.attend(i, qkv))
    feed_forward(p, c, i)


FOLDERS = {
    "qwen3": Folder(
        classes=("Qwen3ForCausalLM", "Qwen3Model"),
        sizes={
            "hidden_size": 4096,
            "intermediate_size": 22016,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
        },
        defaults={
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32768,
            "hidden_act": "silu",
            "num_key_value_heads": 32,
            "head_dim": 128,
            "sliding_window": 4096,
            "max_window_layers": 28,
        },
        biases={"attention_bias": QKVO},
        derive=later_windows,
    )
}
