"""Matrices whose columns GPTQ put in another order (act-order), and the other matrices of their layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from pellucid.errors import UnsupportedModelError
from pellucid.weights.base import ModelFile, Tensor
from pellucid.weights.derived import changed, rows_moved
from pellucid.weights.integers import Joined
from pellucid.weights.prequantised import Quantised

__all__ = ["has_inputs_first", "in_order", "moved", "orders", "plain"]

# Matrices that read the same rows, which are reordered once: the order must be the same for all of them.
_TOGETHER = (
    ("attn_q", "attn_k", "attn_v"), ("attn_qkv", "attn_gate"), ("attn_output",), ("ffn_gate", "ffn_up"),
    ("attn_q_a",), ("attn_q_b",), ("ffn_gate_up",), ("ffn_down",), ("ffn_gate_shexp", "ffn_up_shexp"),
    ("ffn_down_shexp",), ("ssm_in",), ("ssm_out",),
)  # fmt: skip
_HINT = "GPTQ, AWQ and AutoRound; else a GGUF file of the model, or quantize= on the original folder"


def plain(joined: Joined) -> Tensor:
    assert joined.plain is not None
    return joined.plain


def in_order(folder: ModelFile, quantised: Quantised) -> Quantised:
    """The same folder, with reordered matrices decoded."""
    for own, joined in quantised.ordered.items():
        folder.tensors[own] = plain(joined)
    return replace(quantised, ordered={})


def moved(t: Tensor, change: Callable[[Any], Any], quantised: Quantised) -> Tensor:
    """A tensor of a folder with its rows and columns changed (`changed`). A matrix of integers stays in its format if
    whole rows move and its columns are in their places; otherwise it becomes F32."""
    floats = quantised.floats.get(t.name)
    if floats is None or t.type == "F32" or (t.name not in quantised.ordered and rows_moved(t, change) is not None):
        return changed(t, change)
    quantised.reasons[t.name] = "a matrix that is split or transposed when it is loaded"
    return changed(floats, change)


def has_inputs_first(t: Tensor, quantised: Quantised) -> bool:
    """Whether a matrix that its model stores transposed is quantised in a layout that defines which side is the input,
    so that it is (rows, k) like others. Raises UnsupportedModelError for integers of compressed-tensors, which does
    not."""
    if t.name not in quantised.names - quantised.widened:
        return False
    if quantised.method == "compressed-tensors":
        module = t.name.removesuffix(".weight")
        raise UnsupportedModelError(
            feature=f"quantization_config.quant_method compressed-tensors for {module}, which this model transposes,",
            supported=_HINT,
        )
    return True


def orders(found: dict[str, Tensor], ordered: dict[str, Joined]) -> dict[str, Tensor]:
    """The tensors NAME.order of matrices whose columns are in another order. If matrices that read the same rows have
    different orders, or no operation supports one, the matrix is decoded to F32 instead."""
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
