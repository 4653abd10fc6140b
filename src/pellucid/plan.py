"""A plan: the flat list of operations that one forward pass runs.

An architecture's file (arch/) writes it once per model with the methods of :class:`Plan`; `_engine` passes it to C,
which validates it. Buffers are (rows, dim) float32; operations refer to them by number. The tables here mirror those of
csrc/ops/op.h field by field; the kinds of operation come from csrc/ops/table.c.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pellucid._engine import ACTIVATIONS as ACTIVATIONS
from pellucid._engine import NORMS
from pellucid._engine import Kind as Kind
from pellucid.errors import ModelFileError, UnsupportedModelError

EVERYWHERE = 2**31 - 1  # pos_to of an operation that applies to every position


class Bytes(Protocol):
    """Bytes in memory (a NumPy array), or still in a file (weights.base.FileBytes)."""

    @property
    def size(self) -> int: ...
    def view(self, dtype: Any, /) -> npt.NDArray[Any]: ...
    def __getitem__(self, part: slice, /) -> Bytes: ...


class TensorLike(Protocol):
    """A tensor of a model file, in the file's format (weights.Tensor)."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def data(self) -> Bytes: ...
    @property
    def offset(self) -> int: ...
    @property
    def file(self) -> str: ...


@dataclass(slots=True)
class Op:
    """One operation, with the fields of its C struct. Numbers are indices into the plan's lists; -1: none."""

    kind: Kind
    layer: int
    name: str
    inp: int = -1
    out: int = -1
    tmp: int = -1
    seg: int = 0
    n_seg: int = 0
    vec: int = -1
    vec2: int = -1
    cache: int = -1
    cache_layer: int = -1
    rope: int = -1
    act: int = 0
    norm: int = 0
    eps: float = 0.0
    scale: float = 1.0
    cap: float = 0.0
    column: int = 0
    width: int = 0
    pos_from: int = 0
    pos_to: int = 0
    each: int = 0


class Buffer(NamedTuple):
    name: str
    dim: int


class Segment(NamedTuple):
    """One matrix of an operation; its output begins at `column`. terms: the least number of int8 terms of the
    activations that a quantised matrix is multiplied by; two are nearly exact."""

    matrix: int
    column: int
    bias: int
    terms: int = 1


class Matrix(NamedTuple):
    """(rows, k), in the file's format. plain: it stays in that format instead of being packed (an untied embedding)."""

    name: str
    type: str
    rows: int
    k: int
    data: Bytes
    plain: bool


class Part(NamedTuple):
    """Part of a tensor that several matrices share: `name` has `rows` rows, the part begins at row `first`."""

    name: str
    first: int
    rows: int


class Vector(NamedTuple):
    name: str
    data: npt.NDArray[np.float32]


class Rope(NamedTuple):
    """Rotary positions (Su et al. 2021): at position p, pair i is rotated by p * freq[i] radians. halves: pairs are
    (i, i + n/2), else (2i, 2i + 1)."""

    freq: tuple[float, ...]
    halves: bool


@dataclass(frozen=True, slots=True)
class Attention:
    """The heads of a layer: n_q query heads and n_kv key-value heads, dk and dv wide. window: how many tokens a row
    sees, itself included; 0: all."""

    n_q: int
    n_kv: int
    dk: int
    dv: int
    window: int = 0
    scale: float = 0.0  # multiplies the scores; 0: 1 / sqrt(dk)


@dataclass(slots=True)
class CacheGroup:
    """Layers whose keys and values are paged together."""

    n_q: int
    n_kv: int
    dk: int
    dv: int
    window: int
    n_layers: int = 0


@dataclass(frozen=True, slots=True)
class QKV:
    """A buffer that holds queries, keys and values side by side, and the heads they belong to."""

    buffer: int
    attention: Attention


@dataclass(slots=True)
class Plan:
    """Builds a plan over the tensors of a model file; names are GGUF's, without ".weight".

    Raises ModelFileError for a missing tensor or a wrong shape, UnsupportedModelError for a format that the engine
    does not run.
    """

    tensors: Mapping[str, TensorLike]
    vocab: int
    dim: int
    eps: float
    formats: frozenset[str]
    file: str = ""
    norms: str = "rms"  # or "layer"; the norms of heads are always "rms"
    own_name: Callable[[str], str] = str  # GGUF's name of a tensor -> its name in the file, for errors
    ops: list[Op] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    matrices: list[Matrix] = field(default_factory=list)
    vectors: list[Vector] = field(default_factory=list)
    ropes: list[Any] = field(default_factory=list)
    caches: list[CacheGroup] = field(default_factory=list)
    used: set[str] = field(default_factory=set)  # names of the tensors that operations read
    _known: dict[Any, int] = field(default_factory=dict)

    def changed(self, ops: list[Op], vectors: list[Vector]) -> Plan:
        """A copy with other operations and vectors; matrices keep their numbers."""
        return replace(self, ops=ops, vectors=vectors, _known=dict(self._known))

    # ---- operations -------------------------------------------------------------------------------------------

    def embed(self, scale: float = 1.0) -> int:
        """Starts the residual stream: rows of token_embd, times scale."""
        tied = "output.weight" not in self.tensors
        seg = self._segments([self.matrix("token_embd", self.vocab, self.dim, plain=not tied)])
        x = self.buffer("x", self.dim)
        return self._op(Kind.EMBED, -1, "token_embd", out=x, seg=seg, n_seg=1, scale=scale).out

    def norm(self, layer: int, name: str) -> int:
        """The norm of the residual stream, in another buffer."""
        x, h = self.buffer("x", self.dim), self.buffer("h", self.dim)
        return self._op(Kind.NORM, layer, name, inp=x, out=h, **self._norm(_layered(layer, name))).out

    def qkv(self, layer: int, h: int, a: Attention) -> QKV:
        """Queries, keys and values, with biases where the file has them; from attn_qkv where they are one matrix.

        The activations of keys and values have two int8 terms: these matrices are small, and every later row reads
        their results. Mean KL divergence from float32 (SmolLM2, 4,096 positions, 32 likeliest tokens): 0.00146 with one
        term everywhere, 0.00104 with two for keys and values. With two terms for values only 0.00114, for keys 0.00140,
        for queries 0.00136, for attn_output 0.00142.
        """
        parts = (("attn_q", a.n_q * a.dk), ("attn_k", a.n_kv * a.dk), ("attn_v", a.n_kv * a.dv))
        out = self.buffer(f"qkv{sum(rows for _, rows in parts)}", sum(rows for _, rows in parts))
        columns = [0, parts[0][1], parts[0][1] + parts[1][1]]
        fused = _layered(layer, "attn_qkv")
        whole = [Part(fused, column, self.buffers[out].dim) for column in columns]
        within = whole if f"{fused}.weight" in self.tensors else [None] * 3
        mats, biases = [], []
        for (name, rows), part in zip(parts, within, strict=True):
            mats.append(self.matrix(_layered(layer, name), rows, self.buffers[h].dim, part=part))
            biases.append(self.bias(_layered(layer, name), rows, part=part))
        seg = self._segments(mats, columns, biases, terms=[1, 2, 2])
        self._op(Kind.LINEAR, layer, "attn_qkv", inp=h, out=out, seg=seg, n_seg=3)
        return QKV(out, a)

    def head_norm(self, layer: int, qkv: QKV) -> None:
        """RMSNorm of each query and each key head (attn_q_norm, attn_k_norm), in place."""
        q, k = (self.vector(_layered(layer, f"attn_{part}_norm"), qkv.attention.dk) for part in "qk")
        cache = self._cache(qkv.attention)
        self._op(
            Kind.HEAD_NORM,
            layer,
            "attn_qk_norm",
            inp=qkv.buffer,
            out=qkv.buffer,
            vec=q,
            vec2=k,
            cache=cache,
            eps=self.eps,
        )

    def rope_append(self, layer: int, qkv: QKV, rope: Rope) -> None:
        """Rotates queries and keys in place and appends keys and values to the cache."""
        cache = self._cache(qkv.attention)
        place = self.caches[cache].n_layers
        self.caches[cache].n_layers += 1
        self._known["cache_layer", layer] = place
        self._op(
            Kind.ROPE_APPEND,
            layer,
            "rope",
            inp=qkv.buffer,
            out=qkv.buffer,
            cache=cache,
            cache_layer=place,
            rope=self._rope(rope),
        )

    def attend(self, layer: int, qkv: QKV) -> int:
        """Attention of the queries over the cache: grouped heads, causal, within the window."""
        a = qkv.attention
        out = self.buffer(f"a{a.n_q * a.dv}", a.n_q * a.dv)
        cache, place = self._cache(a), self._known["cache_layer", layer]
        scale = a.scale or a.dk**-0.5
        return self._op(
            Kind.ATTEND, layer, "attend", inp=qkv.buffer, out=out, cache=cache, cache_layer=place, scale=scale
        ).out

    def add(self, layer: int, name: str, h: int, *, post_norm: str | None = None) -> None:
        """Projects h, applies the norm `post_norm` if given, and adds the result to the residual stream."""
        x, tmp = self.buffer("x", self.dim), self.buffer("o", self.dim)
        mat = self.matrix(_layered(layer, name), self.dim, self.buffers[h].dim)
        seg = self._segments([mat], biases=[self.bias(_layered(layer, name), self.dim)])
        norm = {} if post_norm is None else self._norm(_layered(layer, post_norm))
        self._op(Kind.LINEAR_ADD, layer, name, inp=h, out=x, tmp=tmp, seg=seg, n_seg=1, **norm)

    def glu(self, layer: int, h: int, ff: int, act: str) -> int:
        """act(ffn_gate h) * (ffn_up h), with biases where the file has them (Shazeer 2020)."""
        k = self.buffers[h].dim
        names = [_layered(layer, name) for name in ("ffn_gate", "ffn_up")]
        mats = [self.matrix(name, ff, k) for name in names]
        biases = [self.bias(name, ff) for name in names]
        out, tmp = self.buffer(f"f{ff}", ff), self.buffer(f"u{ff}", ff)
        seg = self._segments(mats, biases=biases)
        return self._op(
            Kind.GLU, layer, "ffn_gate_up", inp=h, out=out, tmp=tmp, seg=seg, n_seg=2, act=ACTIVATIONS[act]
        ).out

    def head(self, cap: float = 0.0) -> None:
        """The final norm, and the logits of the rows that ask for them; tied to the embedding where there is no
        `output`. cap: soft cap of the logits; 0: none."""
        name = "output" if "output.weight" in self.tensors else "token_embd"
        seg = self._segments([self.matrix(name, self.vocab, self.dim)])
        x = self.buffer("x", self.dim)
        self._op(Kind.HEAD, -1, "head", inp=x, seg=seg, n_seg=1, cap=cap, **self._norm("output_norm"))

    def _norm(self, name: str) -> dict[str, Any]:
        """The fields of a norm of the residual stream. A LayerNorm has a bias where the file has one."""
        bias = self.bias(name, self.dim) if self.norms == "layer" else -1
        return {"vec": self.vector(name, self.dim), "vec2": bias, "norm": NORMS[self.norms], "eps": self.eps}

    # ---- tables -----------------------------------------------------------------------------------------------

    def buffer(self, name: str, dim: int) -> int:
        """The number of a buffer, which is created at the first call."""
        return self._once(("buffer", name), self.buffers, lambda: Buffer(name, dim))

    def matrix(self, name: str, rows: int, k: int, *, plain: bool = False, part: Part | None = None) -> int:
        """The number of a matrix, which must have this shape and a supported format. part: it is part of another
        tensor."""

        def make() -> Matrix:
            whole = part or Part(name, 0, rows)
            t = self._tensor(f"{whole.name}.weight", (whole.rows, k))
            if t.type not in self.formats:
                raise UnsupportedModelError(
                    feature=f"weight format {t.type} ({t.name})", supported=", ".join(sorted(self.formats))
                )
            row = t.data.size // whole.rows  # bytes; in every format a row is a whole number of quantisation blocks
            data = t.data[whole.first * row : (whole.first + rows) * row]
            return Matrix(f"{name}.weight", t.type, rows, k, data, plain)

        return self._once(("matrix", name), self.matrices, make)

    def vector(self, name: str, n: int) -> int:
        """The number of a vector of n float32 values, from the tensor name.weight."""
        return self._once(("vector", name), self.vectors, lambda: self._floats(f"{name}.weight", n))

    def bias(self, name: str, n: int, *, part: Part | None = None) -> int:
        """The number of the vector name.bias; -1 where the file has none. part: it is part of another tensor."""
        whole = part or Part(name, 0, n)
        if f"{whole.name}.bias" not in self.tensors:
            return -1

        def make() -> Vector:
            values = self._floats(f"{whole.name}.bias", whole.rows).data
            return Vector(f"{name}.bias", values[whole.first : whole.first + n])

        return self._once(("bias", name), self.vectors, make)

    def _floats(self, name: str, n: int) -> Vector:
        t = self._tensor(name, (n,))
        return Vector(name, floats(t))

    def _tensor(self, name: str, shape: tuple[int, ...]) -> TensorLike:
        t = self.tensors.get(name)
        own = self.own_name(name)
        if t is None:
            raise ModelFileError("no such tensor", file=self.file, field=own, expected=f"shape {shape}")
        if t.shape != shape:
            raise ModelFileError(
                f"has shape {t.shape}", file=t.file or self.file, field=own, offset=t.offset, expected=f"shape {shape}"
            )
        self.used.add(name)
        return t

    def _segments(
        self,
        mats: list[int],
        columns: list[int] | None = None,
        biases: list[int] | None = None,
        terms: list[int] | None = None,
    ) -> int:
        first = len(self.segments)
        for i, m in enumerate(mats):
            column, bias = columns[i] if columns else 0, biases[i] if biases else -1
            self.segments.append(Segment(m, column, bias, terms[i] if terms else 1))
        return first

    def _cache(self, a: Attention) -> int:
        key = (a.n_q, a.n_kv, a.dk, a.dv, a.window)
        return self._once(("cache", key), self.caches, lambda: CacheGroup(*key))

    def _rope(self, rope: Rope) -> int:
        def make() -> Any:
            return RopeTable(np.array(rope.freq, np.float64), rope.halves)

        return self._once(("rope", rope), self.ropes, make)

    def _once(self, key: Any, table: list[Any], make: Any) -> int:
        if key not in self._known:
            table.append(make())
            self._known[key] = len(table) - 1
        return self._known[key]

    def _op(self, kind: Kind, layer: int, name: str, **fields: Any) -> Op:
        op = Op(kind, layer, name, **fields)
        self.ops.append(op)
        return op


class RopeTable(NamedTuple):
    freq: npt.NDArray[np.float64]
    halves: bool


def _layered(layer: int, name: str) -> str:
    return name if layer < 0 else f"blk.{layer}.{name}"


def floats(t: TensorLike) -> npt.NDArray[np.float32]:
    """A tensor's values as float32, in its shape. Raises UnsupportedModelError for a quantised format."""
    if t.type == "F32":
        values = t.data.view(np.float32)
    elif t.type == "F16":
        values = t.data.view(np.float16).astype(np.float32)
    elif t.type == "BF16":
        values = (t.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        raise UnsupportedModelError(feature=f"weight format {t.type} for {t.name}", supported="F32, F16, BF16")
    return values.reshape(t.shape)
