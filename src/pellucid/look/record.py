"""Runs the passes of a trace and keeps what was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid import _engine
from pellucid.look import attention
from pellucid.look.places import Layer, Places, Tap, find

__all__ = [
    "AXES",
    "Selection",
    "check_limit",
    "check_want",
    "estimate",
    "head_blocks",
    "places_of",
    "record",
    "select",
    "single",
]

Floats = npt.NDArray[np.float32]

# Quantity -> its axes. "layers", "heads" and "positions" are those selected; "hidden" has the embeddings first.
AXES: dict[str, tuple[str, ...]] = {
    "embeddings": ("position", "dim"),
    "hidden": ("after", "position", "dim"),
    "q": ("layer", "head", "position", "head_dim"),
    "k": ("layer", "kv_head", "token", "head_dim"),
    "v": ("layer", "kv_head", "token", "value_dim"),
    "scores": ("layer", "head", "position", "token"),
    "attention": ("layer", "head", "position", "token"),
    "attention_out": ("layer", "position", "dim"),
    "mlp_out": ("layer", "position", "dim"),
    "neurons": ("layer", "position", "ff"),
    "head_out": ("layer", "head", "position", "dim"),
    "logits": ("position", "vocab"),
}


@dataclass(frozen=True)
class Selection:
    """What of a sequence is kept."""

    want: tuple[str, ...]
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    positions: tuple[int, ...]
    n: int  # tokens


def check_want(want: Any) -> tuple[str, ...]:
    names = (want,) if isinstance(want, str) else tuple(want)
    for name in names:
        if name not in AXES:
            raise ValueError(f"want={name!r}: expected some of {', '.join(AXES)}")
    return tuple(name for name in AXES if name in names)


def select(name: str, value: Any, n: int) -> tuple[int, ...]:
    """Indices of [0, n), ascending, from None (all), an integer or several; negative ones count from the end."""
    if value is None:
        return tuple(range(n))
    values = [value] if hasattr(value, "__index__") else value
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        raise TypeError(f"{name} must be integers, not {type(value).__name__}")
    out = set()
    for i in values:
        if isinstance(i, (bool, np.bool_)) or not hasattr(i, "__index__"):
            raise TypeError(f"{name} must be integers, not {type(i).__name__}")
        i = i.__index__()
        if not -n <= i < n:
            raise ValueError(f"{name}={i}: expected {-n} to {n - 1}")
        out.add(i % n)
    if not out:
        raise ValueError(f"{name} is empty: expected at least one index")
    return tuple(sorted(out))


def single(name: str, value: Any) -> int:
    """An integer."""
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}")
    return int(value.__index__())


def places_of(engine: Any) -> Places:
    """Where the engine's plan shows each quantity."""
    return find(engine.plan)


# ---- sizes ----------------------------------------------------------------------------------------------------


def sizes(engine: Any, places: Places, s: Selection) -> dict[str, int]:
    """Length of each axis. Raises ValueError where layers differ in their heads."""
    plan = engine.plan
    groups = {(g.n_q, g.n_kv, g.dk, g.dv) for i in s.layers if (g := places.layers[i].group) is not None} or {
        (g.n_q, g.n_kv, g.dk, g.dv) for g in plan.caches[:1]
    }
    if len(groups) > 1:
        raise ValueError("layers: those selected differ in their heads; trace each kind by itself")
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


def shapes(engine: Any, places: Places, s: Selection) -> dict[str, tuple[int, ...]]:
    size = sizes(engine, places, s)
    return {name: tuple(size[axis] for axis in AXES[name]) for name in s.want}


def estimate(engine: Any, places: Places, s: Selection) -> dict[str, int]:
    """Bytes that each quantity will take."""
    return {name: 4 * int(np.prod(shape)) for name, shape in shapes(engine, places, s).items()}


def check_limit(engine: Any, places: Places, s: Selection, limit: int) -> None:
    """Raises ValueError when what was asked for is larger, saying what would fit."""
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
        low, high = 0, len(selected)  # the most that fit
        while low < high:
            middle = (low + high + 1) // 2
            fewer = {**s.__dict__, name: selected[:middle]}
            if sum(estimate(engine, places, Selection(**fewer)).values()) <= limit:
                low = middle
            else:
                high = middle - 1
        if low:
            fits.append(f"{low} of {len(selected)} {name}")
    advice = f"; {' or '.join(fits)} would fit" if fits else ""
    raise ValueError(f"limit={limit}: the trace would take {total:,} bytes ({biggest}: {parts[biggest]:,}){advice}")


# ---- passes ---------------------------------------------------------------------------------------------------


def record(engine: Any, ids: Sequence[int], s: Selection, places: Places, chunk: int) -> dict[str, Floats]:
    """Runs the sequence once -> the quantities. The rows' bits do not depend on chunk."""
    out = {name: np.zeros(shape, np.float32) for name, shape in shapes(engine, places, s).items()}
    sequence = _engine.Sequence(engine)
    size = sizes(engine, places, s)
    attending = "attention" in out or "scores" in out
    keys = out.get("k")
    if keys is None and attending:
        keys = np.zeros((size["layer"], size["kv_head"], s.n, size["head_dim"]), np.float32)
    residual = np.empty((len(s.positions), size["dim"]), np.float32) if "logits" in out else None
    projections = _projections(engine, places, s) if "head_out" in out else {}
    taps = _taps(places, s)
    positions = np.array(s.positions)
    rows = min(chunk, engine.max_rows)
    for start in range(0, s.n, rows):
        part = np.array(ids[start : start + rows], np.int32)
        found, _ = engine.observe([(sequence, part, len(part))], taps=taps)
        end = start + len(part)
        to = _run(np.nonzero((positions >= start) & (positions < end))[0])
        row = _run(positions[to] - start)
        if "embeddings" in out:
            out["embeddings"][to] = found[places.embeddings][row]
        if "hidden" in out:
            out["hidden"][0, to] = found[places.embeddings][row]
        if residual is not None:
            residual[to] = found[places.last][row]
        for j, number in enumerate(s.layers):
            layer = places.layers[number]
            for name, tap in (
                ("attention_out", layer.attention_out),
                ("mlp_out", layer.mlp_out),
                ("neurons", layer.neurons),
            ):
                if name in out and tap is not None:
                    out[name][j, to] = found[tap][row]
            if "hidden" in out:
                out["hidden"][j + 1, to] = found[layer.hidden][row]
            if "head_out" in out and layer.mixed is not None:
                out["head_out"][j][:, to] = head_parts(engine, layer, projections[number], found[layer.mixed][row], s)
            if layer.qkv is not None and layer.qkv in found:
                at = positions[to]
                _attend(out, keys, layer, found[layer.qkv], j, (start, end), to, row, at, s)
    if residual is not None:
        for rows_, logits in head_blocks(engine, places, residual):
            out["logits"][rows_] = logits
    return out


def _taps(places: Places, s: Selection) -> list[Tap]:
    want, taps = set(s.want), set()
    if want & {"embeddings", "hidden"}:
        taps.add(places.embeddings)
    if "logits" in want:
        taps.add(places.last)
    for i in s.layers:
        layer = places.layers[i]
        if "hidden" in want:
            taps.add(layer.hidden)
        if want & {"q", "k", "v", "scores", "attention"} and layer.qkv:
            taps.add(layer.qkv)
        for name, tap in (
            ("attention_out", layer.attention_out),
            ("mlp_out", layer.mlp_out),
            ("neurons", layer.neurons),
            ("head_out", layer.mixed),
        ):
            if name in want and tap:
                taps.add(tap)
    return sorted(taps)


def _run(indices: npt.NDArray[np.intp]) -> Any:
    """The same indices, as a slice where they follow each other: no copy is made of what it takes."""
    if len(indices) and int(indices[-1]) - int(indices[0]) + 1 == len(indices):
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return indices


def _attend(
    out: dict[str, Floats],
    keys: Floats | None,
    layer: Layer,
    qkv: Floats,
    j: int,
    tokens: tuple[int, int],
    to: Any,
    row: Any,
    at: npt.NDArray[np.intp],
    s: Selection,
) -> None:
    """What one layer's queries, keys and values give, of one chunk of tokens."""
    g = layer.group
    assert g is not None
    start, end = tokens
    a, b = g.n_q * g.dk, (g.n_q + g.n_kv) * g.dk
    if keys is not None:
        keys[j, :, start:end] = qkv[:, a:b].reshape(-1, g.n_kv, g.dk).swapaxes(0, 1)
    if "v" in out:
        out["v"][j, :, start:end] = qkv[:, b:].reshape(-1, g.n_kv, g.dv).swapaxes(0, 1)
    if not len(at):
        return
    heads = list(s.heads)
    q = qkv[row, :a].reshape(-1, g.n_q, g.dk).swapaxes(0, 1)[_run(np.array(heads))]
    if "q" in out:
        out["q"][j][:, to] = q
    if "scores" not in out and "attention" not in out:
        return
    assert keys is not None
    k = (
        keys[j][[h // (g.n_q // g.n_kv) for h in heads]]
        if g.n_kv > 1
        else np.broadcast_to(keys[j], (len(heads), *keys.shape[2:]))
    )
    whole = isinstance(to, slice)
    target = out["attention"] if "attention" in out else out["scores"]
    block = target[j][:, to] if whole else np.zeros((len(heads), len(at), s.n), np.float32)
    if "scores" in out:
        scores = out["scores"][j][:, to] if whole else np.empty_like(block)
        scores[:] = -np.inf
        attention.fill(scores, q, k, at, layer.scale, g.window)
        if "attention" in out:
            attention.softmax(block, scores, at, g.window)
        if not whole:
            out["scores"][j][:, to] = scores
    else:
        attention.fill(block, q, k, at, layer.scale, g.window)
        attention.softmax(block, block, at, g.window)
    if "attention" in out and not whole:
        out["attention"][j][:, to] = block


# ---- heads' parts ---------------------------------------------------------------------------------------------


def _projections(engine: Any, places: Places, s: Selection) -> dict[int, Floats]:
    return {i: projection(engine, places.layers[i]) for i in s.layers if places.layers[i].project >= 0}


def projection(engine: Any, layer: Layer) -> Floats:
    """W_o, dequantised: (dim, heads * value_dim)."""
    plan = engine.plan
    return engine.matrix(plan.segments[plan.ops[layer.project].seg].matrix)


def post_norm(engine: Any, layer: Layer, projected: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(m, dim), what the rows of attention's projection (bias included) are multiplied by on their way."""
    plan = engine.plan
    op = plan.ops[layer.project]
    if op.vec < 0:
        return np.ones((1, plan.dim), np.float32)
    mean = np.mean(np.square(projected, dtype=np.float64), axis=-1, keepdims=True)
    return plan.vectors[op.vec].data / np.sqrt(mean + op.eps)


def projection_bias(engine: Any, layer: Layer) -> Any:
    plan = engine.plan
    bias = plan.segments[plan.ops[layer.project].seg].bias
    return 0.0 if bias < 0 else plan.vectors[bias].data


def head_parts(engine: Any, layer: Layer, w: Floats, mixed: Floats, s: Selection) -> Floats:
    """(heads, m, dim): what each head adds to the residual stream."""
    g = layer.group
    assert g is not None
    per = mixed.reshape(len(mixed), g.n_q, g.dv)
    scale = post_norm(engine, layer, mixed @ w.T + projection_bias(engine, layer))
    parts = np.empty((len(s.heads), len(mixed), len(w)), np.float32)
    for i, h in enumerate(s.heads):
        parts[i] = (per[:, h] @ w[:, h * g.dv : (h + 1) * g.dv].T) * scale
    return parts


# ---- the head -------------------------------------------------------------------------------------------------


def head_blocks(engine: Any, places: Places, x: Floats, rows: int = 64) -> Iterator[tuple[slice, Floats]]:
    """Logits (m, vocab) of rows of the residual stream (n, dim), by the model's own head, a block at a time."""
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
