"""Runs the passes of a trace and keeps the wanted quantities."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid import _engine
from pellucid._engine import ACTIVATIONS
from pellucid.errors import CancelledError, WrongValue
from pellucid.look import pattern, sizes
from pellucid.look.gates import Gates
from pellucid.look.norm import NormMap
from pellucid.look.places import Gate, Layer, Places, Tap, channels, reordered
from pellucid.look.sizes import Selection, Shape
from pellucid.look.states import states
from pellucid.plan import CacheGroup, Plan, Segment
from pellucid.schedule.turns import Turns

__all__ = [
    "Watch",
    "added",
    "by_layer",
    "cancelling",
    "down",
    "final_rows",
    "head_blocks",
    "record",
    "split",
    "walk",
]

Floats = npt.NDArray[np.float32]
OF_LAYER = ("hidden", "middle", "attention_in", "mlp_in", "up", "neurons", "conv")  # taps of Layer, row by row
ADDED = {"attention_out": "attention_changes", "mlp_out": "experts"}  # taps that are added up; other changes to add
DERIVED = ("scores", "attention", "head_out", "gate")  # computed from a whole layer's rows
HELPERS = ("q", "k", "outputs", "mlp_in")  # what they are computed from


@dataclass
class Watch:
    """The callbacks of long work: `cancel` is called about every 20 ms; `progress` with the tokens done and all tokens,
    each counted as often as it runs through the model."""

    cancel: Callable[[], bool] | None = None
    progress: Callable[[int, int], object] | None = None
    total: int = 0
    done: int = field(default=0, init=False)

    def step(self, tokens: int) -> None:
        """Raises CancelledError."""
        self.done += tokens
        if self.progress is not None:
            self.progress(self.done, max(self.total, self.done))
        self.check()

    def check(self) -> None:
        if self.cancel is not None and self.cancel():
            raise CancelledError("the call was cancelled")


@contextmanager
def cancelling() -> Iterator[None]:
    """Inside the block, the engine's exception for a cancelled pass becomes CancelledError."""
    try:
        yield
    except _engine.Cancelled:
        raise CancelledError("the call was cancelled") from None


# ---- passes ---------------------------------------------------------------------------------------------------


def record(
    turns: Turns,
    ids: Sequence[int],
    s: Selection,
    places: Places,
    chunk: int,
    watch: Watch | None = None,
    begun: _engine.Sequence | None = None,
    gates: Gates | None = None,
) -> dict[str, Any]:
    """Runs the sequence once -> quantity -> array, or list of arrays if layers differ. No bit depends on chunk, the
    rows of a pass. begun: a sequence with the first tokens; no wanted quantity may need their rows, except keys and
    values, which its cache has. gates: needed for "gate"."""
    watch = watch or Watch()
    out = {name: _zeros(shape) for name, shape in sizes.shapes(turns.engine, places, s).items()}
    rows = _collect(turns, ids, s, places, chunk, watch, dict(out), begun)
    for j, number in enumerate(s.layers):
        watch.check()
        helpers = {name: rows[name][j] for name in HELPERS if name in rows}
        made = {name: out[name][j] for name in DERIVED if name in out}
        _derive(turns, places.layers[number], s, helpers, made)
        if gates is not None:
            gates.fill(number, helpers["mlp_in"], made["gate"])
    if "final" in out:
        out["final"][:] = final_rows(turns, places, rows["last"])
    if "logits" in out:
        for block, logits in head_blocks(turns, places, rows["last"]):
            watch.check()
            out["logits"][block] = logits
    return out


def by_layer(
    begin: Callable[[], Turns],
    ids: Sequence[int],
    s: Selection,
    places: Places,
    chunk: int,
    limit: int,
    watch: Watch,
    each: Callable[[int, dict[str, Floats]], object],
    begun: _engine.Sequence | None = None,
    gates: Gates | None = None,
) -> dict[str, Floats]:
    """As :func:`record`, but calls `each` with the number of a layer and its arrays, layer after layer, and returns
    those without layers. As many layers are in memory at a time as fit `limit` bytes; the sequence runs once for each
    such group. Raises ValueError if not even one fits. begin: creates the object that runs the passes; none is open
    while `each` is called."""
    shape = sizes.shapes(begin().engine, places, s)
    whole = replace(s, want=tuple(name for name in s.want if sizes.of_whole(name)))
    part = replace(s, want=tuple(name for name in s.want if not sizes.of_whole(name)))

    def of(name: str, j: int) -> Shape:
        found = shape[name]
        return found[j] if isinstance(found, list) else found[1:]

    def held(j: int, names: Container[str]) -> int:
        own = sum(4 * sizes.count(of(name, j)) for name in part.want if name in names)
        return own + sum(4 * sizes.count(one[j]) for name, one in helpers.items() if name not in part.want)

    helpers = _helpers(places, part, begin().dim)
    direct = [name for name in part.want if name not in DERIVED]
    room = limit - sum(4 * sizes.count(shape[name]) for name in whole.want)
    groups: list[list[int]] = []
    used = 0
    for j, number in enumerate(s.layers if part.want else ()):
        most = held(j, part.want)
        if most > room:
            message = f"={limit}: layer {number} alone would take {most:,} bytes"
            raise WrongValue("limit", message)
        if not groups or used + most > room:
            groups.append([])
            used = 0
        groups[-1].append(j)
        used += held(j, direct)
    watch.total += len(ids) * (len(groups) + bool(whole.want))
    kept: dict[str, Floats] = {}
    if whole.want:
        with begin() as turns:
            kept = record(turns, ids, whole, places, chunk, watch, begun)
    for group in groups:
        few = replace(part, layers=tuple(s.layers[j] for j in group))
        rows: dict[str, Any] = {name: [np.zeros(of(name, j), np.float32) for j in group] for name in direct}
        if "hidden" in rows:
            rows["hidden"].insert(0, np.zeros(of("hidden", 0), np.float32))
        with begin() as turns:
            rows = _collect(turns, ids, few, places, chunk, watch, rows, begun)
        for at, j in enumerate(group):
            watch.check()
            made = {name: np.zeros(of(name, j), np.float32) for name in DERIVED if name in part.want}
            helping = {name: rows[name][at] for name in HELPERS if name in rows}
            _derive(turns, places.layers[s.layers[j]], s, helping, made)
            if gates is not None:
                gates.fill(s.layers[j], helping["mlp_in"], made["gate"])
            made |= {name: rows[name][at + (name == "hidden")] for name in direct}
            each(s.layers[j], {name: made[name] for name in part.want})
    return kept


def _collect(
    turns: Turns,
    ids: Sequence[int],
    s: Selection,
    places: Places,
    chunk: int,
    watch: Watch,
    rows: dict[str, Any],
    begun: _engine.Sequence | None,
) -> dict[str, Any]:
    """Runs the sequence and fills the arrays of `rows`, and those from which the wanted quantities are computed, which
    it adds."""
    for name, shape in _helpers(places, s, turns.dim).items():
        rows.setdefault(name, [np.zeros(one, np.float32) for one in shape])
    if {"logits", "final"} & {*s.want}:
        rows["last"] = np.zeros((len(s.positions), turns.dim), np.float32)
    filled = {name: array for name, array in rows.items() if name not in (*DERIVED, "logits", "final", "states")}
    taps = _taps(places, s, filled)
    positions = np.array(s.positions)
    sequence = turns.sequence(begun)
    kept = [name for name in pattern.CACHED if name in rows]
    if kept and sequence.length:
        for j, number in enumerate(s.layers):
            pattern.keep_cached(turns, sequence, places.layers[number], {name: rows[name][j] for name in kept})
    most = min(chunk, turns.max_rows)
    while sequence.length < s.n:
        start = sequence.length
        end = _end(s, start, turns.rows(most, start))
        part = np.array(ids[start:end], np.int32)
        found, _ = turns.observe([(sequence, part, len(part))], taps=taps)
        to = _run(np.nonzero((positions >= start) & (positions < end))[0])
        _keep(turns.plan, filled, found, places, s, slice(start, end), to, _run(positions[to] - start))
        if "states" in rows and end - 1 in s.positions:
            for j, state in states(turns.plan, sequence, places, s):
                rows["states"][j][s.positions.index(end - 1)] = state
        watch.step(end - start)
    turns.drop(sequence)
    return rows


def walk(
    turns: Turns,
    ids: Sequence[int],
    taps: Sequence[Tap],
    positions: Sequence[int],
    watch: Watch,
    chunk: int = 512,
) -> Iterator[tuple[slice, dict[Tap, Floats]]]:
    """Runs a sequence up to the last of some positions (ascending). Yields, for each `chunk` of tokens with any of
    them, their indices among the positions, and their rows at each tap."""
    every, sequence, step = np.array(positions), turns.sequence(), min(chunk, turns.max_rows)
    last = int(every[-1]) + 1
    for start in range(0, last, step):
        end = min(start + step, last)
        to = slice(*np.searchsorted(every, [start, end]).tolist())
        here = taps if to.start < to.stop else ()
        found = turns.rows_of(sequence, ids, end, here)
        if here:
            row = _run(every[to] - start)
            yield to, {Tap(*tap): rows[row] for tap, rows in found.items()}
        watch.step(end - start)


def _end(s: Selection, start: int, most: int) -> int:
    """The end of a pass that begins at a token: passes end before every position whose state is wanted."""
    ends = [position + 1 for position in s.positions if position >= start] if "states" in s.want else []
    return min(start + most, s.n, *ends)


def _helpers(places: Places, s: Selection, dim: int) -> dict[str, list[Shape]]:
    """The helpers from which the wanted quantities are computed -> their shape in each layer. outputs: of all heads;
    dim: the model's width."""
    none = CacheGroup(1, 1, 1, 1, 0)
    layers = [places.layers[i] for i in s.layers]
    groups = [layer.group or none for layer in layers]
    found: dict[str, list[Shape]] = {}
    if {"scores", "attention"} & {*s.want}:
        found["q"] = [(len(s.heads), len(s.positions), g.dk) for g in groups]
        found["k"] = [(g.n_kv, s.n, g.dk) for g in groups]
    if "gate" in s.want:
        found["mlp_in"] = [(len(s.positions), dim)] * len(layers)
    if "head_out" in s.want:
        pairs = zip(groups, layers, strict=True)
        found["outputs"] = [(len(s.positions), g.n_q * (layer.value or 1)) for g, layer in pairs]
    return found


def _derive(turns: Turns, layer: Layer, s: Selection, helpers: Mapping[str, Floats], out: Mapping[str, Floats]) -> None:
    """Fills a layer's scores, attention and head_out, those that `out` has."""
    if layer.qkv is not None and ("scores" in out or "attention" in out):
        pattern.fill(turns, layer, s, helpers["q"], helpers["k"], out.get("scores"), out.get("attention"))
    if layer.mixed is not None and "head_out" in out:
        out["head_out"][:] = head_parts(turns.engine, layer, helpers["outputs"], s.heads)


def _zeros(shape: Shape | list[Shape]) -> Any:
    """An array, or a list of arrays."""
    return [np.zeros(one, np.float32) for one in shape] if isinstance(shape, list) else np.zeros(shape, np.float32)


def _taps(places: Places, s: Selection, wanted: Container[str]) -> list[Tap]:
    taps: set[Tap | None] = set()
    if "embeddings" in wanted or "hidden" in wanted:
        taps.add(places.embeddings)
    if "last" in wanted:
        taps.add(places.last)
    for i in s.layers:
        layer = places.layers[i]
        taps |= {getattr(layer, name) for name in OF_LAYER if name in wanted}
        if "mixed" in wanted or "outputs" in wanted:
            taps.add(layer.mixed)
        if "q" in wanted or "k" in wanted or "v" in wanted:
            taps |= {layer.qkv, layer.keys}
        if "q_unrotated" in wanted or "k_unrotated" in wanted:
            taps |= {layer.unrotated, layer.keys_unrotated}
        for name, changes in ADDED.items():
            if name in wanted:
                taps |= {*getattr(layer, name)} | {tap for pair in getattr(layer, changes) for tap in pair}
        if "routes" in wanted:
            taps.add(layer.routes)
        if "gates" in wanted and layer.gates is not None:
            taps.add(layer.gates.tap)
    return sorted(tap for tap in taps if tap is not None)


def _run(indices: npt.NDArray[np.intp]) -> Any:
    """The same indices; as a slice if they are consecutive, since indexing with a slice makes no copy."""
    if len(indices) and int(indices[-1]) - int(indices[0]) + 1 == len(indices):
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return indices


def _keep(
    plan: Plan,
    rows: dict[str, Any],
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
    heads = _run(np.array(s.heads))
    for j, number in enumerate(s.layers):
        layer = places.layers[number]
        for name in OF_LAYER:
            tap = getattr(layer, name)
            if name in rows and tap is not None:
                rows[name][j + (name == "hidden")][to] = found[tap][row]
        for name, changes in ADDED.items():
            if name in rows:
                _add_up(rows[name][j], to, row, found, getattr(layer, name), getattr(layer, changes))
        if "routes" in rows and layer.routes is not None:
            chosen = found[layer.routes][row]
            k = chosen.shape[1] // 2
            weights = np.zeros((len(chosen), rows["routes"][j].shape[-1]), np.float32)
            np.put_along_axis(weights, chosen[:, :k].astype(np.intp), chosen[:, k:], axis=1)
            rows["routes"][j][to] = weights
        if "gates" in rows and layer.gates is not None:
            rows["gates"][j][to] = _factors(layer.gates, found[layer.gates.tap][row])
        if layer.mixed is not None and layer.group is not None and layer.mixed in found:
            outputs = found[layer.mixed][row]
            if "outputs" in rows:
                rows["outputs"][j][to] = outputs
            if "mixed" in rows:
                parts = outputs.reshape(-1, layer.group.n_q, layer.value)[:, heads]
                rows["mixed"][j][:, to] = parts.swapaxes(0, 1)
        order = channels(plan, layer)
        for end, q_tap, k_tap in (("", layer.qkv, layer.keys), ("_unrotated", layer.unrotated, layer.keys_unrotated)):
            if layer.group is None or q_tap is None or k_tap is None or q_tap not in found:
                continue
            parts_of = {f"{name}{end}": part for name, part in split(layer.group, found[q_tap], found[k_tap]).items()}
            for name in {f"q{end}", f"k{end}", "v"} & parts_of.keys() & rows.keys():
                part = parts_of[name] if order is None or name == "v" else parts_of[name][..., order]
                if name[0] == "q":
                    rows[name][j][:, to] = part[row][:, heads].swapaxes(0, 1)
                else:
                    rows[name][j][:, tokens] = part.swapaxes(0, 1)


def split(g: CacheGroup, qkv: Floats, kv: Floats) -> dict[str, Floats]:
    """Queries (rows, heads, dk), keys and values from the buffers that hold them."""
    a, b = g.n_q * g.dk, (g.n_q + g.n_kv) * g.dk
    k = kv[:, a:b].reshape(-1, g.n_kv, g.dk)
    v = k[..., : g.dv] if g.shared else kv[:, b : b + g.n_kv * g.dv].reshape(-1, g.n_kv, g.dv)
    return {"q": qkv[:, :a].reshape(-1, g.n_q, g.dk), "k": k, "v": v}


def _add_up(
    out: Floats,
    to: Any,
    row: Any,
    found: Mapping[Any, Floats],
    taps: Sequence[Tap],
    changes: Sequence[tuple[Tap, Tap]],
) -> None:
    if taps:
        first, *others = (found[tap][row] for tap in taps)
        out[to] = sum(others, first)
    for before, after in changes:
        out[to] += found[after][row] - found[before][row]


def added(found: Mapping[Tap, Floats], taps: Sequence[Tap], changes: Sequence[tuple[Tap, Tap]]) -> Floats | None:
    """The sum of some taps and of changes of the residual stream between two taps (rows, dim), in a trace's form; None
    if there are none."""
    first = next((found[tap] for tap in (*taps, *(tap for pair in changes for tap in pair))), None)
    if first is None:
        return None
    out = np.zeros_like(first)
    _add_up(out, slice(None), slice(None), found, taps, changes)
    return out


def _factors(gate: Gate, rows: Floats) -> Floats:
    x = rows[:, gate.column : gate.column + gate.width]
    if gate.act == ACTIVATIONS["none"]:
        return x
    with np.errstate(over="ignore"):
        sigmoid: Floats = np.reciprocal(np.float32(1) + np.exp(-x))
    return sigmoid if gate.act == ACTIVATIONS["sigmoid"] else np.multiply(x, sigmoid)


# ---- heads' parts ---------------------------------------------------------------------------------------------


def projection(engine: _engine.Engine, layer: Layer) -> Floats:
    """W_o, dequantised, with its factors -> (dim, heads * value_dim)."""
    return _matrix_of(engine, layer.project)


def down(engine: _engine.Engine, layer: Layer) -> Floats:
    """W_down, dequantised, with its factors -> (dim, neurons)."""
    return _matrix_of(engine, layer.down)


def _matrix_of(engine: _engine.Engine, number: int) -> Floats:
    """The matrix of an operation with one segment; its columns are in the order of the buffer before any reordering."""
    plan = engine.plan
    seg = plan.segments[plan.ops[number].seg]
    w = scaled(engine, seg, engine.matrix(seg.matrix))
    if reordered(plan, number):
        found = np.empty_like(w)
        found[:, plan.vectors[plan.ops[number - 1].vec].data.astype(np.intp)] = w
        return found
    return w


def scaled(engine: _engine.Engine, seg: Segment, rows: Floats, first: int = 0) -> Floats:
    """Rows of a matrix from `first` on, times the factors of their products."""
    if seg.row_scale >= 0:
        rows = rows * engine.plan.vectors[seg.row_scale].data[first : first + len(rows), None]
    return rows * np.float32(seg.scale) if seg.scale != 1 else rows


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
    per, dv = mixed.reshape(len(mixed), g.n_q, layer.value), layer.value
    norm = post_norm(engine, layer, mixed @ w.T + projection_bias(engine, layer))
    parts = np.empty((len(heads), len(mixed), len(w)), np.float32)
    for i, h in enumerate(heads):
        parts[i] = norm.forward(per[:, h] @ w[:, h * dv : (h + 1) * dv].T)
    return parts


# ---- the head -------------------------------------------------------------------------------------------------


def head_passes(turns: Turns, places: Places, x: Floats, rows: int) -> Iterator[tuple[slice, Callable[..., Any]]]:
    """Passes of only the model's head over rows of the residual stream (n, dim), at most so many at a time. Yields
    (slice of the rows, a function that runs it, with the arguments of `Engine.observe` for the results)."""
    sequence = _engine.Sequence(turns.engine)  # stays empty
    start = 0
    while start < len(x):
        part = np.ascontiguousarray(x[start : start + turns.rows(rows, part=True)])
        parts = [(sequence, np.zeros(len(part), np.int32), 0)]
        run = partial(turns.observe, parts, ops=(places.head, places.head + 1), feeds={places.last.buffer: part}, at=0)
        yield slice(start, start + len(part)), run
        start += len(part)


def head_blocks(turns: Turns, places: Places, x: Floats, rows: int = 64) -> Iterator[tuple[slice, Floats]]:
    """Logits of rows of the residual stream (n, dim), computed by the model's head. Yields (slice of the rows, logits
    (m, vocab)), m <= `rows`."""
    for to, run in head_passes(turns, places, x, rows):
        out = np.empty((to.stop - to.start, turns.vocab), np.float32)
        run(out=out)
        yield to, out


def final_rows(turns: Turns, places: Places, x: Floats) -> Floats:
    """Rows of the residual stream (n, dim) after the final norm, computed by the model's head."""
    out = np.empty((len(x), turns.dim), np.float32)
    for to, run in head_passes(turns, places, x, turns.max_rows):
        run(hidden=out[to])
    return out
