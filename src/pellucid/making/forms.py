"""Tensors in the form of GGUF files, if it differs from that of folders; and importances of their columns.

A new form is a tensor whose bytes are computed when they are read, all together. The rules are those of llama.cpp's
converters (conversion/*.py): recurrent layers hold A = -exp(A_log), value heads of Qwen3.5 are in another order,
Falcon-H1's multipliers are in its weights, gate and up are two matrices.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid.arch import Config
from pellucid.errors import UnsupportedModelError
from pellucid.parts import Made, floats
from pellucid.weights.base import Tensor
from pellucid.weights.importance import Importance
from pellucid.weights.quantise import parts
from pellucid.weights.recipes import FLOATS
from pellucid.weights.writer import tensor_bytes

__all__ = ["gguf_importances", "gguf_tensors"]

Order = npt.NDArray[np.int64]
_LAYER = re.compile(r"(blk\.(\d+)\.)?(.+)")
_LATENT = re.compile(r"attn_(q|q_b|kv_a_mqa)\.(weight|bias)")
_ROTATED = re.compile(r"attn_(q|k)\.(weight|bias)")
_MAMBA = ("mamba2", "falcon-h1", "granitehybrid", "nemotron_h")
_TILED = ("qwen35", "qwen35moe")  # converters reorder their value heads
_IN_ONE = ("minicpm3",)  # files have keys and values of latent rows in one tensor, as folders do
_FUSED = ("gemma4", "granite_swa", "mistral4")  # files have gate and up of experts in one tensor, as folders do


def gguf_tensors(tensors: dict[str, Tensor], c: Config, halves: bool) -> dict[str, Tensor]:
    """A folder's tensors under GGUF's names -> those of a GGUF file. halves: the folder's rotary pairs are (i, i +
    n/2).

    Raises UnsupportedModelError for queries and keys whose rows cannot be converted to the file's order.
    """
    forms = _Forms(c, halves)
    if c.architecture == "falcon-h1" and (c.embed_scale, c.logit_scale) != (1.0, 1.0):
        tensors = {"output.weight": tensors["token_embd.weight"], **tensors}  # the copy gets its own multiplier
    if c.architecture in _IN_ONE:
        tensors = _keys_and_values(tensors)
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _LAYER.fullmatch(name)
        assert match is not None
        if match[2] is not None and int(match[2]) >= c.layers:  # layers for multi-token prediction, which do not run
            continue
        if not c.scorer and re.match(r"(cls|pooler)\.", name):  # of a head that does not run
            continue
        for stem, made in forms.of(match[3], tensor, tensors):
            new = (match[1] or "") + stem
            found[new] = made._replace(name=new)
    return found


def gguf_importances(importances: Mapping[str, Importance], c: Config) -> dict[str, Importance]:
    """Importances of a folder's matrices, under GGUF's names -> those of the file's matrices, with the columns in the
    file's order. A matrix that is split gives each part a copy: they read the same input."""
    forms = _Forms(c, halves=True)
    found: dict[str, Importance] = {}
    for name, importance in importances.items():
        match = _LAYER.fullmatch(name)
        assert match is not None
        order = forms.columns(match[3])
        if order is not None:
            importance = importance._replace(sums=importance.sums[:, order])
        if c.architecture in _IN_ONE and match[3] == "attn_v_b.weight":
            importance = Importance(*(x.sum(axis=0, keepdims=True) for x in importance))
        for stem in forms.names(match[3], importances):
            found[(match[1] or "") + stem] = importance
    return found


# ---- forms ----------------------------------------------------------------------------------------------------


def _lazy(tensor: Tensor, shape: Sequence[int], type: str, make: Callable[[], Any], size: int | None = None) -> Tensor:
    """size: in bytes, for types that GGUF does not have."""
    size = tensor_bytes(type, shape) if size is None else size
    data = Made(lambda first, end: np.ascontiguousarray(make()).reshape(-1).view(np.uint8), max(size, 1), size)
    return tensor._replace(shape=tuple(shape), type=type, data=data)


def _rows(tensor: Tensor, order: Order, shape: Sequence[int] | None = None) -> Tensor:
    """The tensor with its rows, or those of its consecutive matrices, in another order, or with some of them."""
    count = int(np.prod(tensor.shape[:-1])) if len(tensor.shape) > 1 else tensor.shape[0]

    def make() -> Any:
        return tensor.data.view(np.uint8).reshape(count, -1)[order]

    shape = tensor.shape if shape is None else shape
    rows = int(np.prod(shape[:-1])) if len(shape) > 1 else shape[0]
    return _lazy(tensor, shape, tensor.type, make, tensor.data.size // max(count, 1) * rows)


def _shaped(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    return tensor._replace(shape=tuple(shape))


def _values(tensor: Tensor, change: Callable[[Any], Any]) -> Tensor:
    """The tensor with other values, of the same shape, in float32."""

    def make() -> Any:
        return np.asarray(change(_decoded(tensor)), np.float32)

    return _lazy(tensor, tensor.shape, "F32", make)


def _decoded(tensor: Tensor) -> Any:
    if tensor.type in FLOATS:
        return floats(tensor)
    return np.concatenate([*parts(tensor, "F32", None, 1)]).view(np.float32).reshape(tensor.shape)


def _times(tensor: Tensor, factors: Any) -> Tensor:
    """The tensor times a factor, or one for each row."""
    factors = np.asarray(factors, np.float32)
    if (factors == 1.0).all():
        return tensor
    return _values(tensor, lambda x: x * factors.reshape(factors.shape + (1,) * (x.ndim - factors.ndim)))


def _cut(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """The two halves of the rows of a matrix, or of each in a stack."""
    *stack, rows, k = tensor.shape
    numbers = np.arange(int(np.prod(stack, dtype=np.int64)) * rows).reshape(-1, 2, rows // 2)
    shape = (*stack, rows // 2, k)
    first, second = (_rows(tensor, numbers[:, half].reshape(-1), shape) for half in (0, 1))
    return first, second


def _keys_and_values(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with keys, transposed, and values of each layer in one, the rows of a head one after another; in
    float32, if they are quantised."""
    found = dict(tensors)
    for name in [name for name in tensors if name.endswith(".attn_k_b.weight")]:
        keys, values = found.pop(name), found.pop(name.replace("_k_b", "_v_b"))
        heads, rank, nope = keys.shape
        shape = (heads * (nope + values.shape[1]), rank)
        kind = values.type if values.type == keys.type and values.type in FLOATS else "F32"

        def make(kind: str = kind, keys: Tensor = keys, values: Tensor = values) -> Any:
            k, v = (_decoded(t) if kind == "F32" else t.data.view(np.uint16).reshape(t.shape) for t in (keys, values))
            return np.concatenate([k.swapaxes(1, 2), v], axis=1)

        found[name.replace("_k_b", "_kv_b")] = _lazy(values, shape, kind, make)
    return found


@dataclass(frozen=True)
class _Forms:
    """The conversion of each tensor of a model."""

    c: Config
    halves: bool

    def names(self, stem: str, tensors: Container[str]) -> tuple[str, ...]:
        """The names, without the layer, of the tensors that a matrix is converted to. tensors: the folder's, or all of
        its matrices."""
        arch, end = self.c.architecture, stem.rpartition(".")[2]
        if arch in _IN_ONE and stem in ("attn_k_b.weight", "attn_v_b.weight"):  # columns of keys are rows of the file's
            return ("attn_kv_b.weight",) if stem == "attn_v_b.weight" else ()
        if arch == "qwen3next" and stem == "ssm_in.weight":
            return "attn_qkv.weight", "attn_gate.weight"
        if arch in _FUSED:
            return (stem,)
        if stem.startswith("ffn_gate_up_exps."):
            return f"ffn_gate_exps.{end}", f"ffn_up_exps.{end}"
        if arch.startswith("granite"):  # without experts, its feed-forward network is the shared one
            which = "_shexp" if self.c.experts is not None else ""
            if stem == "ffn_down.weight":
                return (f"ffn_down{which}.weight",)
            gate = stem.replace("_up", "_gate")
            if stem in ("ffn_up.weight", "ffn_up_shexp.weight") and f"blk.0.{gate}" not in tensors:
                return f"ffn_gate{which}.weight", f"ffn_up{which}.weight"
        return (stem,)

    def columns(self, stem: str) -> Order | None:
        """The new order of a matrix's columns; None: as in the folder."""
        if self.tiles and stem == "ssm_out.weight":
            return self.heads(self.c.memory.dv)
        return None

    def of(self, stem: str, t: Tensor, tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """The tensors that a tensor is converted to, by their names without the layer. stem: its own name."""
        c, r = self.c, self.c.memory
        arch = c.architecture
        if arch == "falcon-h1":
            t = self.multiplied(stem, t)
            if stem == "ffn_norm.weight":
                stem = "ffn_norm"  # as in its files
        if arch == "bert":
            stem = stem.replace("pooler.", "cls.")  # both are a layer with tanh before the last one
            if stem == "position_embd.weight" and c.first_position:
                rows = np.arange(c.first_position, t.shape[0])
                t = _rows(t, rows, (len(rows), t.shape[1]))
        if stem == "ssm_a_log":
            stem, t = "ssm_a", _values(t, lambda x: -np.exp(x))
        if arch in _MAMBA:
            if stem in ("ssm_a", "ssm_d"):
                t = _shaped(t, (r.n_v, 1))
            elif stem == "ssm_norm.weight":
                t = _shaped(t, (r.n_k, r.n_v * r.dv // r.n_k))
        if arch == "kimi-linear" and re.fullmatch(r"ssm_conv1d_[qkv]\.weight", stem):
            t = _shaped(t, (1, t.shape[0], 1, t.shape[-1]))
        if stem in ("ssm_conv1d.weight", "shortconv.conv.weight") and len(t.shape) == 3:
            t = _shaped(t, (t.shape[0], t.shape[2]))
        elif stem == "ffn_gate_inp_shexp.weight":
            t = _shaped(t, t.shape[-1:])
        if self.tiles:
            t = self.tiled(stem, t)
        order = self.order(stem, t)
        if order is not None:
            t = _rows(t, order)
        names = self.names(stem, tensors)
        if len(names) == 1:
            parts: tuple[Tensor, ...] = (t,)
        elif stem == "ssm_in.weight":
            parts = self.by_kind(t)
        elif stem.endswith(".bias"):
            parts = tuple(_shaped(half, half.shape[:-1]) for half in _cut(_shaped(t, (*t.shape, 1))))
        else:
            parts = _cut(t)
        yield from zip(names, parts, strict=True)

    def by_kind(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Qwen3-Next's ssm_in, which has queries, keys, values and gates grouped by key head."""
        r = self.c.memory
        each = r.n_v // r.n_k * r.dv
        parts = np.split(np.arange(t.shape[0]).reshape(r.n_k, -1), np.cumsum([r.dk, r.dk, each]), axis=1)
        queries, keys, values, gates = (part.reshape(-1) for part in parts)
        qkv = np.concatenate([queries, keys, values])
        return _rows(t, qkv, (len(qkv), t.shape[1])), _rows(t, gates, (len(gates), t.shape[1]))

    @property
    def tiles(self) -> bool:
        """Whether value heads are reordered."""
        return self.c.architecture in _TILED and self.c.memory.n_v != self.c.memory.n_k

    def heads(self, width: int, first: int = 0) -> Order:
        """Value heads of `width` rows or columns, after `first` others, in the order of `tiled`."""
        r = self.c.memory
        n = np.arange(r.n_v * width).reshape(r.n_k, r.n_v // r.n_k, width).swapaxes(0, 1).reshape(-1)
        return np.concatenate([np.arange(first), first + n])

    def tiled(self, stem: str, t: Tensor) -> Tensor:
        """The tensor with its value heads in the order (index within the key head, key head)."""
        r, name = self.c.memory, stem.partition(".")[0]
        if name in ("ssm_a", "ssm_dt", "ssm_alpha", "ssm_beta"):
            return _rows(t, self.heads(1))
        if name == "attn_gate":
            return _rows(t, self.heads(r.dv))
        if name in ("attn_qkv", "ssm_conv1d") and t.shape[0] == r.channels:
            return _rows(t, self.heads(r.dv, 2 * r.n_k * r.dk))
        columns = self.columns(stem)
        return t if columns is None else _values(t, lambda x: x[:, columns])

    def multiplied(self, stem: str, t: Tensor) -> Tensor:
        """Falcon-H1's tensors times the multipliers of their parts."""
        c, r, m = self.c, self.c.memory, self.c.multipliers
        name, _, end = stem.rpartition(".")
        weight = end == "weight"
        by = m["attention_in"][0] if weight else 1.0  # of the input of a matrix; it does not apply to the bias
        if name == "ssm_in":
            inner, keys = r.n_v * r.dv, r.n_k * r.dk
            factors = np.repeat(np.asarray(m["ssm"], np.float32), [inner, inner, keys, keys, r.n_v])
            return _times(t, factors * np.float32(m["ssm_in"][0] if weight else 1.0))
        factor = {
            "attn_q": by,
            "attn_k": by * m["key"][0],
            "attn_v": by,
            "attn_output": m["attention_out"][0],
            "ssm_out": m["ssm_out"][0],
            "ffn_gate": m["mlp"][0],
            "ffn_down": m["mlp"][1],
            "token_embd": c.embed_scale,
            "output": c.logit_scale,
        }.get(name, 1.0)
        return _times(t, factor)

    def order(self, stem: str, t: Tensor) -> Order | None:
        """The order of the rows of queries and keys: if GGUF files of an architecture rotate adjacent rows, and folders
        the two halves of a head, rows i of the first and the second half are placed side by side."""
        c = self.c
        if c.rope.halves == self.halves or not c.rope.freq:
            return None
        if not self.halves:
            raise UnsupportedModelError(feature=f"a folder of {c.architecture} whose rotary pairs are adjacent")
        if re.search(r"attn_(qkv|[qk]_norm)\.", stem):
            raise UnsupportedModelError(feature=f"converting {t.name} of {c.architecture}")
        n = 2 * len(c.rope.freq)
        latent, match = _LATENT.fullmatch(stem), _ROTATED.fullmatch(stem)
        rows: Any = np.arange(t.shape[0])
        if c.latent is not None:
            if latent is None:
                return None
            rows = rows.reshape(1 if latent[1] == "kv_a_mqa" else c.latent.heads, -1)
            rows[:, -n:] = rows[:, -n:].reshape(-1, 2, n // 2).swapaxes(1, 2).reshape(-1, n)  # the last rows
        elif match is None:
            return None
        else:
            heads = c.attention.n_q if match[1] == "q" else c.attention.n_kv
            rows = rows.reshape(heads, -1)
            rows[:, :n] = rows[:, :n].reshape(heads, 2, n // 2).swapaxes(1, 2).reshape(heads, n)
        found: Order = rows.reshape(-1)
        return found
