"""Which tensor gets which format: the mixtures that names of GGUF files refer to ("Q4_K_M").

A mixture has a main format, and more bits for values and down projections of some layers and for the head. The rules
are those of llama.cpp's quantiser, so that a name means the same everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from pellucid._parsers import TENSOR_TYPES

__all__ = ["MIXTURES", "Recipe", "fits", "quantises"]

# Name -> (number in general.file_type, main format).
MIXTURES = {
    "F32": (0, "F32"), "F16": (1, "F16"), "BF16": (32, "BF16"), "Q4_0": (2, "Q4_0"), "Q4_1": (3, "Q4_1"),
    "Q5_0": (8, "Q5_0"), "Q5_1": (9, "Q5_1"), "Q8_0": (7, "Q8_0"), "Q2_K": (10, "Q2_K"), "Q2_K_S": (21, "Q2_K"),
    "Q3_K_S": (11, "Q3_K"), "Q3_K_M": (12, "Q3_K"), "Q3_K_L": (13, "Q3_K"), "Q4_K_S": (14, "Q4_K"),
    "Q4_K_M": (15, "Q4_K"), "Q5_K_S": (16, "Q5_K"), "Q5_K_M": (17, "Q5_K"), "Q6_K": (18, "Q6_K"),
    "IQ4_NL": (25, "IQ4_NL"), "IQ4_XS": (30, "IQ4_XS"), "MXFP4": (38, "MXFP4"), "MXFP4_MOE": (38, "MXFP4"),
}  # fmt: skip
FLOATS = ("F32", "F16", "BF16")
_BLOCK = {name: block for name, block, _ in TENSOR_TYPES.values()}
# The replacement for a format whose block does not divide a row.
_INSTEAD = {
    "Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL",
}  # fmt: skip
# Small matrices that are left in their format: routers, convolutions, positions, and a few of single architectures.
_KEPT = re.compile(
    r"_norm\.weight$|ffn_gate_inp|ffn_gate_tid2eid|altup|laurel|per_layer_model_proj|^position_embd|^token_types"
    r"|ssm_conv1d|shortconv\.conv|indexer\.[kq]_proj|time_mix_(first|[wvag]\d|decay_w\d|lerp_fused)|attn_rel_b"
    r"|\.position_embd|\.rel_pos|\.patch_embd|\.patch_merger"
)
_LAYER = re.compile(r"blk\.(\d+)\.")
_VALUES, _DOWN = re.compile(r"attn_(v|qkv|kv_b)\.weight"), re.compile("ffn_down")


def quantises(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor of this name is a matrix that mixtures convert."""
    return len(shape) >= 2 and name.endswith("weight") and not _KEPT.search(name)


def fits(format: str, k: int) -> str:
    """The format, or its replacement if its blocks do not divide rows of k weights."""
    if k % _BLOCK[format]:
        format = _INSTEAD.get(format, "F16")
    return "F16" if k % _BLOCK[format] else format


@dataclass(frozen=True)
class Recipe:
    """A mixture for one model. ``tensors``: names -> shapes. ``groups``: query heads per key-value head in the first
    layer; 0 if that has none."""

    mixture: str
    tensors: Mapping[str, tuple[int, ...]]
    architecture: str = ""
    layers: int = 0
    groups: int = 1
    experts: int = 0
    has_importances: bool = False

    def format(self, name: str) -> str | None:
        """The new format of a tensor; None: unchanged."""
        shape = self.tensors[name]
        if not quantises(name, shape):
            return None
        main = MIXTURES[self.mixture][1]
        if main in FLOATS:
            return main
        return fits(self._format(name, shape, main), shape[-1])

    def _format(self, name: str, shape: tuple[int, ...], main: str) -> str:
        m = self.mixture
        tied = "output.weight" not in self.tensors
        embedding = name in ("token_embd.weight", "per_layer_token_embd.weight")
        if name == "output.weight" or (tied and embedding):
            if m.startswith("MXFP4") or self.architecture == "falcon" or shape[-1] % _BLOCK[main]:
                return "Q8_0"
            return main if main == "Q8_0" else "Q6_K"
        if m == "MXFP4_MOE":
            return "MXFP4" if "_exps." in name else "Q8_0"
        n, (values, downs) = max(self.layers, 1), self._places
        if name in values:
            found = self._values(m, values[name], len(values), main)
            if self.architecture in ("llama", "qwen2") and n == 80 and self.groups > 1 and found in ("Q3_K", "Q4_K"):
                found = "Q5_K"  # the published rule for 70B models: their values are an eighth of the queries
            return "Q8_0" if self.experts == 8 else found
        if "attn_k.weight" in name and self.experts == 8:
            return "Q8_0"
        if name in downs:
            return self._down(m, _layer(name) if self.experts > 1 else downs[name], n, main)
        if "attn_output.weight" in name and self.architecture == "falcon":
            return "Q4_K" if m == "Q3_K_L" else main
        if "attn_output.weight" in name:
            if self.experts == 8:
                low = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_NL", "IQ4_XS")
                return "Q5_K" if m in low else main
            return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}.get(m, main)
        return main

    @cached_property
    def _places(self) -> tuple[dict[str, int], dict[str, int]]:
        """Values and down projections -> their positions among their kind; not every layer of a hybrid model has
        one."""
        names = [name for name, shape in self.tensors.items() if quantises(name, shape)]
        names.sort(key=lambda name: (_layer(name), name))
        values, downs = ([name for name in names if kind.search(name)] for kind in (_VALUES, _DOWN))
        return {name: i for i, name in enumerate(values)}, {name: i for i, name in enumerate(downs)}

    def _values(self, m: str, i: int, n: int, main: str) -> str:
        if m == "Q2_K":
            return "Q4_K" if self.groups >= 4 else "Q3_K"
        if m == "Q2_K_S" and self.groups >= 4:
            return "Q4_K"
        if m == "Q3_K_M":
            return "Q5_K" if i < 2 else "Q4_K"
        if m == "Q3_K_L" or (m in ("IQ4_NL", "IQ4_XS") and self.groups >= 4) or (m == "Q4_K_S" and i < 4):
            return "Q5_K"
        return "Q6_K" if m in ("Q4_K_M", "Q5_K_M") and _more_bits(i, n) else main

    def _down(self, m: str, i: int, n: int, main: str) -> str:
        early = i < n // 8
        if self.architecture == "falcon" and m in ("Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M"):
            return _down_of_falcon(m, i, n, main)
        if m == "Q2_K":
            return "Q3_K"
        if m == "Q2_K_S" and early:
            return "Q4_K"
        if m == "Q3_K_M":
            return "Q5_K" if i < n // 16 else "Q4_K"
        if m == "Q3_K_L" or (m == "Q4_K_S" and early):
            return "Q5_K"
        if m in ("IQ4_NL", "IQ4_XS") and early and not self.has_importances:
            return "Q5_K"
        if m in ("Q4_0", "Q5_0") and early and self.has_importances:
            return {"Q4_0": "Q4_1", "Q5_0": "Q5_1"}[m]
        return "Q6_K" if m in ("Q4_K_M", "Q5_K_M") and _more_bits(i, n) else main


def _down_of_falcon(m: str, i: int, n: int, main: str) -> str:
    """Its down projections get fewer bits than others'."""
    if m == "Q3_K_L":
        return "Q4_K"
    if m == "Q4_K_S" or not _more_bits(i, n):
        return "Q5_K" if m == "Q3_K_M" and i < n // 16 else main
    most, more = ("Q5_K", "Q4_K") if m == "Q3_K_M" else ("Q6_K", "Q5_K")
    return most if i < n // 16 else more


def _layer(name: str) -> int:
    match = _LAYER.match(name)
    return int(match[1]) if match else 0


def _more_bits(i: int, n: int) -> bool:
    """Layers that mixtures "M" give more bits: the first and last eighth, and every third between."""
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2
