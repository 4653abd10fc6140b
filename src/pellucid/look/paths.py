"""Direct paths from a head to later heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid import checks
from pellucid.core import Core, Loaded
from pellucid.errors import WrongType, WrongValue
from pellucid.look import record
from pellucid.look.experiments import live, single, together
from pellucid.look.places import Layer, Tap, channels, find
from pellucid.look.sizes import select
from pellucid.options import Prompt
from pellucid.plan import Plan
from pellucid.schedule.turns import Turns

__all__ = ["Path", "path"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Path:
    """The direct contribution of a head's output to a later head, through only the residual stream.

    ``q``, ``k``, ``v`` (n, width): the part of the later head's queries, keys and values at each of the n tokens;
    ``scores_q``, ``scores_k`` (n, n): the part of its scores, row i and key j, through the query of i and the key of j.
    """

    sender: tuple[int, int]
    receiver: tuple[int, int]
    q: Floats
    k: Floats
    v: Floats
    scores_q: npt.NDArray[np.float64]
    scores_k: npt.NDArray[np.float64]

    def __repr__(self) -> str:
        return f"<Path from head {self.sender[0]}.{self.sender[1]} to {self.receiver[0]}.{self.receiver[1]}>"


def path(model: Loaded, prompt: Prompt, sender: Any, receiver: Any) -> Path:
    """The change of a head's queries, keys and values without the output of an earlier head, if everything in between
    stays the same.

    sender, receiver: (layer, head). The later head's norm is recomputed. Raises ValueError or TypeError naming the
    argument. Use a model with ``precision="high"``.
    """
    core = model.core
    engine = core.decoder()
    plan, places, ids = engine.plan, find(engine.plan), single(core, prompt, "prompt")
    (a, i), (b, j) = _pair(core, "sender", sender), _pair(core, "receiver", receiver)
    if a >= b:
        raise WrongValue("receiver", f"={receiver!r}: expected a layer after {a}, the sender's")
    first, later = places.layers[a], places.layers[b]
    for name, number, layer in (("sender", a, first), ("receiver", b, later)):
        if layer.mixed is None or layer.group is None or layer.qkv is None:
            raise WrongValue(name, f": layer {number} has no attention heads")
    assert first.mixed is not None and later.qkv is not None and later.group is not None
    start, end = later.entry.op + 1, later.qkv.op + 1
    needed = live(plan, start)
    taps = sorted({first.mixed, later.qkv, *(Tap(start - 1, buffer) for buffer in needed)})
    wholes, lesses = [], []
    with Turns(core, "trace", [len(ids)]) as turns:
        sequence, step = turns.sequence(), together(engine)
        for begin in range(0, len(ids), step):
            rows = np.array(ids[begin : begin + step], np.int32)
            found = turns.rows_of(sequence, ids, begin + len(rows), taps)
            (part,) = record.head_parts(engine, first, found[first.mixed], [i])
            feeds = {buffer: found[Tap(start - 1, buffer)] for buffer in needed}
            feeds[later.entry.buffer] = feeds[later.entry.buffer] - part
            without, _ = turns.observe(
                [(sequence, rows, len(rows))], ops=(start, end), feeds=feeds, taps=[later.qkv], at=begin
            )
            wholes.append(found[later.qkv])
            lesses.append(without[later.qkv])
    whole = _heads(plan, later, np.concatenate(wholes), j)
    less = _heads(plan, later, np.concatenate(lesses), j)
    parts = {name: whole[name] - less[name] for name in whole}
    k = whole["k"] if later.keys == later.qkv else np.zeros_like(whole["k"])
    by_q = later.scale * (parts["q"].astype(np.float64) @ k.T)
    by_k = later.scale * (whole["q"].astype(np.float64) @ parts["k"].T)
    return Path((a, i), (b, j), parts["q"], parts["k"], parts["v"], by_q, by_k)


def _heads(plan: Plan, layer: Layer, rows: Floats, head: int) -> dict[str, Floats]:
    g = layer.group
    assert g is not None
    if layer.keys != layer.qkv:  # only queries, which attend to the keys and values of an earlier layer
        rows = np.pad(rows, [(0, 0), (0, g.n_kv * (g.dk + g.dv))])
    found = record.split(g, rows, rows)
    kv = head // (g.n_q // g.n_kv)
    q, k, v = found["q"][:, head], found["k"][:, kv], found["v"][:, kv]
    order = channels(plan, layer)
    return {"q": q if order is None else q[:, order], "k": k if order is None else k[:, order], "v": v}


def _pair(core: Core, name: str, value: Any) -> tuple[int, int]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise WrongType(name, f"={checks.shown(value)}: expected (layer, head)")
    layer = select(name, value[0], core.config.layers)
    head = select(name, value[1], core.config.attention.n_q)
    if len(layer) != 1 or len(head) != 1:
        raise WrongType(name, f"={checks.shown(value)}: expected (layer, head)")
    return layer[0], head[0]
