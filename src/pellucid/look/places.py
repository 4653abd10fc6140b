"""Where in a plan each quantity of a trace can be read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pellucid._engine import ACTIVATIONS, Kind
from pellucid.plan import CacheGroup, Op, Plan

__all__ = ["CHANGE", "GATE", "Gate", "Layer", "Places", "Tap", "channels", "find", "reordered", "with_gates"]

CHANGE = {"attention": "edit attention", "mlp": "edit mlp"}  # names of edits of the output of a part of a layer
GATE = "gate"  # name of the operations that expose the input of a feed-forward unit's activation


class Tap(NamedTuple):
    """The contents of a buffer after an operation."""

    op: int
    buffer: int


class Gate(NamedTuple):
    """Columns of a buffer that become factors: act(column)."""

    tap: Tap
    column: int
    width: int
    act: int


@dataclass(frozen=True)
class Layer:
    """The taps of one layer; None or empty if it lacks the part or an edit skipped it."""

    entry: Tap  # the residual stream before the layer
    hidden: Tap  # the residual stream after the layer
    qkv: Tap | None  # rotated queries and keys, and values, concatenated; or queries alone
    keys: Tap | None  # the same for the layer whose keys and values this one reads
    unrotated: Tap | None  # as qkv, before the rotation
    keys_unrotated: Tap | None
    rope: int  # the rotation's table; -1: none
    mixed: Tap | None  # the attention heads' outputs, concatenated, before the projection
    attention_in: Tap | None  # input of attention or of a recurrence
    attention_out: tuple[Tap, ...]  # outputs of attention and recurrences that are added to the residual stream
    attention_changes: tuple[tuple[Tap, Tap], ...]  # the residual stream before and after each edit of these
    middle: Tap  # the residual stream after these
    mlp_in: Tap | None  # input of the feed-forward network
    gate: Tap | None  # input of the neurons' activation, if an operation exposes it
    up: Tap | None  # the second factor of `neurons`
    neurons: Tap | None
    mlp_out: tuple[Tap, ...]  # outputs of feed-forward networks, besides `experts`
    routed: bool  # it has experts
    experts: tuple[tuple[Tap, Tap], ...]  # the residual stream before and after each addition of experts' outputs, and
    # before and after each edit of what the feed-forward network adds
    edits: tuple[tuple[Tap, Tap], ...]  # the residual stream before and after each edit of it, or other change
    group: CacheGroup | None  # the sizes of its heads
    value: int  # columns of a head's output
    attend: int  # index of the operation; -1: none
    again: tuple[int, ...]  # edits of single heads' attention
    scale: float  # multiplies the scores
    cap: float  # soft cap of the scores; 0: none
    sinks: int  # the vector with each query head's sink; -1: none
    project: int  # index of the operation that adds attention's output, or else a recurrence's; -1: none
    down: int  # index of the operation that adds the projection of the neurons; -1: none
    rest: int  # index of the first operation after the feed-forward network's; -1: none
    route: int  # index of the operation that chooses experts; -1: none
    routes: Tap | None  # numbers of the chosen experts, then their weights
    gates: Gate | None  # factors of the output of attention or of the recurrence
    conv: Tap | None  # the convolution's output, after its activation
    state: tuple[int, int] | None  # (group, layer in it) of a recurrence's state


@dataclass(frozen=True)
class Places:
    embeddings: Tap
    layers: tuple[Layer, ...]
    head: int  # index of the operation

    @property
    def last(self) -> Tap:
        """The residual stream that the head reads."""
        return self.layers[-1].hidden if self.layers else self.embeddings


def find(plan: Plan) -> Places:
    """Finds the places from the kinds and buffers of a plan's operations."""
    ops = plan.ops
    embed = next(i for i, op in enumerate(ops) if op.kind.lookup)  # there may be other tables
    (head,) = (i for i, op in enumerate(ops) if op.kind.wanted)
    x = ops[embed].out
    first = next((i for i, op in enumerate(ops) if op.layer >= 0), head)
    start = stream = Tap(max(i for i in range(first) if ops[i].out == x), x)  # positions are added to the embeddings
    layers = []
    stored: dict[tuple[int, int], tuple[Tap, Tap]] = {}  # (cache group, layer in it) -> where its keys and values are
    for number in range(plan.layers):
        entry = middle = stream
        qkv = keys = unrotated = keys_unrotated = mixed = neurons = gate = up = attention_in = mlp_in = None
        attention: list[Tap] = []
        mlp: list[Tap] = []
        edits: list[tuple[Tap, Tap]] = []
        changes: list[tuple[Tap, Tap]] = []  # of attention's output
        experts, routed, rest, route, gates, conv, state = [], False, -1, -1, None, None, None
        group, scale, cap, sinks, project, down, mixes, rope = None, 1.0, 0.0, -1, -1, -1, -1, -1
        attend, again = -1, list[int]()
        mixers: set[int] = set()  # buffers with the output of attention or of a recurrence; mixes: of attention
        gated = {op.out for op in ops if op.layer == number and op.kind == Kind.GATE}
        same: dict[int, int] = {}  # a buffer with another one's columns in a different order -> that one
        for i, op in enumerate(ops):
            if op.layer != number:
                continue
            read = same.get(op.inp, op.inp)
            whole = plan.buffers[read].dim == plan.dim if read >= 0 else False
            if op.kind.stores:
                if unrotated is None or unrotated.buffer != op.inp:
                    unrotated, rope = Tap(i - 1, op.inp), op.rope
                qkv = Tap(i, op.inp)
                if op.stores:
                    stored[op.cache, op.cache_layer] = qkv, unrotated
            elif op.kind == Kind.REATTEND:
                again.append(i)
            elif op.kind.attends:
                attend, mixes, scale, cap, sinks = i, op.out, op.scale, op.cap, op.vec
                mixers.add(mixes)
                group = plan.caches[op.cache]
                keys, keys_unrotated = stored.get((op.cache, op.cache_layer), (None, None))
            elif op.kind == Kind.REORDER and not op.name.startswith("edit"):
                same[op.out] = op.inp
            elif op.kind == Kind.LINEAR and read == mixes:  # per head (latent.py)
                mixes = op.out
                mixers.add(mixes)
            elif op.kind == Kind.LINEAR and attention_in is None and whole:
                attention_in = Tap(i - 1, read)
            elif op.kind == Kind.CONV:
                conv = Tap(i, op.out)
                mixers.add(op.out)
            elif op.kind == Kind.SCAN:
                state = op.state, op.state_layer
                mixers.add(op.out)
            elif op.kind == Kind.GATE and op.out in mixers and not attention:
                gates = Gate(Tap(i, op.inp), op.column, -(-plan.buffers[op.out].dim // op.each), op.act)
            elif op.kind.routes and route < 0:
                route = i
                mlp_in = mlp_in or Tap(i - 1, read)
            elif op.kind == Kind.GLU and op.out in gated:  # of an embedding of this layer (Gemma 4)
                rest = i
            elif op.kind == Kind.GLU and op.name == GATE:
                gate = Tap(i, op.out)
            elif op.kind == Kind.GLU:
                neurons, up = Tap(i, op.out), Tap(i, op.tmp) if op.n_seg == 2 else None
                mlp_in = Tap(i - 1, read)
            elif op.kind.adds and read in mixers:
                attention.append(Tap(i, op.tmp))
                if mixes < 0 or read == mixes:
                    project = i
                if read == mixes:
                    mixed = Tap(i - 1, mixes)
                middle = Tap(i, x)
            elif op.kind.adds and op.kind.routed:
                routed = True
                if op.out == x:
                    experts.append((stream, Tap(i, x)))
            elif op.kind.adds and op.inp not in gated:
                mlp.append(Tap(i, op.tmp))
                if neurons is not None and read == neurons.buffer:
                    down = i
            elif op.out == x and op.name == CHANGE["attention"]:
                changes.append((stream, Tap(i, x)))
                middle = Tap(i, x)
            elif op.out == x and op.name == CHANGE["mlp"]:
                experts.append((stream, Tap(i, x)))
            elif op.kind == Kind.SCALE_ADD and op.out == x and op.inp != x and op.scale == 1:
                mlp.append(Tap(i, op.inp))
            elif op.out == x:
                edits.append((stream, Tap(i, x)))
            if op.out == x:
                stream = Tap(i, x)
        layers.append(
            Layer(
                entry=entry,
                hidden=stream,
                qkv=qkv,
                keys=keys,
                unrotated=unrotated,
                keys_unrotated=keys_unrotated,
                rope=rope,
                mixed=mixed,
                attention_in=attention_in,
                attention_out=tuple(attention),
                attention_changes=tuple(changes),
                middle=middle,
                mlp_in=mlp_in,
                gate=gate,
                up=up,
                neurons=neurons,
                mlp_out=tuple(mlp),
                routed=routed,
                experts=tuple(experts),
                edits=tuple(edits),
                group=group,
                value=plan.buffers[mixes].dim // group.n_q if group else 0,
                attend=attend,
                again=tuple(again),
                scale=scale,
                cap=cap,
                sinks=sinks,
                project=project,
                down=down,
                rest=rest,
                route=route,
                routes=Tap(route, ops[route].out) if route >= 0 else None,
                gates=gates,
                conv=conv,
                state=state,
            )
        )
    return Places(start, tuple(layers), head)


def channels(plan: Plan, layer: Layer) -> npt.NDArray[np.intp] | None:
    """The order of a query's or key's channels in a trace, whatever the file's: channels that are rotated as a pair are
    i and i + n / 2 of the n rotated ones. -> the file's channel for each; None if the file has this order."""
    if layer.rope < 0 or layer.group is None or plan.ropes[layer.rope].halves:
        return None
    rope, order = plan.ropes[layer.rope], np.arange(layer.group.dk)
    end = rope.first + 2 * len(rope.freq)
    order[rope.first : end] = np.concatenate([np.arange(rope.first, end, 2), np.arange(rope.first + 1, end, 2)])
    return order


def reordered(plan: Plan, number: int) -> bool:
    """Whether the operation before this one reorders the columns that it reads."""
    before = plan.ops[number - 1]
    return before.kind == Kind.REORDER and before.out == plan.ops[number].inp


def with_gates(plan: Plan) -> Plan:
    """The plan with another operation before each feed-forward unit, which exposes the input of its activation; the
    units themselves overwrite it."""
    ops: list[Op] = []
    buffers = list(plan.buffers)
    gated = {op.out for op in plan.ops if op.kind == Kind.GATE}
    for op in plan.ops:
        if op.kind == Kind.GLU and op.out not in gated:
            width = buffers[op.out].dim
            buffers.append(type(buffers[0])(GATE, width))
            own = {"out": len(buffers) - 1, "tmp": -1, "n_seg": 1, "act": ACTIVATIONS["none"], "vec": -1}
            ops.append(replace(op, name=GATE, **own))  # type: ignore[arg-type]
        ops.append(op)
    return replace(plan.changed(ops, list(plan.vectors)), buffers=buffers)
