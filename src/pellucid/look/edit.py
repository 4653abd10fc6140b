"""Edits of a model's arithmetic, and their validation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid import checks
from pellucid.core import Core
from pellucid.errors import WrongType, WrongValue
from pellucid.look import places
from pellucid.look.edited import Change, Changes, added, again, copied, edited
from pellucid.look.sizes import select
from pellucid.plan import EVERYWHERE, Plan

__all__ = ["HEAD_PARTS", "Edits"]

Floats = npt.NDArray[np.float32]
PARTS = ("attention", "mlp")
HEAD_PARTS = ("output", "q", "k", "v")
MOST_VALUES = 1 << 20  # of an array's first axis; more than any model has positions or columns
START = "embeddings"  # the residual stream before the first layer


class Edits:
    """The edits of a model; ``pellucid.Edit`` documents each. Its methods raise ValueError or TypeError naming the
    argument, and then add nothing. tokens: length of the prompt from whose end negative positions count, if there is
    one."""

    def __init__(self, core: Core, tokens: int | None = None) -> None:
        self._core = core
        self._plan = core.engine.plan
        self._places = places.find(self._plan)
        self._tokens = tokens
        self._made = Changes()

    def plan(self) -> Plan:
        """The model's plan with the edits applied, in the order in which they were made."""
        return edited(self._plan, self._places, self._made)

    # ---- the residual stream ----------------------------------------------------------------------------------

    def add(self, layer: Any, vector: npt.ArrayLike, positions: Any = None, part: Any = None) -> None:
        number, row = self._stream(layer, part), self._floats("vector", vector, 1)
        if row.shape != (self._plan.dim,):
            raise WrongValue("vector", f" has shape {row.shape}, expected {(self._plan.dim,)}")
        at, name = self._after(number, part), self._name(part)
        x = self._places.embeddings.buffer
        self._made.ops += [added(at, number, name, x, 0, row, start, end) for start, end in self._ranges(positions)]

    def patch(self, layer: Any, positions: Any, values: npt.ArrayLike, part: Any = None) -> None:
        number, at = self._stream(layer, part), self._positions(positions)
        rows = self._rows("values", values, at, self._plan.dim)
        x, after, name = self._places.embeddings.buffer, self._after(number, part), self._name(part)
        if part is None:
            self._made.ops += [added(after, number, name, x, 0, *one, scale=0.0) for one in _runs_of(at, rows)]
            return
        self._made.ops.append(copied(self._before(number, part), number, x, self._plan.dim))
        for one in _runs_of(at, rows):
            self._made.ops.append(added(after, number, name, x, 0, *one, scale=0.0))
            self._made.ops.append(added(after, number, name, x, 0, None, *one[1:], width=self._plan.dim, copy=True))

    def scale(self, layer: Any, factor: Any, positions: Any = None) -> None:
        number, value = self._stream(layer, None), float(self._floats("factor", factor, 0))
        at, x, dim = self._after(number, None), self._places.embeddings.buffer, self._plan.dim
        for start, end in self._ranges(positions):
            self._made.ops.append(added(at, number, "edit", x, 0, None, start, end, scale=value, width=dim))

    def _stream(self, layer: Any, part: Any) -> int:
        """The number of the layer, counted only from the start: -1 could mean the last layer or the embeddings."""
        if part is not None:
            checks.choice("part", part, PARTS)
        elif isinstance(layer, str) and layer == START:
            return -1
        try:
            return checks.integer("layer", layer, 0, self._core.config.layers - 1)
        except (WrongType, WrongValue) as error:
            if part is not None:
                raise
            expected = f"0 to {self._core.config.layers - 1}" if isinstance(error, WrongValue) else "an integer"
            raise type(error)("layer", f"={checks.shown(layer)}: expected {expected}, or {START!r}") from None

    def _after(self, number: int, part: str | None) -> Change:
        """The places where the output of a layer, or of a part of it, has been added."""
        if number < 0:
            return Change(self._places.embeddings.op)
        if part is None:
            return Change(self._places.layers[number].hidden.op)
        return Change(max(self._adds(number, part)))

    def _before(self, number: int, part: str) -> Change:
        return Change(min(self._adds(number, part)), before=True)

    def _adds(self, number: int, part: str) -> list[int]:
        """The operations that add the output of a part of a layer to the residual stream."""
        layer, x = self._places.layers[number], self._places.embeddings.buffer
        taps = layer.attention_out if part == "attention" else layer.mlp_out
        found = [tap.op for tap in taps if self._plan.ops[tap.op].out == x]
        found += [after.op for _, after in layer.experts] if part == "mlp" else []
        if not found:
            raise WrongValue("layer", f"={number}: it has no {part}")
        return found

    @staticmethod
    def _name(part: str | None) -> str:
        return "edit" if part is None else places.CHANGE[part]

    # ---- heads ------------------------------------------------------------------------------------------------

    def scale_head(self, layer: Any, head: Any, factor: Any, positions: Any = None) -> None:
        number = self._layer(layer)
        (head,) = select("head", [head], self._core.config.attention.n_q)
        value, ranges = float(self._floats("factor", factor, 0)), self._ranges(positions)
        found = self._places.layers[number]
        if found.mixed is None or found.group is None:
            raise WrongValue("layer", f"={number}: it has no attention heads")
        at, dv = self._reads(found.project), found.value
        for start, end in ranges:
            column = head * dv
            op = added(at, number, "edit head", found.mixed.buffer, column, None, start, end, scale=value, width=dv)
            self._made.ops.append(op)

    def patch_head(self, layer: Any, head: Any, positions: Any, values: npt.ArrayLike, part: Any = "output") -> None:
        number, part = self._layer(layer), checks.choice("part", part, HEAD_PARTS)
        found = self._places.layers[number]
        g = found.group
        if found.mixed is None or found.qkv is None or g is None:
            raise WrongValue("layer", f"={number}: it has no attention heads")
        if part in "kv" and found.keys != found.qkv:
            raise WrongValue("layer", f"={number}: it reads the keys and values of an earlier layer: patch those")
        if part == "v" and g.shared:
            raise WrongValue("part", f"='v': the values of layer {number} are parts of its keys")
        (head,) = select("head", [head], g.n_kv if part in "kv" else g.n_q)
        width = {"output": found.value, "v": g.dv}.get(part, g.dk)
        at = self._positions(positions)
        rows = self._rows("values", values, at, width)
        order = places.channels(self._plan, found)
        if part in "qk" and order is not None:
            rows = rows[..., np.argsort(order)]
        first = {"output": 0, "q": 0, "k": g.n_q * g.dk, "v": (g.n_q + g.n_kv) * g.dk}[part]
        buffer = found.mixed.buffer if part == "output" else found.qkv.buffer
        where = {
            "output": self._reads(found.project),
            "q": Change(found.qkv.op),
            "k": Change(found.qkv.op, rotated=True),
            "v": Change(found.qkv.op, before=True),
        }[part]
        for one in _runs_of(at, rows):
            name = f"edit {'head' if part == 'output' else part}"
            self._made.ops.append(added(where, number, name, buffer, first + head * width, *one, scale=0.0))

    # ---- what heads attend to ---------------------------------------------------------------------------------

    def cut(self, layer: Any, head: Any, positions: Any, sources: Any) -> None:
        found = self._attending(layer)
        heads = select("head", head, self._core.config.attention.n_q)
        ranges, cut = self._ranges(positions), self._positions(sources, "sources")
        allowed = np.ones(max(cut) + 1, np.float32)
        allowed[cut] = 0
        for h in heads:
            for start, end in ranges:
                self._made.ops.append(again(self._plan, found, h, allowed, start, end))

    def patch_pattern(self, layer: Any, head: Any, positions: Any, weights: npt.ArrayLike) -> None:
        found = self._attending(layer)
        (head,) = select("head", [head], self._core.config.attention.n_q)
        at, rows = self._positions(positions), self._floats("weights", weights, 1, 2)
        width = rows.shape[-1]
        if rows.ndim == 2 and len(rows) != len(at) or not 1 <= width <= self._core.context_length:
            raise WrongValue("weights", f" has shape {rows.shape}, expected ({len(at)}, tokens)")
        rows = np.broadcast_to(rows, (len(at), width))[np.argsort(at)]
        for own, start, end in _runs_of(at, rows):
            self._made.ops.append(again(self._plan, found, head, own, start, end, weights=True))

    def _attending(self, layer: Any) -> places.Layer:
        number = self._layer(layer)
        found = self._places.layers[number]
        if found.attend < 0:
            raise WrongValue("layer", f"={number}: it has no attention heads")
        return found

    def _reads(self, number: int) -> Change:
        """The place before an operation, and before the one that reorders its input's columns."""
        return Change(number - places.reordered(self._plan, number), before=True)

    # ---- neurons and experts ----------------------------------------------------------------------------------

    def scale_neurons(self, layer: Any, neurons: Any, factor: Any, positions: Any = None) -> None:
        number, buffer, at, which = self._neurons(layer, neurons)
        value = float(self._floats("factor", factor, 0))
        for start, end in self._ranges(positions):
            for first, last in _runs(which):
                width = last - first
                op = added(at, number, "edit neurons", buffer, first, None, start, end, scale=value, width=width)
                self._made.ops.append(op)

    def set_neurons(self, layer: Any, neurons: Any, values: npt.ArrayLike, positions: Any = None) -> None:
        number, buffer, where, which = self._neurons(layer, neurons)
        x, at = self._floats("values", values, 0, 1, 2), [0] if positions is None else self._positions(positions)
        shape = (len(at), len(which))
        if x.shape not in ((), shape[1:]) and (positions is None or x.shape != shape):
            raise WrongValue(
                "values", f" has shape {x.shape}, expected {shape if positions is not None else shape[1:]}"
            )
        rows = np.broadcast_to(x, shape)[np.argsort(at)][:, np.argsort(which)]
        given = [(rows[0], 0, EVERYWHERE)] if positions is None else list(_runs_of(at, rows))
        ordered = sorted(which)
        for every, start, end in given:
            for first, last in _runs(which):
                i = ordered.index(first)
                own = np.ascontiguousarray(every[..., i : i + last - first])
                op = added(where, number, "edit neurons", buffer, first, own, start, end, scale=0.0)
                self._made.ops.append(op)

    def _neurons(self, layer: Any, neurons: Any) -> tuple[int, int, Change, list[int]]:
        """(layer, buffer, the place where they can be changed, the neurons as given)."""
        number = self._layer(layer)
        tap = self._places.layers[number].neurons
        if tap is None:
            raise WrongValue("layer", f"={number}: it has no feed-forward network of its own")
        width = self._plan.buffers[tap.buffer].dim
        if neurons is None or isinstance(neurons, str):
            raise WrongType("neurons", " must be integers")
        given = _several("neurons", neurons, width + 1)
        which = [checks.integer("neurons", i, -width, width - 1) % width for i in given]
        if len(select("neurons", which, width)) != len(which):
            raise WrongValue("neurons", ": expected each one only once")
        return number, tap.buffer, Change(tap.op), which

    def scale_expert(self, layer: Any, expert: Any, factor: Any) -> None:
        number = self._layer(layer)
        route = self._places.layers[number].route
        if route < 0:
            raise WrongValue("layer", f"={number}: it has no experts")
        n = self._plan.buffers[self._plan.ops[route].tmp].dim
        (expert,) = select("expert", [expert], n)
        self._made.experts.append((number, expert, float(self._floats("factor", factor, 0))))

    def skip(self, layer: Any, part: Any) -> None:
        number = self._layer(layer)
        self._made.skipped.add((number, checks.choice("part", part, PARTS)))

    # ---- arguments --------------------------------------------------------------------------------------------

    def _layer(self, layer: Any) -> int:
        (number,) = select("layer", [layer], self._core.config.layers)
        return number

    def _ranges(self, positions: Any) -> list[tuple[int, int]]:
        """Ranges [from, to); None: everywhere."""
        return [(0, EVERYWHERE)] if positions is None else list(_runs(self._positions(positions)))

    def _positions(self, positions: Any, name: str = "positions") -> list[int]:
        """The positions as given. Raises ValueError or TypeError if one is invalid or occurs twice."""
        n, tokens = self._core.context_length, self._tokens
        if positions is None or isinstance(positions, (str, bytes, bytearray)):
            raise WrongType(name, " must be integers")
        values = []
        for i in _several(name, positions, n + 1):
            value = checks.integer(name, i, -n, n - 1)
            if value < 0 and tokens is None:
                found = "negative ones count from the end of the prompt that model.edit(prompt) is given"
                raise WrongValue(name, f"={value}: {found}")
            if value < 0 and value < -(tokens or 0):
                raise WrongValue(name, f"={value}: expected at least {-(tokens or 0)}, the prompt's first token")
            values.append(value + (tokens or 0) if value < 0 else value)
        if len(select(name, values, n)) != len(values):
            raise WrongValue(name, ": expected each one only once")
        return values

    def _rows(self, name: str, values: npt.ArrayLike, positions: Sequence[int], width: int) -> Floats:
        """Values for each position, in ascending order of these."""
        rows = self._floats(name, values, 1, 2)
        shape = (len(positions), width)
        if rows.shape not in (shape, shape[1:]):
            raise WrongValue(name, f" has shape {rows.shape}, expected {shape}")
        return np.broadcast_to(rows, shape)[np.argsort(positions)]

    @staticmethod
    def _floats(name: str, value: Any, *ndim: int) -> Floats:
        try:
            if value is None:
                raise TypeError
            if hasattr(type(value), "__len__") and len(value) > MOST_VALUES:  # checked before an array is made of it
                raise WrongValue(name, f" has {len(value)} entries: expected at most {MOST_VALUES}")
            given = np.asarray(value)
            if given.dtype.kind not in "biufO" or not all(hasattr(type(one), "__float__") for one in _objects(given)):
                raise TypeError
            with np.errstate(over="ignore"):  # numbers that are too large are refused below
                array = np.array(value, np.float64)
        except WrongValue:
            raise
        except Exception:  # converting the caller's objects may raise anything
            raise WrongType(name, " must be numbers") from None
        if array.ndim not in ndim:
            raise WrongValue(name, f" has {array.ndim} dimensions, expected {' or '.join(map(str, ndim))}")
        if not (np.abs(array) <= np.finfo(np.float32).max).all():
            raise WrongValue(name, " is not finite: expected numbers that fit 32 bits")
        return array.astype(np.float32)


def _objects(array: npt.NDArray[Any]) -> Iterable[Any]:
    """The objects that an array refers to; none if it holds numbers."""
    return array.flat if array.dtype.kind == "O" else ()


def _several(name: str, value: Any, most: int) -> Iterator[Any]:
    """The first `most` of several values, or a single value. Raises TypeError."""
    if not hasattr(type(value), "__iter__") or not getattr(value, "ndim", True):
        return iter([value])
    try:
        return islice(iter(value), most)
    except Exception:  # of the caller's class
        raise WrongType(name, " must be integers") from None


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


def _runs_of(positions: Sequence[int], rows: Floats) -> Iterator[tuple[Floats, int, int]]:
    """(rows, from, to) of each range of the positions; rows are in the ascending order of positions."""
    at = sorted(positions)
    for start, end in _runs(at):
        yield np.ascontiguousarray(rows[at.index(start) : at.index(start) + end - start]), start, end
