"""Applies edits to a plan."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from pellucid._engine import FLAGS, Kind
from pellucid.look import places
from pellucid.plan import EVERYWHERE, Op, Plan, Vector

__all__ = ["Change", "Changes", "Inserted", "added", "again", "copied", "edited"]

Floats = npt.NDArray[np.float32]
COPY = "edit stream"  # the buffer with the residual stream before a part of a layer


@dataclass(frozen=True)
class Change:
    """Where an edit acts: after an operation of the plan, or before it; rotated: within one that rotates queries and
    keys and appends keys and values, between the two."""

    at: int
    before: bool = False
    rotated: bool = False


@dataclass(frozen=True)
class Inserted:
    """An operation of an edit. rows: its vector. copy: it reads the copy of the stream; copies: it makes that copy."""

    where: Change
    op: Op
    rows: Floats | None
    copy: bool = False
    copies: bool = False


@dataclass
class Changes:
    """The edits of a plan, in the order in which they were made."""

    skipped: set[tuple[int, str]] = field(default_factory=set)
    experts: list[tuple[int, int, float]] = field(default_factory=list)
    ops: list[Inserted] = field(default_factory=list)


def added(
    where: Change,
    layer: int,
    name: str,
    buffer: int,
    column: int,
    rows: Floats | None,
    start: int = 0,
    end: int = EVERYWHERE,
    *,
    scale: float = 1.0,
    width: int = 0,
    copy: bool = False,
) -> Inserted:
    """At positions [start, end), multiplies columns of a buffer by `scale`, and adds rows, which are one vector, one
    for each position, or the copy of the residual stream."""
    op = Op(Kind.SCALE_ADD, layer, name, inp=buffer, out=buffer, scale=scale, column=column, pos_from=start, pos_to=end)
    op.width = width if rows is None else rows.shape[-1]
    op.each = int(rows is not None and rows.ndim > 1)
    return Inserted(where, op, rows, copy)


def copied(where: Change, layer: int, buffer: int, width: int) -> Inserted:
    """Copies the residual stream."""
    op = Op(Kind.REORDER, layer, COPY, inp=buffer, out=buffer)
    return Inserted(where, op, np.arange(width, dtype=np.float32), copies=True)


def again(
    plan: Plan,
    layer: places.Layer,
    head: int,
    rows: Floats,
    start: int,
    end: int,
    *,
    weights: bool = False,
) -> Inserted:
    """At positions [start, end), makes a head attend only to keys for which `rows` is not 0 and to keys beyond `rows`,
    or sets its weights."""
    op = plan.ops[layer.attend]
    made = replace(
        op,
        kind=Kind.REATTEND,
        name="edit attention of a head",
        vec2=op.vec,
        column=head,
        width=rows.shape[-1],
        pos_from=start,
        pos_to=end,
        each=int(rows.ndim > 1),
        flags=FLAGS["weights"] if weights else 0,
    )
    return Inserted(Change(layer.attend), made, rows)


def edited(plan: Plan, found: places.Places, made: Changes) -> Plan:
    """A copy of the plan with edits applied; matrices keep their numbers."""
    x = found.embeddings.buffer
    vectors, buffers = list(plan.vectors), list(plan.buffers)
    if any(one.copies for one in made.ops):
        buffers.append(type(buffers[x])(COPY, plan.dim))
    inserted: dict[Change, list[Op]] = {}
    for one in made.ops:
        op = replace(one.op)  # the plan's own copy
        if one.rows is not None:
            vectors.append(Vector("edit", np.ascontiguousarray(one.rows).reshape(-1)))
            op.vec = len(vectors) - 1
        if one.copy:
            op.inp = len(buffers) - 1
        if one.copies:
            op.out = len(buffers) - 1
        inserted.setdefault(one.where, []).append(op)
    routes: dict[int, Op] = {}
    for number, expert, factor in made.experts:
        i = found.layers[number].route
        op = routes.get(i, plan.ops[i])
        n = plan.buffers[op.tmp].dim
        factors = np.ones(n, np.float32) if op.vec2 < 0 else vectors[op.vec2].data.copy()
        factors[expert] *= np.float32(factor)
        vectors.append(Vector("edit expert", factors))
        routes[i] = replace(op, vec2=len(vectors) - 1)
    left_out = _left_out(plan, found, made.skipped)
    ops: list[Op] = []
    for i, op in enumerate(plan.ops):
        gone = i in left_out

        def of(i: int = i, gone: bool = gone, **where: bool) -> list[Op]:
            """The operations inserted there; if the operation is left out, only those that change the residual
            stream."""
            return [op for op in inserted.get(Change(i, **where), ()) if not gone or x in (op.out, op.inp)]

        between = of(rotated=True)
        ops += of(before=True)
        if between and op.rope >= 0:
            ops += [replace(op, flags=op.flags | FLAGS["rotate_only"]), *between, replace(op, rope=-1, vec=-1)]
        elif not gone:
            ops += [*between, routes.get(i, op)]
        ops += of()
    return replace(plan.changed(ops, vectors), buffers=buffers)


def _left_out(plan: Plan, found: places.Places, skipped: set[tuple[int, str]]) -> set[int]:
    """The operations of the skipped parts, except those that others read: the norm before a parallel residual, the keys
    and values that later layers attend to."""
    x = found.embeddings.buffer
    out = set()
    for i, op in enumerate(plan.ops):
        part, rest = "mlp", found.layers[op.layer].rest if op.layer >= 0 else -1
        if op.layer >= 0 and any(i <= tap.op for tap in found.layers[op.layer].attention_out):
            part = "attention"
        # An edit of the stream, made by a view that this one is based on, or an operation after the feed-forward
        # network.
        own = op.inp == x or op.name in places.CHANGE.values()
        kept = (op.kind == Kind.SCALE_ADD and op.out == x and own) or 0 <= rest <= i
        if not kept and (op.layer, part) in skipped:
            out.add(i)
    needed: set[int] = set()  # buffers that later operations read
    stored: set[tuple[int, int]] = set()  # layers of the cache, likewise
    for i in range(len(plan.ops) - 1, -1, -1):
        op = plan.ops[i]
        fills = op.kind.stores and op.stores and (op.cache, op.cache_layer) in stored
        if i in out and (fills or (op.out in needed and op.out != x)):
            out.discard(i)
        if i in out:
            continue
        if op.kind.attends:
            stored.add((op.cache, op.cache_layer))
        if op.out != op.inp and not _keeps(op):
            needed.discard(op.out)
        needed |= {op.inp, op.tmp} if op.kind in _READ_TMP else {op.inp}
        if _keeps(op):
            needed.add(op.out)
    return out


# Kinds whose `tmp` is only read.
_READ_TMP = (Kind.EXPERTS, Kind.EXPERTS_ADD, Kind.SCAN)


def _keeps(op: Op) -> bool:
    """Whether an operation leaves a part of its output unchanged."""
    return op.kind in (Kind.GATE, Kind.SCALE_ADD, Kind.NORM, Kind.ROPE_APPEND, Kind.LINEAR_ADD, Kind.EXPERTS_ADD)
