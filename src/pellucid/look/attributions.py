"""The attribution of logits to parts of the model, at several positions and for several tokens at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid import _engine, arguments, checks
from pellucid.core import Core
from pellucid.errors import WrongValue, shown
from pellucid.look import record
from pellucid.look.lens import Attribution
from pellucid.look.norm import NormMap
from pellucid.look.places import Layer, Places, Tap, find
from pellucid.look.recorded import Recorded, Token
from pellucid.markup import count
from pellucid.plan import Plan
from pellucid.schedule.turns import Turns

__all__ = [
    "Attributions",
    "Pair",
    "Rows",
    "add",
    "attributions",
    "blank",
    "directions",
    "norm_of",
    "pairs",
    "taps_of",
    "token_id",
]

Pair = tuple[int, int]  # a token, and the one to compare it with; -1: none
Floats = npt.NDArray[np.float32]
Wide = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Attributions:
    """What each part of a model of L layers and H heads adds to the logits of T tokens at P positions, or to the
    difference of two logits.

    ``ids`` (P, T): the tokens; ``against`` (P, T): those whose logit is subtracted, -1: none. ``logits`` (P, T): the
    model's logits, or differences of two. ``embedding``, ``bias`` (P, T), ``attention``, ``mlp``, ``edits`` (P, T, L)
    and ``heads`` (P, T, L, H): as in :class:`Attribution`. ``neurons`` (P, T, L, k): indices of the neurons of each
    layer that contribute most, up or down, -1 if it has none; ``neuron_values``: their activations; ``neuron_logits``:
    their contributions. ``tokens``: each id's Token.
    """

    positions: tuple[int, ...]
    ids: npt.NDArray[np.int32]
    against: npt.NDArray[np.int32]
    logits: npt.NDArray[np.float32]
    embedding: Wide
    attention: Wide
    mlp: Wide
    edits: Wide
    heads: Wide
    bias: Wide
    neurons: npt.NDArray[np.int32]
    neuron_values: npt.NDArray[np.float32]
    neuron_logits: Wide
    tokens: dict[int, Token]

    @property
    def total(self) -> Wide:
        """(P, T): the sum of the parts, the logit before a soft cap."""
        parts = self.attention.sum(-1) + self.mlp.sum(-1) + self.edits.sum(-1)
        found: Wide = self.embedding + self.bias + parts
        return found

    def at(self, position: int, target: int = 0) -> Attribution:
        """The attribution at one of the positions, for the token number `target` there. Raises ValueError."""
        if position not in self.positions:
            raise WrongValue("position", f"={shown(position)}: expected one of {shown(self.positions)}")
        target = checks.integer("target", target, 0, self.ids.shape[1] - 1)
        i = self.positions.index(position), target
        id, other = int(self.ids[i]), int(self.against[i])
        return Attribution(
            position,
            self.tokens[id],
            float(self.logits[i]),
            float(self.embedding[i]),
            self.attention[i],
            self.mlp[i],
            self.heads[i],
            self.edits[i],
            float(self.bias[i]),
            None if other < 0 else self.tokens[other],
        )

    def __repr__(self) -> str:
        tokens, positions = count(self.ids.shape[1], "token"), count(len(self.positions), "position")
        return f"<Attributions of {tokens} at {positions}>"


def token_id(core: Core, name: str, token: Any) -> int:
    """An id, or the text of a single token -> the id. Raises ValueError or TypeError naming the argument."""
    if isinstance(token, str):
        with arguments.named(name):
            ids = core.need_tokenizer().encode(token, add_special=False)
        if len(ids) != 1:
            raise WrongValue(name, f"={shown(token)} is {len(ids)} tokens, expected one: give an id")
        return ids[0]
    return core.check_ids([token], name)[0]


def pairs(core: Core, ids: Sequence[int], positions: Sequence[int], targets: Any) -> list[list[Pair]]:
    """The targets of each position, in the form that ``Trace.attributions`` accepts; None means the tokens that follow,
    and (-1, -1) if none does."""
    if targets is None:
        return [[(ids[p + 1] if p + 1 < len(ids) else -1, -1)] for p in positions]
    if getattr(targets, "ndim", 1) == 2:
        if len(targets) != len(positions) or not len(targets[0]):
            raise WrongValue("targets", f" has shape {targets.shape}, expected ({len(positions)}, tokens)")
        return [[(token_id(core, "targets", id), -1) for id in row] for row in targets]
    if not isinstance(targets, (list, range)) and getattr(targets, "ndim", 0) != 1:
        targets = [targets]
    if not len(targets):
        raise WrongValue("targets", " is empty: expected at least one token")
    every: list[Pair] = []
    for target in targets:
        if isinstance(target, tuple):
            if len(target) != 2:
                raise WrongValue("targets", f" has {shown(target)}: expected a token, or a tuple of two")
            every.append((token_id(core, "targets", target[0]), token_id(core, "targets", target[1])))
        else:
            every.append((token_id(core, "targets", target), -1))
    return [every for _ in positions]


def in_order(targets: Any, positions: Any, n: int) -> Any:
    """The rows of an array of targets, one for each of the positions, in ascending order."""
    if getattr(targets, "ndim", 1) != 2 or not hasattr(type(positions), "__iter__"):
        return targets
    places = [int(position) % n for position in positions]
    if len(set(places)) < len(places):
        raise WrongValue("positions", " has one of them twice: expected one for each row of targets")
    return targets[np.argsort(places)] if len(places) == len(targets) else targets


def attributions(
    core: Core,
    ids: Sequence[int],
    positions: Sequence[int],
    targets: list[list[Pair]],
    neurons: int,
    watch: record.Watch,
    kept: Recorded | None = None,
) -> Attributions:
    """``Trace.attributions``: one run of the sequence, or none if a trace kept what it needs; each matrix is
    dequantised once for up to 512 positions. Both give the same numbers."""
    engine = core.open()
    places = find(engine.plan)
    out = blank(core, positions, targets, neurons)
    most = out.neurons.shape[-1]
    rows = None if kept is None else _kept(kept, places, positions, most > 0)
    if rows is not None:
        with Turns(core, "trace", (), watch.cancel) as turns:
            _logits(turns, out, slice(0, len(positions)), rows.last)
        add(engine, out, slice(0, len(positions)), rows, watch)
    else:
        taps = sorted({*taps_of(places.layers, most > 0), places.embeddings})
        with Turns(core, "trace", [positions[-1] + 1], watch.cancel) as turns:
            for to, found in record.walk(turns, ids, taps, positions, watch):
                _logits(turns, out, to, found[places.last])
                add(engine, out, to, Rows.of(found, places), watch)
    used = {*out.ids.ravel().tolist(), *out.against.ravel().tolist()} - {-1}
    out.tokens.update({id: Token(id, core.spell(id), core.piece(id, special=True)) for id in used})
    return out


def blank(
    core: Core, positions: Sequence[int], targets: list[list[Pair]], neurons: int, named: int | None = None
) -> Attributions:
    """Zeros for :func:`add` to fill. named: the number of targets, from the first on, for which neurons are recorded;
    None: all."""
    plan = core.open().plan
    layers, shape = find(plan).layers, (len(positions), len(targets[0]))
    n, n_heads = len(layers), max([core.config.attention.n_q, *(x.group.n_q for x in layers if x.group is not None)])
    most = min(neurons, max((plan.buffers[x.neurons.buffer].dim for x in layers if x.neurons), default=0))
    of_neurons = (shape[0], shape[1] if named is None else named, n, most)
    return Attributions(
        tuple(positions),
        np.array([[a for a, _ in row] for row in targets], np.int32),
        np.array([[b for _, b in row] for row in targets], np.int32),
        np.zeros(shape, np.float32),
        np.zeros(shape),
        np.zeros((*shape, n)),
        np.zeros((*shape, n)),
        np.zeros((*shape, n)),
        np.zeros((*shape, n, n_heads)),
        np.zeros(shape),
        np.full(of_neurons, -1, np.int32),
        np.zeros(of_neurons, np.float32),
        np.zeros(of_neurons),
        {},
    )


@dataclass(frozen=True)
class Rows:
    """The data for attributions of some rows. For each layer: what attention and the feed-forward network add, edits of
    the stream (rows, d); the heads' outputs (rows, heads * value); the neurons; None if a layer lacks them."""

    embeddings: Floats
    last: Floats  # the residual stream that the head reads
    attention: Sequence[Floats | None]
    mlp: Sequence[Floats | None]
    edits: Sequence[Floats | None]
    mixed: Sequence[Floats | None]
    neurons: Sequence[Floats | None]

    @classmethod
    def of(cls, found: Mapping[Tap, Floats], places: Places) -> Rows:
        """From the taps of a pass."""
        layers, none = places.layers, ()
        return cls(
            found[places.embeddings],
            found[places.last],
            [record.added(found, x.attention_out, x.attention_changes) for x in layers],
            [record.added(found, x.mlp_out, x.experts) for x in layers],
            [record.added(found, none, x.edits) for x in layers],
            [None if x.mixed is None else found[x.mixed] for x in layers],
            [None if x.neurons is None else found.get(x.neurons) for x in layers],
        )


def _kept(kept: Recorded, places: Places, positions: Sequence[int], neurons: bool) -> Rows | None:
    """From a trace, if it has everything needed; it does not record what edits of the stream added."""
    needed = {"hidden", "attention_out", "mlp_out", "mixed", *(["neurons"] if neurons else [])}
    layers = places.layers
    if not needed <= {*kept.kept} or len(kept.layers) < len(layers) or any(layer.edits for layer in layers):
        return None
    heads = max((layer.group.n_q for layer in layers if layer.group is not None), default=0)
    if len(kept.heads) < heads or not {*positions} <= {*kept.positions}:
        return None
    at = [kept.positions.index(position) for position in positions]
    mixed = [kept.mixed[i][:, at].swapaxes(0, 1).reshape(len(at), -1) for i in range(len(layers))]
    return Rows(
        kept.hidden[0][at],
        kept.hidden[-1][at],
        [kept.attention_out[i][at] for i in range(len(layers))],
        [kept.mlp_out[i][at] for i in range(len(layers))],
        [None] * len(layers),
        [None if x.mixed is None else rows for x, rows in zip(layers, mixed, strict=True)],
        [kept.neurons[i][at] if neurons and x.neurons is not None else None for i, x in enumerate(layers)],
    )


def add(engine: _engine.Engine, out: Attributions, to: slice, rows: Rows, watch: record.Watch) -> None:
    """Fills the places `to` of everything but the logits."""
    chosen = zip(out.ids[to].T.ravel().tolist(), out.against[to].T.ravel().tolist(), strict=True)
    direction, bias = directions(engine, list(chosen), rows.last)
    out.bias[to] = bias.T
    out.embedding[to] = _push(rows.embeddings, direction)
    named, most = out.neurons.shape[1], out.neurons.shape[3]
    for i, layer in enumerate(find(engine.plan).layers):
        watch.check()
        for part, values in ((out.attention, rows.attention), (out.mlp, rows.mlp), (out.edits, rows.edits)):
            if (one := values[i]) is not None:
                part[to, :, i] = _push(one, direction)
        if (mixed := rows.mixed[i]) is not None and layer.group is not None:
            out.heads[to, :, i, : layer.group.n_q] = _heads(engine, layer, mixed, direction)
        if most and (neurons := rows.neurons[i]) is not None and layer.down >= 0:
            _neurons(engine, layer, neurons, direction[:named], [a[to, :, i] for a in _of_neurons(out)])


def _of_neurons(out: Attributions) -> tuple[npt.NDArray[Any], ...]:
    return out.neurons, out.neuron_values, out.neuron_logits


def taps_of(layers: Sequence[Layer], neurons: bool) -> list[Tap]:
    """The taps that :meth:`Rows.of` reads, besides the embeddings."""
    taps: set[Tap | None] = set()
    for layer in layers:
        taps |= {layer.hidden, layer.mixed, *layer.attention_out, *layer.mlp_out}
        taps |= {tap for pair in (*layer.attention_changes, *layer.experts, *layer.edits) for tap in pair}
        if neurons:
            taps.add(layer.neurons)
    return sorted(tap for tap in taps if tap is not None)


def _logits(turns: Turns, out: Attributions, to: slice, x: npt.NDArray[np.float32]) -> None:
    """The model's logits of the targets; a missing target becomes the likeliest token."""
    for block, logits in record.head_blocks(turns, find(turns.plan), x):
        for i, row in zip(range(to.start + block.start, to.start + block.stop), logits, strict=True):
            missing = out.ids[i] < 0
            out.ids[i, missing] = np.argmax(row)
            other = out.against[i]
            out.logits[i] = row[out.ids[i]] - np.where(other < 0, 0, row[other])


def directions(
    engine: _engine.Engine, pairs: Sequence[Pair], x: npt.NDArray[np.float32]
) -> tuple[Wide, npt.NDArray[np.float64]]:
    """(T, rows, d): the directions whose product with rows of the residual stream gives the logits of T pairs of
    tokens, with the scale of the final norm at the row; and the biases (T, rows). pairs: for each row the pair of the
    first target, then of the second."""
    plan = engine.plan
    op = plan.ops[find(plan).head]
    seg = plan.segments[op.seg]
    rows: dict[int, Wide] = {-1: np.zeros(plan.dim)}
    biases = {-1: 0.0}
    for id in {id for pair in pairs for id in pair} - {-1}:
        row = record.scaled(engine, seg, engine.matrix(seg.matrix, rows=(id, id + 1)), id)[0].astype(np.float64)
        rows[id] = row
        biases[id] = (float(plan.vectors[op.vec2].data @ row) if op.vec2 >= 0 else 0.0) + (
            float(plan.vectors[seg.bias].data[id]) if seg.bias >= 0 else 0.0
        )
    shape = (-1, len(x), plan.dim)
    wanted = np.array([rows[a] - rows[b] for a, b in pairs]).reshape(shape)
    bias = np.array([biases[a] - biases[b] for a, b in pairs]).reshape(-1, len(x))
    return NormMap.of(plan, op, x).back(wanted), bias


def _push(part: Floats, direction: Wide) -> Wide:
    """(rows, T): the contribution of a part of the stream (rows, d)."""
    pushed: Wide = np.einsum("md,tmd->mt", part.astype(np.float64), direction)
    return pushed


def _heads(engine: _engine.Engine, layer: Layer, mixed: npt.NDArray[np.float32], direction: Wide) -> Wide:
    """(rows, T, heads)."""
    g, w, dv = layer.group, record.projection(engine, layer), layer.value
    assert g is not None
    norm = norm_of(engine.plan, layer.project, mixed, w)
    pushed = np.empty((len(mixed), len(direction), g.n_q))
    for h in range(g.n_q):
        part = norm.forward(mixed[:, h * dv : (h + 1) * dv] @ w[:, h * dv : (h + 1) * dv].T)
        pushed[..., h] = np.einsum("md,tmd->mt", part, direction)
    return pushed


def norm_of(plan: Plan, number: int, x: npt.NDArray[np.float32], w: Floats) -> NormMap:
    """The norm of an operation that adds W x to the residual stream, for these rows."""
    op = plan.ops[number]
    if op.vec < 0:
        return NormMap.of(plan, op, np.empty((0, len(w))))
    bias = plan.segments[op.seg].bias
    return NormMap.of(plan, op, x @ w.T + (0 if bias < 0 else plan.vectors[bias].data))


def _neurons(
    engine: _engine.Engine,
    layer: Layer,
    values: npt.NDArray[np.float32],
    direction: Wide,
    out: Sequence[npt.NDArray[Any]],
) -> None:
    """Fills (rows, T, k) with the neurons that contribute most: their indices, activations and contributions."""
    w = record.down(engine, layer)
    read = norm_of(engine.plan, layer.down, values, w).back(direction)
    k = min(out[0].shape[-1], values.shape[1])
    for t in range(len(direction)):
        pushed = (read[t].astype(np.float32) @ w) * values  # (rows, neurons)
        best = np.argpartition(-np.abs(pushed), k - 1, axis=1)[:, :k]
        order = np.argsort(-np.abs(np.take_along_axis(pushed, best, 1)), axis=1, kind="stable")
        best = np.take_along_axis(best, order, 1)
        out[0][:, t, :k] = best
        out[1][:, t, :k] = np.take_along_axis(values, best, 1)
        out[2][:, t, :k] = np.take_along_axis(pushed, best, 1)
