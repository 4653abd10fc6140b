"""The entries of a plan's tables, and the classes with which architectures describe layers.

Op, Segment and the groups mirror the structs of csrc/ops/op.h field by field; the kinds of operation come from
csrc/ops/table.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pellucid._engine import FLAGS, Kind

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
    state: int = -1
    state_layer: int = -1
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
    top_k: int = 0
    route: int = 0
    groups: int = 0
    group_k: int = 0
    limit: float = 0.0
    flags: int = 0

    @property
    def stores(self) -> bool:
        """Whether it appends keys and values to its layer of the cache."""
        return self.kind.stores and not self.flags & FLAGS["rotate_only"]


class Buffer(NamedTuple):
    name: str
    dim: int


class Segment(NamedTuple):
    """One matrix of an operation; its output begins at `column`. terms: the least number of int8 terms of the
    activations that a quantised matrix is multiplied by; two are nearly exact. The product is multiplied by `scale` and
    by the vector `row_scale`, one factor per row (-1: none), before the bias is added. input: for
    a linear, a buffer that it reads instead of the operation's (-1: none). step: for a stack in a linear, the number of
    columns from one matrix's output to the next one's."""

    matrix: int
    column: int
    bias: int
    terms: int = 1
    row_scale: int = -1
    scale: float = 1.0
    input: int = -1
    step: int = 0


class Matrix(NamedTuple):
    """(rows, k), in the file's format. plain: it stays in that format instead of being packed (an untied embedding).
    stack: the number of matrices of this shape, one for each expert or head; their bytes follow one another, or are
    Parts. tensor: the full name of the tensor that it is, or is a part of; "": it is computed from one."""

    name: str
    type: str
    rows: int
    k: int
    data: Bytes
    plain: bool
    stack: int = 1
    tensor: str = ""


class Part(NamedTuple):
    """Part of a tensor that several matrices share: the tensor `name` has `rows` rows; the part begins at row `first`,
    or has the rows listed in `order`."""

    name: str
    first: int
    rows: int
    order: tuple[int, ...] = ()


class Vector(NamedTuple):
    name: str
    data: npt.NDArray[np.float32]


class Rope(NamedTuple):
    """Rotary positions (Su et al. 2021): at position p, pair i is rotated by p * freq[i] radians. halves: pairs are
    (i, i + n/2), else (2i, 2i + 1), of a head's dimensions from `first` on. scale: multiplies cosines and sines."""

    freq: tuple[float, ...]
    halves: bool
    scale: float = 1.0
    first: int = 0


class RopeTable(NamedTuple):
    freq: npt.NDArray[np.float64]
    halves: bool
    scale: float = 1.0
    first: int = 0


@dataclass(frozen=True, slots=True)
class Attention:
    """The heads of a layer: n_q query heads and n_kv key-value heads, dk and dv wide.

    window: how many tokens a row sees, itself included; 0: all. causal: a row sees no later token; else also the
    window - 1 tokens after it (window 0: all), and its whole sequence must run in one pass.
    """

    n_q: int
    n_kv: int
    dk: int
    dv: int
    window: int = 0
    scale: float = 0.0  # multiplies the scores; 0: 1 / sqrt(dk)
    causal: bool = True
    shared: bool = False  # a value is the first dv columns of its key


@dataclass(slots=True)
class CacheGroup:
    """Layers whose keys and values are paged together."""

    n_q: int
    n_kv: int
    dk: int
    dv: int
    window: int
    causal: bool = True
    shared: bool = False
    n_layers: int = 0

    def token_bytes(self, kv: str) -> int:
        """Bytes that a token's keys and values take in all these layers; if shared, values are part of keys."""
        sizes = (self.dk,) if self.shared else (self.dk, self.dv)
        each = (d + 4 * -(-d // 32) if kv == "int8" else d * (4 if kv == "f32" else 2) for d in sizes)
        return self.n_layers * self.n_kv * sum(each)

    def held_bytes(self, tokens: int, kv: str, rows: int = 0) -> int:
        """Bytes of the pages, of 64 tokens each, that a sequence of so many tokens keeps for these layers; with `rows`,
        those that it holds until its last pass, of this many rows, is over."""
        kept = min(tokens, self.window + rows) if self.window else tokens
        return -(-kept // 64) * 64 * self.token_bytes(kv)


@dataclass(frozen=True, slots=True)
class Experts:
    """The experts of a layer: n, of which a row takes top_k, each ff wide.

    weights: how scores become weights, names of ROUTES (csrc/ops/op.h): softmax over all experts unless "sigmoid",
    "top_first" (softmax over the chosen) or "sparse" (SparseMixer, whose noise is `limit`); "renorm": divided by their
    sum plus `limit`. scale multiplies them afterwards. groups: experts are chosen from the best group_k of so many
    groups; "group_sum2": a group counts as much as its two best experts. shared: width of an expert that every row
    takes; 0: none. gated: its output is multiplied by the sigmoid of a score of its own. biased: a vector (exp_probs_b)
    is added to scores for the choice. plain: an expert has no gate: act(up h). latent: the width of what experts read
    and write, if it is not that of the residual stream.
    """

    n: int
    top_k: int
    ff: int
    weights: frozenset[str] = frozenset()
    scale: float = 1.0
    limit: float = 0.0
    groups: int = 0
    group_k: int = 0
    shared: int = 0
    gated: bool = False
    biased: bool = False
    plain: bool = False
    latent: int = 0


@dataclass(frozen=True, slots=True)
class Latent:
    """Attention whose keys and values are products of one row of `rank` columns, with `rope` rotated columns beside it
    (DeepSeek-AI 2024).

    A query head is `nope` columns that are not rotated, then `rope` that are; a value is `value` wide. query_rank: the
    width of the row that queries are a product of; 0: they are one of the normed residual stream.
    """

    heads: int
    rank: int
    rope: int
    nope: int
    value: int
    query_rank: int = 0


@dataclass(frozen=True, slots=True)
class Recurrent:
    """What a recurrent layer keeps of a sequence: the inputs (taps - 1, channels) of its convolution and, if it has
    value heads, a matrix (dk, dv) for each of n_v. Value head j belongs to key head j % n_k (tiled) or
    j // (n_v / n_k). steps: least and greatest dt of Mamba 2."""

    taps: int
    channels: int
    n_k: int = 0
    n_v: int = 0
    dk: int = 0
    dv: int = 0
    tiled: bool = False
    steps: tuple[float, float] = (0.0, float("inf"))

    @property
    def conv_floats(self) -> int:
        """Numbers of the convolution's part of a layer's state, as the engine lays it out (csrc/ops/ops.h)."""
        return -(-(self.taps - 1) * self.channels // 16) * 16

    @property
    def scan_floats(self) -> int:
        """Numbers of the recurrence's part."""
        return self.n_v * self.dk * -(-self.dv // 16) * 16

    @property
    def floats(self) -> int:
        return self.conv_floats + self.scan_floats


@dataclass(slots=True)
class StateGroup:
    """The recurrent layers of one kind."""

    layer: Recurrent
    n_layers: int = 0


@dataclass(frozen=True, slots=True)
class QKV:
    """A buffer that holds queries, keys and values side by side, and the heads they belong to."""

    buffer: int
    attention: Attention
