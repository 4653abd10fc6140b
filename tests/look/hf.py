"""Intermediate results of transformers (extra `reference`), with the names and shapes of a trace."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

QUANTITIES = ("hidden", "q", "k", "v", "attention", "attention_out", "mlp_out", "neurons", "head_out")


def observe(model: Any, ids: Sequence[int]) -> dict[str, npt.NDArray[Any]]:
    """One sequence through a transformers model with eager attention, in the model's own precision."""
    layers, seen = model.model.layers, []
    gemma = hasattr(layers[0], "pre_feedforward_layernorm")
    found: dict[str, list[Any]] = {name: [] for name in (*QUANTITIES, "mixed")}
    module: Any = importlib.import_module(type(layers[0]).__module__)
    eager = module.eager_attention_forward

    def record_attention(attention: Any, q: Any, k: Any, v: Any, *args: Any, **options: Any) -> Any:
        out, weights = eager(attention, q, k, v, *args, **options)
        for name, value in (("q", q), ("k", k), ("v", v), ("attention", weights)):
            found[name].append(value[0])
        return out, weights

    def keep(name: str, what: str = "output") -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            value = inputs[0] if what == "input" else output
            found[name].append((value[0] if isinstance(value, tuple) else value)[0])

        return hook

    seen.append(model.model.embed_tokens.register_forward_hook(keep("hidden")))
    for layer in layers:
        adds_attention = layer.post_attention_layernorm if gemma else layer.self_attn
        adds_mlp = layer.post_feedforward_layernorm if gemma else layer.mlp
        seen.append(layer.register_forward_hook(keep("hidden")))
        seen.append(adds_attention.register_forward_hook(keep("attention_out")))
        seen.append(adds_mlp.register_forward_hook(keep("mlp_out")))
        seen.append(layer.mlp.down_proj.register_forward_hook(keep("neurons", "input")))
        seen.append(layer.self_attn.o_proj.register_forward_hook(keep("mixed", "input")))
    model.set_attn_implementation("eager")
    module.eager_attention_forward = record_attention
    try:
        with torch.inference_mode():
            logits = model(torch.as_tensor(np.array(ids, np.int64))[None], use_cache=False).logits[0]
            for i, layer in enumerate(layers):
                found["head_out"].append(_head_parts(layer, gemma, found["mixed"][i]))
    finally:
        module.eager_attention_forward = eager
        for handle in seen:
            handle.remove()
    del found["mixed"]
    out = {name: torch.stack(values).numpy() for name, values in found.items()}
    return {**out, "logits": logits.numpy()}


def _head_parts(layer: Any, gemma: bool, mixed: Any) -> Any:
    """(heads, n, d): each head's columns of W_o; times the post-norm's weight and the scale of the whole."""
    w = layer.self_attn.o_proj.weight
    d = layer.self_attn.head_dim
    parts = torch.stack([mixed[:, h : h + d] @ w[:, h : h + d].T for h in range(0, mixed.shape[-1], d)])
    if gemma:
        norm = layer.post_attention_layernorm
        whole = parts.sum(0)
        parts = parts * (1 + norm.weight) / torch.sqrt((whole * whole).mean(-1, keepdim=True) + norm.eps)
    return parts
