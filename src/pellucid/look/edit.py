"""Edits of a model's arithmetic: checks them and applies them to a plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid import checks
from pellucid._engine import Kind
from pellucid.core import Core
from pellucid.errors import WrongType, WrongValue
from pellucid.look import places, record
from pellucid.plan import EVERYWHERE, Op, Plan, Vector

__all__ = ["Edits"]

Floats = npt.NDArray[np.float32]


class Edits:
    """The edits of a model; ``pellucid.Edit`` documents each. Its methods raise ValueError or TypeError naming the
    argument, and then add nothing."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._plan = core.engine.plan
        self._skipped: set[tuple[int, str]] = set()
        self._heads: list[tuple[int, int, float]] = []
        self._stream: list[tuple[int, float, int, int, Floats]] = []  # layer, scale, positions [from, to), added rows

    def plan(self) -> Plan:
        """The model's plan with the edits applied, in the order in which they were made."""
        return _edited(self._plan, self._skipped, self._heads, self._stream)

    def add(self, layer: int, vector: npt.ArrayLike, positions: Any = None) -> None:
        layer, row = self._layer(layer), self._floats("vector", vector, 1)
        if row.shape != (self._plan.dim,):
            raise WrongValue("vector", f" has shape {row.shape}, expected {(self._plan.dim,)}")
        runs = [(0, EVERYWHERE)] if positions is None else list(_runs(self._positions(positions)))
        self._stream += [(layer, 1.0, a, b, row) for a, b in runs]

    def patch(self, layer: int, positions: Any, values: npt.ArrayLike) -> None:
        layer, at = self._layer(layer), self._positions(positions)
        rows = self._floats("values", values, 1, 2)
        shape = (len(at), self._plan.dim)
        if rows.shape not in (shape, shape[1:]):
            raise WrongValue("values", f" has shape {rows.shape}, expected {shape}")
        rows = np.broadcast_to(rows, shape)[np.argsort(at)]
        at = sorted(at)
        self._stream += [(layer, 0.0, a, b, rows[at.index(a) : at.index(a) + b - a]) for a, b in _runs(at)]

    def scale_head(self, layer: int, head: int, factor: float) -> None:
        layer = self._layer(layer)
        (head,) = record.select("head", [head], self._core.config.attention.n_q)
        value = self._floats("factor", factor, 0)
        self._heads.append((layer, head, float(value)))

    def skip(self, layer: int, part: str) -> None:
        layer = self._layer(layer)
        self._skipped.add((layer, checks.choice("part", part, ("attention", "mlp"))))

    def _layer(self, layer: Any) -> int:
        (number,) = record.select("layer", [layer], self._core.config.layers)
        return number

    def _positions(self, positions: Any) -> list[int]:
        """The positions as given. Raises ValueError or TypeError where one is wrong or occurs twice."""
        n = self._core.context_length
        if positions is None or isinstance(positions, str):
            raise WrongType("positions", " must be integers")
        given = positions if hasattr(positions, "__iter__") and getattr(positions, "ndim", True) else [positions]
        values = [checks.integer("positions", i, 0, n - 1) for i in islice(given, n + 1)]
        if len(record.select("positions", values, n)) != len(values):
            raise WrongValue("positions", ": expected each one only once")
        return values

    @staticmethod
    def _floats(name: str, value: Any, *ndim: int) -> Floats:
        try:
            if value is None:
                raise TypeError
            if np.asarray(value).dtype.kind in "cSU":
                raise TypeError
            with np.errstate(over="ignore"):  # numbers that are too large are refused below
                array = np.array(value, np.float64)
        except Exception:  # the conversion of the caller's objects may raise anything
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


def _edited(
    plan: Plan,
    skipped: set[tuple[int, str]],
    heads: Sequence[tuple[int, int, float]],
    stream: Sequence[tuple[int, float, int, int, Floats]],
) -> Plan:
    """A copy of the plan with edits applied; matrices keep their numbers."""
    found = places.find(plan)
    x = found.embeddings.buffer
    vectors = list(plan.vectors)
    before: dict[int, list[Op]] = {}  # operation -> operations to insert before it; after: behind it
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
        kept = op.kind == Kind.SCALE_ADD and op.out == x  # an edit of the stream, by a view that this one is based on
        if kept or (op.layer, part) not in skipped:
            ops += [*before.get(i, []), op]
        ops += after.get(i, [])
    return plan.changed(ops, vectors)


def _scale_add(layer: int, name: str, buffer: int, column: int, width: int, *, scale: float, vec: int = -1) -> Op:
    return Op(
        Kind.SCALE_ADD, layer, name, inp=buffer, out=buffer, vec=vec, scale=scale, column=column, width=width,
        pos_to=EVERYWHERE,
    )  # fmt: skip
