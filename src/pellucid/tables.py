"""The tables of a plan, filled from the tensors of a model file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid._engine import Kind, quantize
from pellucid.entries import (
    Attention,
    Buffer,
    CacheGroup,
    Matrix,
    Op,
    Part,
    Recurrent,
    Rope,
    RopeTable,
    Segment,
    StateGroup,
    TensorLike,
    Vector,
)
from pellucid.errors import ModelFileError, UnsupportedModelError
from pellucid.parts import Made, Parts, floats, rows_of


@dataclass(slots=True)
class Tables:
    """The rows that operations refer to by number, each created at its first use.

    Raises ModelFileError for a missing tensor or a wrong shape, UnsupportedModelError for a format that the engine does
    not support.
    """

    tensors: Mapping[str, TensorLike]
    formats: frozenset[str]
    file: str = ""
    own_name: Callable[[str], str] = str  # GGUF's name of a tensor -> its name in the file, for errors
    ops: list[Op] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    matrices: list[Matrix] = field(default_factory=list)
    vectors: list[Vector] = field(default_factory=list)
    ropes: list[RopeTable] = field(default_factory=list)
    caches: list[CacheGroup] = field(default_factory=list)
    states: list[StateGroup] = field(default_factory=list)
    used: set[str] = field(default_factory=set)  # names of the tensors that operations read
    scales: dict[int, float | int] = field(default_factory=dict)  # of matrices: a factor, or the number of a vector
    _known: dict[Any, int] = field(default_factory=dict)

    def buffer(self, name: str, dim: int) -> int:
        """The number of a buffer, which is created at the first call."""
        return self.once(("buffer", name), self.buffers, lambda: Buffer(name, dim))

    def matrix(
        self, name: str, rows: int, k: int, *, plain: bool = False, part: Part | None = None, scaled: bool = True
    ) -> int:
        """The number of a matrix, which must have this shape and a supported format. part: its place in another tensor.
        scaled: products with it are multiplied by the tensor's factor, name.scale, if the file has one."""

        def make() -> Matrix:
            whole = part or Part(name, 0, rows)
            t = self.tensor(f"{whole.name}.weight", (whole.rows, k))
            self.check_format(t)
            data: Any
            row = t.data.size // whole.rows  # bytes; in every format a row is a whole number of quantisation blocks
            if whole.order:
                data = t.data.view(np.uint8).reshape(whole.rows, row)[list(whole.order)].reshape(-1)
            else:
                data = t.data[whole.first * row : (whole.first + rows) * row]
            if scaled:
                self._leave_inputs(whole.name, 1)
            if scaled and f"{whole.name}.scale" in self.tensors:
                self.scales[len(self.matrices)] = float(floats(self.tensor(f"{whole.name}.scale", (1,)))[0])
            return Matrix(f"{name}.weight", t.type, rows, k, data, plain, tensor=f"{whole.name}.weight")

        return self.once(("matrix", name), self.matrices, make)

    def multiply(
        self, name: str, rows: int, k: int, factor: float, *, bias: float = 1.0, part: Part | None = None
    ) -> int:
        """The number of a matrix, as `matrix` returns it, whose products are multiplied by `factor`, and its bias, if
        there is one, by `bias`. Must be called before other uses of either."""
        m = self.matrix(name, rows, k, part=part)
        own = self.scales.get(m, 1.0)
        if factor != 1.0:
            if isinstance(own, int):
                raise UnsupportedModelError(feature=f"factors of rows of {name}, which has a factor,")
            self.scales[m] = own * factor
        vec = self.bias(name, rows, part=part) if bias != 1.0 else -1
        if vec >= 0:
            whole = self.vectors[vec]
            self.vectors[vec] = Vector(whole.name, whole.data * np.float32(bias))
        return m

    def stack(self, name: str, n: int, rows: int, k: int, *, part: Part | None = None, flat: bool = False) -> int:
        """The number of a stack of n matrices (rows, k), one for each expert or head. part: rows of the matrices of
        another tensor. flat: the tensor is (n * rows, k); with n = 1 that is always accepted."""

        def make() -> Matrix:
            whole = part or Part(name, 0, rows)
            full = f"{whole.name}.weight"
            alone = n == 1 and full in self.tensors and len(self.tensors[full].shape) == 2  # a shared expert's
            t = self.tensor(full, (n * whole.rows, k) if flat or alone else (n, whole.rows, k))
            self.check_format(t)
            data = rows_of(t.data, n, whole.first, whole.first + rows, whole.rows)
            self._scale(name, whole.name, n, rows, 1 if flat else n)
            return Matrix(f"{name}.weight", t.type, rows, k, data, False, n, full)

        return self.once(("matrix", name), self.matrices, make)

    def _scale(self, name: str, whole: str, n: int, rows: int, count: int) -> None:
        """Records the factors of the next matrix, a stack of n of so many rows, if the file has `count` for it."""
        self._leave_inputs(whole, count)
        if f"{whole}.scale" in self.tensors:
            factors = floats(self.tensor(f"{whole}.scale", (count,)))
            vec = self.constant(f"{name}.scale", np.repeat(factors, n * rows // len(factors)))
            self.scales[len(self.matrices)] = vec

    def _leave_inputs(self, whole: str, count: int) -> None:
        """Leaves the factors of a matrix's quantised inputs unread: the engine quantises inputs in its own way."""
        if f"{whole}.input_scale" in self.tensors:
            self.tensor(f"{whole}.input_scale", (count,))

    def turned(self, name: str, n: int, rows: int, k: int, part: Part) -> int:
        """The number of a stack of n matrices (rows, k): `stack`'s (k, rows) of a part of a flat tensor, transposed;
        in float32, if they are quantised."""

        def make() -> Matrix:
            full = f"{part.name}.weight"
            t = self.tensor(full, (n * part.rows, rows))
            self.check_format(t)
            row = t.data.size // t.shape[0]
            kind, unit = (t.type, np.dtype("u2")) if t.type in ("F16", "BF16") else ("F32", np.dtype("u4"))

            def columns(at: int, first: int, end: int) -> npt.NDArray[np.uint8]:
                coded = t.data[at * row : (at + k) * row].view(np.uint8)
                values = quantize(t.type, coded, rows, kind).view(unit).reshape(k, rows)
                return np.ascontiguousarray(values[:, first:end].T).reshape(-1).view(np.uint8)

            places, size = (e * part.rows + part.first for e in range(n)), unit.itemsize * k
            data = Parts(tuple(Made(partial(columns, at), size, size * rows) for at in places))
            self._scale(name, part.name, n, rows, 1)
            return Matrix(f"{name}.weight", kind, rows, k, data, False, n)

        return self.once(("matrix", name), self.matrices, make)

    def check_format(self, t: TensorLike) -> None:
        """Raises UnsupportedModelError if the engine does not support the tensor's format."""
        if t.type not in self.formats:
            raise UnsupportedModelError(
                feature=f"weight format {t.type} ({t.name})", supported=", ".join(sorted(self.formats))
            )

    def vector(self, name: str, n: int) -> int:
        """The number of a vector of n float32 values, from the tensor name.weight."""
        return self.once(("vector", name), self.vectors, lambda: self._floats(f"{name}.weight", n))

    def rows_as_vector(self, name: str, rows: int, k: int) -> int:
        """The number of a vector of rows * k float32 values, from the tensor name.weight of shape (rows, k)."""

        def make() -> Vector:
            return Vector(f"{name}.weight", floats(self.tensor(f"{name}.weight", (rows, k))).reshape(-1))

        return self.once(("vector", name), self.vectors, make)

    def constant(self, name: str, values: Sequence[float] | npt.NDArray[np.float32]) -> int:
        """The number of a vector of these values, which come from no tensor."""
        return self.once(("constant", name), self.vectors, lambda: Vector(name, np.array(values, np.float32)))

    def bias(self, name: str, n: int, *, part: Part | None = None) -> int:
        """The number of the vector name.bias; -1 if the file has none. part: its place in another tensor."""
        whole = part or Part(name, 0, n)
        if f"{whole.name}.bias" not in self.tensors:
            return -1

        def make() -> Vector:
            values = self._floats(f"{whole.name}.bias", whole.rows).data
            rows = list(whole.order) if whole.order else slice(whole.first, whole.first + n)
            return Vector(f"{name}.bias", values[rows])

        return self.once(("bias", name), self.vectors, make)

    def _rows(self, name: str) -> int:
        """The number of rows of the tensor name.weight; 0 if the file has none."""
        t = self.tensors.get(f"{name}.weight")
        return t.shape[0] if t is not None and t.shape else 0

    def _floats(self, name: str, n: int) -> Vector:
        t = self.tensor(name, (n,))
        return Vector(name, floats(t))

    def arranged(self, layer: int, h: int, names: Sequence[str]) -> int:
        """The buffer h, or one with its columns reordered to match the matrices of these names, if the file has an
        order for them (a tensor NAME.order; it is the same for all matrices that read h)."""
        found = [f"{name}.order" for name in names if f"{name}.order" in self.tensors]
        if not found:
            return h
        n = self.buffers[h].dim
        self.used.update(found)
        vec = self.once(("vector", found[0]), self.vectors, lambda: self._floats(found[0], n))
        out = self.buffer(f"order{n}", n)
        return self.operation(Kind.REORDER, layer, "order", inp=h, out=out, vec=vec).out

    def tensor(self, name: str, shape: tuple[int, ...]) -> TensorLike:
        """The tensor of this full name, which must have this shape; it counts as used."""
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

    def row_of_segments(
        self,
        mats: list[int],
        columns: list[int] | None = None,
        biases: list[int] | None = None,
        terms: list[int] | None = None,
        scale: float = 1.0,
        inputs: list[int] | None = None,
        steps: list[int] | None = None,
    ) -> int:
        """The number of the first segment of an operation, one segment per matrix. The lists have one item per segment,
        as in Segment; columns default to 0, biases and inputs to none, terms to 1. A matrix that is not a stack has no
        step."""
        first = len(self.segments)
        for i, m in enumerate(mats):
            column, bias = columns[i] if columns else 0, biases[i] if biases else -1
            own = self.scales.get(m, 1.0)  # the tensor's own factor
            row_scale, times = (own, scale) if isinstance(own, int) else (-1, scale * own)
            given, step = inputs[i] if inputs else -1, steps[i] if steps and self.matrices[m].stack > 1 else 0
            self.segments.append(Segment(m, column, bias, terms[i] if terms else 1, row_scale, times, given, step))
        return first

    def _cache(self, a: Attention) -> int:
        key = (a.n_q, a.n_kv, a.dk, a.dv, a.window, a.causal, a.shared)
        return self.once(("cache", key), self.caches, lambda: CacheGroup(*key))

    def state(self, layer: int, r: Recurrent) -> tuple[int, int]:
        """(group, place in it) of a recurrent layer."""
        group = self.once(("state", r), self.states, lambda: StateGroup(r))
        if ("state_layer", layer) not in self._known:
            self._known["state_layer", layer] = self.states[group].n_layers
            self.states[group].n_layers += 1
        return group, self._known["state_layer", layer]

    def _rope(self, rope: Rope) -> int:
        def make() -> Any:
            return RopeTable(np.array(rope.freq, np.float64), rope.halves, rope.scale, rope.first)

        return self.once(("rope", rope), self.ropes, make)

    def once(self, key: Any, table: list[Any], make: Callable[[], Any]) -> int:
        """The place in `table` of what `make` returned at the first call with this key."""
        if key not in self._known:
            table.append(make())
            self._known[key] = len(table) - 1
        return self._known[key]

    def operation(self, kind: Kind, layer: int, name: str, **fields: Any) -> Op:
        """Appends an operation. fields: those of Op."""
        op = Op(kind, layer, name, **fields)
        self.ops.append(op)
        return op


def layered(layer: int, name: str) -> str:
    """The name of a tensor of a layer, or, with layer -1, of a tensor outside all layers."""
    return name if layer < 0 else f"blk.{layer}.{name}"
