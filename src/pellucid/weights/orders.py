"""Matrices whose columns GPTQ put in another order (act-order), among the others of their layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from pellucid.weights.base import ModelFile, Tensor
from pellucid.weights.integers import Joined
from pellucid.weights.prequantised import Quantised

__all__ = ["in_order", "orders", "plain"]

# Matrices that read the same rows: their columns must be in the same order.
_TOGETHER = (
    ("attn_q", "attn_k", "attn_v"), ("attn_qkv",), ("attn_output",), ("ffn_gate", "ffn_up"), ("ffn_gate_up",),
    ("ffn_down",),    ("ffn_gate_shexp", "ffn_up_shexp"), ("ffn_down_shexp",),
)  # fmt: skip


def plain(joined: Joined) -> Tensor:
    assert joined.plain is not None
    return joined.plain


def in_order(folder: ModelFile, quantised: Quantised) -> Quantised:
    """The same folder without matrices in another order."""
    for own, joined in quantised.ordered.items():
        folder.tensors[own] = plain(joined)
    return replace(quantised, ordered={})


def orders(found: dict[str, Tensor], ordered: dict[str, Joined]) -> dict[str, Tensor]:
    """The tensors NAME.order of matrices whose columns are in another order. Where matrices that read the same rows
    have different orders, and where no operation expects one, the matrix is decoded to F32 instead."""
    made: dict[str, Tensor] = {}
    for name in [name for name in ordered if name in found]:
        head, _, stem = name.removesuffix(".weight").rpartition(".")
        together = next((names for names in _TOGETHER if stem in names), ())
        beside = [f"{head}.{one}.weight" for one in together if f"{head}.{one}.weight" in found]
        order: Any = ordered[name].order
        others: list[Any] = [ordered[one].order if one in ordered else None for one in beside]
        if others and all(one is not None and np.array_equal(one, order) for one in others):
            made[f"{head}.{stem}.order"] = Tensor(
                found[name].name, "F32", order.shape, order.astype(np.float32).view(np.uint8), 0, ""
            )
        else:
            made[name] = plain(ordered[name])
    return made
