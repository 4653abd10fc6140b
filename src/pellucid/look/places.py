"""Where in a plan each quantity of a trace can be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from pellucid._engine import Kind
from pellucid.plan import CacheGroup, Plan

__all__ = ["Layer", "Places", "Tap", "find"]


class Tap(NamedTuple):
    """The contents of a buffer after an operation."""

    op: int
    buffer: int


@dataclass(frozen=True)
class Layer:
    """The taps of one layer; None where an edit skipped the part."""

    entry: Tap  # the residual stream before the layer
    hidden: Tap  # the residual stream after the layer
    qkv: Tap | None  # rotated queries and keys, and values, concatenated
    mixed: Tap | None  # the heads' outputs, concatenated, before the projection
    attention_out: Tap | None  # what attention adds to the residual stream
    neurons: Tap | None
    mlp_out: Tap | None
    edits: tuple[tuple[Tap, Tap], ...]  # the residual stream before and after each edit of it
    group: CacheGroup | None  # the sizes of its heads
    scale: float  # multiplies the scores
    project: int  # index of the operation that adds attention's output; -1: none


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
    n_layers = sum(group.n_layers for group in plan.caches)
    (embed,) = (i for i, op in enumerate(ops) if op.kind.lookup)
    (head,) = (i for i, op in enumerate(ops) if op.kind.wanted)
    x = ops[embed].out
    stream = Tap(embed, x)
    layers = []
    for number in range(n_layers):
        entry, qkv, mixed, attention, neurons, mlp, edits = stream, None, None, None, None, None, []
        group, scale, project, mixes = None, 1.0, -1, -1
        for i, op in enumerate(ops):
            if op.layer != number:
                continue
            if op.kind.stores:
                qkv, group = Tap(i, op.inp), plan.caches[op.cache]
            elif op.kind.attends:
                mixes, scale = op.out, op.scale
            elif op.kind == Kind.GLU:
                neurons = Tap(i, op.out)
            elif op.kind.adds and op.inp == mixes:
                mixed, attention, project = Tap(i - 1, mixes), Tap(i, op.tmp), i
            elif op.kind.adds:
                mlp = Tap(i, op.tmp)
            elif op.out == x:
                edits.append((stream, Tap(i, x)))
            if op.out == x:
                stream = Tap(i, x)
        layers.append(Layer(entry, stream, qkv, mixed, attention, neurons, mlp, tuple(edits), group, scale, project))
    return Places(Tap(embed, x), tuple(layers), head)
