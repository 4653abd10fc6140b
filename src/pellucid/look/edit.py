"""Edits: a view of a model whose arithmetic differs, over the same weights."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pellucid import checks
from pellucid.core import Core
from pellucid.errors import ClosedError, WrongType, WrongValue
from pellucid.look import places, record
from pellucid.model import Model
from pellucid.plan import EVERYWHERE, Kind, Op, Plan, Vector
from pellucid.results import Piece

if TYPE_CHECKING:
    from pellucid.look.trace import Trace

__all__ = ["Edit"]

Floats = npt.NDArray[np.float32]


class Edit:
    """A view of a model with edits: made by ``Model.edit``, a context manager, closed at its end.

    The edits make a plan of their own over the same packed weights, with a cache of its own; the model and its other
    users see nothing of them. Each takes effect from the next call on; they act in the order in which they were made.
    A neutral one (a factor of 1, zeros added) changes no bit. Edit methods raise ValueError or TypeError naming the
    argument, and then nothing has changed.
    """

    def __init__(self, model: Model) -> None:
        self._base = model
        self._plan: Plan = model.core.open().plan
        self._skipped: set[tuple[int, str]] = set()
        self._heads: list[tuple[int, int, float]] = []
        self._stream: list[tuple[int, float, int, int, Floats]] = []  # layer, scale, positions from, to, what is added
        self._view: Model | None = None
        self._cores: weakref.WeakSet[Core] = weakref.WeakSet()  # of all views so far
        self._closed = False

    def __enter__(self) -> Edit:
        self._open()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the view: every later use is a ClosedError. May be called again."""
        self._closed = True
        self._view = None
        for core in list(self._cores):
            core.close()

    # ---- edits ------------------------------------------------------------------------------------------------

    def add(self, layer: int, vector: npt.ArrayLike, positions: Any = None) -> Edit:
        """Adds a vector (d) to the residual stream after a layer, at the tokens of some positions; None: at all, new
        ones too."""
        layer, row = self._layer(layer), self._floats("vector", vector, 1)
        if row.shape != (self._plan.dim,):
            raise WrongValue("vector", f" has shape {row.shape}, expected {(self._plan.dim,)}")
        runs = [(0, EVERYWHERE)] if positions is None else list(_runs(self._positions(positions)))
        self._stream += [(layer, 1.0, a, b, row) for a, b in runs]
        return self._changed()

    def patch(self, layer: int, positions: Any, values: npt.ArrayLike) -> Edit:
        """Replaces the residual stream after a layer, at some positions, by values (len(positions), d), or (d) for
        each."""
        layer, at = self._layer(layer), self._positions(positions)
        rows = self._floats("values", values, 1, 2)
        shape = (len(at), self._plan.dim)
        if rows.shape not in (shape, shape[1:]):
            raise WrongValue("values", f" has shape {rows.shape}, expected {shape}")
        rows = np.broadcast_to(rows, shape)[np.argsort(at)]
        at = sorted(at)
        self._stream += [(layer, 0.0, a, b, rows[at.index(a) : at.index(a) + b - a]) for a, b in _runs(at)]
        return self._changed()

    def scale_head(self, layer: int, head: int, factor: float) -> Edit:
        """Multiplies what a head gives, before it is projected into the residual stream. 0 takes the head out."""
        layer = self._layer(layer)
        (head,) = record.select("head", [head], self._base.core.config.attention.n_q)
        value = self._floats("factor", factor, 0)
        self._heads.append((layer, head, float(value)))
        return self._changed()

    def skip(self, layer: int, part: str) -> Edit:
        """Leaves out a layer's "attention" or "mlp": nothing is added to the residual stream."""
        layer = self._layer(layer)
        self._skipped.add((layer, checks.choice("part", part, ("attention", "mlp"))))
        return self._changed()

    # ---- use --------------------------------------------------------------------------------------------------

    @property
    def model(self) -> Model:
        """The edited model, as a Model of its own; the next edit makes another. It closes with the edit."""
        self._open()
        view = self._view  # read once: another thread may make an edit meanwhile
        if view is None:
            core = self._base.core.view(edited(self._plan, self._skipped, self._heads, self._stream))
            self._cores.add(core)
            self._view = view = Model(core)
        return view

    def generate(self, prompt: Any, **options: Any) -> Any:
        """``Model.generate``, edited."""
        return self.model.generate(prompt, **options)

    def stream(self, prompt: str | Sequence[int], **options: Any) -> Iterator[Piece]:
        """``Model.stream``, edited."""
        return self.model.stream(prompt, **options)

    def chat(self, messages: Any, **options: Any) -> Any:
        """``Model.chat``, edited."""
        return self.model.chat(messages, **options)

    def logits(self, ids: Any, **options: Any) -> Any:
        """``Model.logits``, edited."""
        return self.model.logits(ids, **options)

    def score(self, text: Any, **options: Any) -> Any:
        """``Model.score``, edited."""
        return self.model.score(text, **options)

    def trace(self, prompt: str | Sequence[int], *args: Any, **options: Any) -> Trace:
        """``Model.trace``, edited: hidden states are those after the edits."""
        return self.model.trace(prompt, *args, **options)

    # ---- arguments --------------------------------------------------------------------------------------------

    def _open(self) -> None:
        if self._closed:
            raise ClosedError("the edit is closed")
        self._base.core.open()

    def _changed(self) -> Edit:
        self._view = None
        return self

    def _layer(self, layer: Any) -> int:
        self._open()
        (number,) = record.select("layer", [layer], self._base.core.config.layers)
        return number

    def _positions(self, positions: Any) -> list[int]:
        """Distinct positions, as given."""
        n = self._base.context_length
        if positions is None or isinstance(positions, str):
            raise WrongType("positions", " must be integers")
        given = positions if hasattr(positions, "__iter__") and getattr(positions, "ndim", True) else [positions]
        values = [checks.integer("positions", i, 0, n - 1) for i in islice(given, n + 1)]
        if len(record.select("positions", values, n)) != len(values):
            raise WrongValue("positions", ": expected each one once")
        return values

    @staticmethod
    def _floats(name: str, value: Any, *ndim: int) -> Floats:
        try:
            if value is None:
                raise TypeError
            if np.asarray(value).dtype.kind in "cSU":
                raise TypeError
            with np.errstate(over="ignore"):  # too large: refused below
                array = np.array(value, np.float64)
        except Exception:  # whatever the conversion of the caller's objects raises
            raise WrongType(name, " must be numbers") from None
        if array.ndim not in ndim:
            raise WrongValue(name, f" has {array.ndim} dimensions, expected {' or '.join(map(str, ndim))}")
        if not (np.abs(array) <= np.finfo(np.float32).max).all():
            raise WrongValue(name, " is not finite: expected numbers that fit 32 bits")
        return array.astype(np.float32)


def _runs(positions: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Positions as ranges [from, to)."""
    start = previous = None
    for i in sorted(positions):
        if previous is None or i != previous + 1:
            if start is not None:
                yield start, previous + 1  # type: ignore[operator]
            start = i
        previous = i
    if start is not None and previous is not None:
        yield start, previous + 1


# ---- the plan -----------------------------------------------------------------------------------------------------


def edited(
    plan: Plan,
    skipped: set[tuple[int, str]],
    heads: Sequence[tuple[int, int, float]],
    stream: Sequence[tuple[int, float, int, int, Floats]],
) -> Plan:
    """A copy of the plan with edits; matrices keep their numbers."""
    found = places.find(plan)
    x = found.embeddings.buffer
    vectors = list(plan.vectors)
    before: dict[int, list[Op]] = {}  # operations to insert before an operation, and after one
    after: dict[int, list[Op]] = {}
    for number, head, factor in heads:
        layer = found.layers[number]
        if layer.mixed is not None and layer.group is not None:
            buffer, dv = layer.mixed.buffer, layer.group.dv
            op = _scale_add(number, "edit head", buffer, head * dv, dv, scale=factor)
            before.setdefault(layer.project, []).append(op)
    for number, scale, start, end, rows in stream:
        vectors.append(Vector("edit", np.ascontiguousarray(rows).reshape(-1)))
        op = _scale_add(number, "edit", x, 0, plan.dim, scale=scale, vec=len(vectors) - 1)
        op.pos_from, op.pos_to, op.each = start, end, int(rows.ndim > 1)
        after.setdefault(found.layers[number].hidden.op, []).append(op)
    ops = []
    for i, op in enumerate(plan.ops):
        part = "attention" if op.layer >= 0 and i <= found.layers[op.layer].project else "mlp"
        kept = op.kind == Kind.SCALE_ADD and op.out == x  # an edit of the stream, by a view of which this is a view
        if kept or (op.layer, part) not in skipped:
            ops += [*before.get(i, []), op]
        ops += after.get(i, [])
    return replace(plan, ops=ops, vectors=vectors, _known=dict(plan._known))


def _scale_add(layer: int, name: str, buffer: int, column: int, width: int, *, scale: float, vec: int = -1) -> Op:
    return Op(
        Kind.SCALE_ADD, layer, name, inp=buffer, out=buffer, vec=vec, scale=scale, column=column, width=width,
        pos_to=EVERYWHERE,
    )  # fmt: skip
