"""Runs the passes of a trace and keeps the wanted quantities."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid import _engine, checks
from pellucid.errors import WrongValue
from pellucid.look.norm import NormMap
from pellucid.look.places import Layer, Places, Tap
from pellucid.look.recorded import AXES

__all__ = [
    "Selection",
    "check_limit",
    "check_want",
    "estimate",
    "head_blocks",
    "record",
    "select",
]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Selection:
    """What a trace keeps of a sequence."""

    want: tuple[str, ...]
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    positions: tuple[int, ...]
    n: int  # tokens


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


# ---- sizes ----------------------------------------------------------------------------------------------------


def sizes(engine: _engine.Engine, places: Places, s: Selection) -> dict[str, int]:
    """Axis -> its length. Raises ValueError where the selected layers differ in their heads."""
    plan = engine.plan
    groups = {(g.n_q, g.n_kv, g.dk, g.dv) for i in s.layers if (g := places.layers[i].group) is not None} or {
        (g.n_q, g.n_kv, g.dk, g.dv) for g in plan.caches[:1]
    }
    if len(groups) > 1:
        raise ValueError("layers: the selected ones differ in their heads; trace each kind separately")
    (group,) = groups
    glu = next((layer.neurons for layer in places.layers if layer.neurons), None)
    return {
        "layer": len(s.layers),
        "after": len(s.layers) + 1,
        "head": len(s.heads),
        "kv_head": group[1],
        "position": len(s.positions),
        "token": s.n,
        "dim": plan.dim,
        "head_dim": group[2],
        "value_dim": group[3],
        "ff": plan.buffers[glu.buffer].dim if glu else 0,
        "vocab": plan.vocab,
    }


def shapes(engine: _engine.Engine, places: Places, s: Selection) -> dict[str, tuple[int, ...]]:
    size = sizes(engine, places, s)
    return {name: tuple(size[axis] for axis in AXES[name]) for name in s.want}


def estimate(engine: _engine.Engine, places: Places, s: Selection) -> dict[str, int]:
    """Quantity -> bytes that it will take."""
    return {name: 4 * int(np.prod(shape)) for name, shape in shapes(engine, places, s).items()}


def check_limit(engine: _engine.Engine, places: Places, s: Selection, limit: int) -> None:
    """Raises ValueError where the selection takes more than `limit` bytes; the message states what would fit."""
    parts = estimate(engine, places, s)
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
            if sum(estimate(engine, places, fewer).values()) <= limit:
                low = middle
            else:
                high = middle - 1
        if low:
            fits.append(f"{low} of {len(selected)} {name}")
    advice = f"; {' or '.join(fits)} would fit" if fits else ""
    raise WrongValue("limit", f"={limit}: the trace would take {total:,} bytes ({biggest}: {parts[biggest]:,}){advice}")


# ---- passes ---------------------------------------------------------------------------------------------------


def record(engine: _engine.Engine, ids: Sequence[int], s: Selection, places: Places, chunk: int) -> dict[str, Floats]:
    """Runs the sequence once -> quantity -> array. No bit depends on chunk, the rows of a pass."""
    shape = shapes(engine, places, s)
    out = {name: np.zeros(shape[name], np.float32) for name in s.want}
    raw = _raw(engine, places, s)  # what passes give directly; some of it is only needed to compute other quantities
    rows = {name: out[name] if name in out else np.zeros(size, np.float32) for name, size in raw.items()}
    taps = _taps(places, s, raw)
    positions = np.array(s.positions)
    sequence = _engine.Sequence(engine)
    step = min(chunk, engine.max_rows)
    for start in range(0, s.n, step):
        part = np.array(ids[start : start + step], np.int32)
        found, _ = engine.observe([(sequence, part, len(part))], taps=taps)
        tokens = slice(start, start + len(part))
        to = _run(np.nonzero((positions >= start) & (positions < tokens.stop))[0])
        _keep(rows, found, places, s, tokens, to, _run(positions[to] - start))
    for j, number in enumerate(s.layers):
        layer = places.layers[number]
        if layer.qkv is not None and ("scores" in out or "attention" in out):
            g = layer.group
            assert g is not None
            engine.attention(
                rows["q"][j],
                rows["k"][j],
                [h // (g.n_q // g.n_kv) for h in s.heads],
                positions,
                scale=layer.scale,
                window=g.window,
                scores=out["scores"][j] if "scores" in out else None,
                weights=out["attention"][j] if "attention" in out else None,
            )
        if layer.mixed is not None and "head_out" in out:
            out["head_out"][j] = head_parts(engine, layer, rows["mixed"][j], s.heads)
    if "logits" in out:
        for block, logits in head_blocks(engine, places, rows["last"]):
            out["logits"][block] = logits
    return out


_OF_LAYER = ("attention_out", "mlp_out", "neurons", "mixed")  # taps of Layer with a row per position


def _raw(engine: _engine.Engine, places: Places, s: Selection) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays that passes give directly and that the wanted quantities need."""
    want = set(s.want)
    size = sizes(engine, places, s)
    names = want & {"embeddings", "hidden", "q", "k", "v", *_OF_LAYER}
    if want & {"scores", "attention"}:
        names |= {"q", "k"}
    raw = {name: tuple(size[axis] for axis in AXES[name]) for name in names}
    if "head_out" in want:
        raw["mixed"] = (len(s.layers), len(s.positions), engine.plan.caches[0].n_q * size["value_dim"])
    if "logits" in want:
        raw["last"] = (len(s.positions), size["dim"])
    return raw


def _taps(places: Places, s: Selection, raw: Container[str]) -> list[Tap]:
    taps: set[Tap | None] = set()
    if "embeddings" in raw or "hidden" in raw:
        taps.add(places.embeddings)
    if "last" in raw:
        taps.add(places.last)
    for i in s.layers:
        layer = places.layers[i]
        taps |= {getattr(layer, name) for name in ("hidden", *_OF_LAYER) if name in raw}
        if "q" in raw or "k" in raw or "v" in raw:
            taps.add(layer.qkv)
    return sorted(tap for tap in taps if tap is not None)


def _run(indices: npt.NDArray[np.intp]) -> Any:
    """The same indices; as a slice where they are consecutive, since indexing with a slice makes no copy."""
    if len(indices) and int(indices[-1]) - int(indices[0]) + 1 == len(indices):
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return indices


def _keep(
    rows: dict[str, Floats],
    found: Mapping[tuple[int, int], Floats],
    places: Places,
    s: Selection,
    tokens: slice,
    to: Any,
    row: Any,
) -> None:
    """Copies the results of a pass over `tokens` into `rows`: from its rows `row` to the rows `to`."""
    for name, tap in (("embeddings", places.embeddings), ("last", places.last)):
        if name in rows:
            rows[name][to] = found[tap][row]
    if "hidden" in rows:
        rows["hidden"][0][to] = found[places.embeddings][row]
    for j, number in enumerate(s.layers):
        layer = places.layers[number]
        if "hidden" in rows:
            rows["hidden"][j + 1][to] = found[layer.hidden][row]
        for name in _OF_LAYER:
            tap = getattr(layer, name)
            if name in rows and tap is not None:
                rows[name][j][to] = found[tap][row]
        if layer.qkv is None or layer.qkv not in found:
            continue
        g, qkv = layer.group, found[layer.qkv]
        assert g is not None
        a, b = g.n_q * g.dk, (g.n_q + g.n_kv) * g.dk
        if "q" in rows:
            heads = qkv[row, :a].reshape(-1, g.n_q, g.dk)[:, _run(np.array(s.heads))]
            rows["q"][j][:, to] = heads.swapaxes(0, 1)
        if "k" in rows:
            rows["k"][j][:, tokens] = qkv[:, a:b].reshape(-1, g.n_kv, g.dk).swapaxes(0, 1)
        if "v" in rows:
            rows["v"][j][:, tokens] = qkv[:, b:].reshape(-1, g.n_kv, g.dv).swapaxes(0, 1)


# ---- heads' parts ---------------------------------------------------------------------------------------------


def projection(engine: _engine.Engine, layer: Layer) -> Floats:
    """W_o, dequantised -> (dim, heads * value_dim)."""
    plan = engine.plan
    return engine.matrix(plan.segments[plan.ops[layer.project].seg].matrix)


def post_norm(engine: _engine.Engine, layer: Layer, projected: npt.NDArray[Any]) -> NormMap:
    """The post-norm of attention for these rows (m, dim) of its projection, bias included."""
    return NormMap.of(engine.plan, engine.plan.ops[layer.project], projected)


def projection_bias(engine: _engine.Engine, layer: Layer) -> Any:
    plan = engine.plan
    bias = plan.segments[plan.ops[layer.project].seg].bias
    return 0.0 if bias < 0 else plan.vectors[bias].data


def head_parts(engine: _engine.Engine, layer: Layer, mixed: Floats, heads: Sequence[int]) -> Floats:
    """What each head adds to the residual stream -> (heads, m, dim)."""
    g, w = layer.group, projection(engine, layer)
    assert g is not None
    per = mixed.reshape(len(mixed), g.n_q, g.dv)
    norm = post_norm(engine, layer, mixed @ w.T + projection_bias(engine, layer))
    parts = np.empty((len(heads), len(mixed), len(w)), np.float32)
    for i, h in enumerate(heads):
        parts[i] = norm.forward(per[:, h] @ w[:, h * g.dv : (h + 1) * g.dv].T)
    return parts


# ---- the head -------------------------------------------------------------------------------------------------


def head_blocks(engine: _engine.Engine, places: Places, x: Floats, rows: int = 64) -> Iterator[tuple[slice, Floats]]:
    """Logits of rows of the residual stream (n, dim), computed by the model's head. Yields (slice of the rows, logits
    (m, vocab)), m <= `rows`."""
    sequence = _engine.Sequence(engine)
    for start in range(0, len(x), rows):
        part = np.ascontiguousarray(x[start : start + rows])
        out = np.empty((len(part), engine.vocab), np.float32)
        engine.observe(
            [(sequence, np.zeros(len(part), np.int32), 0)],
            ops=(places.head, places.head + 1),
            feeds={places.last.buffer: part},
            out=out,
            at=0,
        )
        yield slice(start, start + len(part)), out
