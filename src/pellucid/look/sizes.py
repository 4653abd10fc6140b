"""The sizes of a trace's arrays, and whether they fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pellucid import _engine, checks
from pellucid.errors import WrongValue
from pellucid.look.places import Places
from pellucid.look.recorded import AXES, OF_SOME
from pellucid.plan import Plan

__all__ = [
    "Selection",
    "Shape",
    "check_limit",
    "check_want",
    "count",
    "estimate",
    "of_layer",
    "of_whole",
    "select",
    "shapes",
]

Shape = tuple[int, ...]
LACKS = {
    "routes": "experts",
    "gates": "gates of its output",
    "conv": "a convolution",
    "states": "a recurrence",
    "gate": "a feed-forward network of its own",
    "up": "a second factor of its neurons",
}
MIXING = ("q", "k", "v", "q_unrotated", "k_unrotated", "mixed")  # for layers with attention; zeros if no layer has it


@dataclass(frozen=True)
class Selection:
    """The parts of a sequence that a trace keeps."""

    want: tuple[str, ...]
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    positions: tuple[int, ...]
    n: int  # tokens
    cached: int = 0  # number of tokens that are not computed, since a sequence has them


def check_want(want: Any) -> tuple[str, ...]:
    expected = f"some of {', '.join(AXES)}"
    names = set()
    for at, name in [("", want)] if isinstance(want, str) else checks.items("want", want, expected):
        name = checks.string("want", name, expected, at=at)
        if name not in AXES:
            raise checks.wrong_value("want", name, expected)
        names.add(name)
    return tuple(name for name in AXES if name in names)


def select(name: str, value: Any, n: int) -> tuple[int, ...]:
    """Indices in [0, n), ascending, from None (all), an integer or several; negative ones count from the end. Raises
    ValueError or TypeError naming the argument."""
    if value is None:
        return tuple(range(n))
    several = hasattr(type(value), "__iter__") and getattr(value, "ndim", True)
    values = checks.items(name, value, "integers") if several else [("", value)]
    out = {checks.integer(name, i, -n, n - 1) % n for _, i in values}
    if not out:
        raise WrongValue(name, " is empty: expected at least one index")
    return tuple(sorted(out))


def of_whole(name: str) -> bool:
    """Whether a quantity has no layers."""
    return AXES[name][0] not in ("layer", "after")


def of_layer(plan: Plan, places: Places, number: int, s: Selection, name: str) -> Shape | None:
    """The shape of a quantity in one layer; None if the layer lacks it."""
    layer, buffers = places.layers[number], plan.buffers
    size = {"head": len(s.heads), "position": len(s.positions), "token": s.n, "dim": plan.dim, "mixed_dim": layer.value}
    if (g := layer.group) is not None:
        size |= {"kv_head": g.n_kv, "head_dim": g.dk, "value_dim": g.dv}
    if layer.neurons is not None and not (name == "up" and layer.up is None):
        size["ff"] = buffers[layer.neurons.buffer].dim
    if layer.route >= 0:
        size["expert"] = buffers[plan.ops[layer.route].tmp].dim
    if layer.gates is not None:
        size["gate"] = layer.gates.width
    if layer.conv is not None:
        size["channel"] = buffers[layer.conv.buffer].dim
    if layer.state is not None and (kind := plan.states[layer.state[0]].layer).n_v:
        size |= {"state_head": kind.n_v, "state_key": kind.dk, "state_value": kind.dv}
    axes = AXES[name][1:]
    lacks = name in MIXING and layer.group is None
    return None if lacks or any(axis not in size for axis in axes) else tuple(size[axis] for axis in axes)


def shapes(engine: _engine.Engine, places: Places, s: Selection) -> dict[str, Shape | list[Shape]]:
    """Quantity -> the shape of its array; if the selected layers differ, of each layer's array. Raises ValueError if
    layers have experts, and so no neurons of one feed-forward network, or lack a quantity that only some models
    have."""
    plan = engine.plan
    routed = [i for i in s.layers if places.layers[i].routed]
    for name in ("gate", "up", "neurons"):
        if routed and name in s.want:
            raise ValueError(f"want: layer {routed[0]} has experts, and no {name} that a trace can record")
    return {name: _shape(plan, places, s, name) for name in s.want}


def _shape(plan: Plan, places: Places, s: Selection, name: str) -> Shape | list[Shape]:
    whole = {"position": len(s.positions), "dim": plan.dim, "vocab": plan.vocab}
    if of_whole(name):
        return tuple(whole[axis] for axis in AXES[name])
    if name == "hidden":
        return len(s.layers) + 1, len(s.positions), plan.dim
    found = [of_layer(plan, places, i, s, name) for i in s.layers]
    usual = next((shape for shape in found if shape is not None), None)
    if usual is None and name in (*OF_SOME, "gate", "up"):
        raise WrongValue("want", f": no selected layer has {LACKS[name]}, and so no {name}")
    if usual is None:  # no attention, or no feed-forward network, anywhere: zeros
        usual = _of_others(plan, places, s, name)
    each = [usual if shape is None else shape for shape in found]
    return each if len({*each}) > 1 else (len(each), *usual)


def _of_others(plan: Plan, places: Places, s: Selection, name: str) -> Shape:
    """The shape in a layer outside the selection; if no layer has the quantity, with length 1 for missing axes."""
    for i in range(len(places.layers)):
        if (shape := of_layer(plan, places, i, s, name)) is not None:
            return shape
    size = {"head": len(s.heads), "position": len(s.positions), "token": s.n, "ff": 0}
    return tuple(size.get(axis, 1) for axis in AXES[name][1:])


def count(shape: Shape | list[Shape]) -> int:
    """Elements of an array, or of several."""
    return sum(map(count, shape)) if isinstance(shape, list) else int(np.prod(shape, dtype=np.int64))


def estimate(engine: _engine.Engine, places: Places, s: Selection) -> dict[str, int]:
    """Quantity -> bytes that it takes."""
    return {name: 4 * count(shape) for name, shape in shapes(engine, places, s).items()}


def check_limit(parts: Mapping[str, int], s: Selection, limit: int, smaller: Any) -> None:
    """Raises ValueError if the parts of a trace take more than `limit` bytes; the message states how many layers or
    positions would fit, if any. smaller: returns the parts of another selection."""
    total = sum(parts.values())
    if total <= limit:
        return
    biggest = max(parts, key=lambda name: parts[name])
    axes = {axis for name in s.want for axis in AXES[name]}
    fits = []
    for axis, name in (("layer", "layers"), ("head", "heads"), ("position", "positions")):
        if axis not in axes and not (axis == "layer" and "after" in axes):
            continue
        selected: tuple[int, ...] = getattr(s, name)
        low, high = 0, len(selected)  # bisection for the largest number that fits
        while low < high:
            middle = (low + high + 1) // 2
            fewer = replace(s, **{name: selected[:middle]})  # type: ignore[arg-type]
            if sum(smaller(fewer).values()) <= limit:
                low = middle
            else:
                high = middle - 1
        if low:
            fits.append(f"{low} of {len(selected)} {name}")
    advice = f"; {' or '.join(fits)} would fit" if fits else ""
    raise WrongValue("limit", f"={limit}: the trace would take {total:,} bytes ({biggest}: {parts[biggest]:,}){advice}")
