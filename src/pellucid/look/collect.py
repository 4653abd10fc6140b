"""The data of a text's page, as named arrays: computed for some rows at a time, and for attention one head at a time,
to bound memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pellucid import _engine
from pellucid._engine import Kind
from pellucid.core import Core
from pellucid.look import attributions, record
from pellucid.look.byhand import ByHand
from pellucid.look.pattern import as_cached, as_multiplied
from pellucid.look.places import Layer, Tap, channels, find
from pellucid.look.table import likeliest
from pellucid.page.blocks import half
from pellucid.schedule.turns import Turns

__all__ = ["FEWER", "GUESSES", "MOST", "NEURONS", "SCORES", "TARGETS", "THUMB", "Collected", "Progress", "collect"]

Floats = npt.NDArray[np.float32]
Arrays = dict[str, npt.NDArray[Any]]
Progress = Callable[[float], None] | None

ROWS = 64  # per pass
TARGETS = 4  # tokens whose logits are attributed: the one that follows, then the most probable
GUESSES = 3  # tokens of the logit lens after each layer
NEURONS = 4  # of each layer
NEAR = 6  # tokens whose embeddings are nearest to that of the one shown by hand
TABLE = 8192  # rows of the embedding table processed at a time
THUMB = 24  # cells of a thumbnail in each direction
LEAST, MOST = 64, 1024  # candidates of a position
FEWER = (256, 64)  # maximum candidates of a page that must be small
SHARE = 0.99  # of the probability that candidates hold, unless there are MOST of them
BINS, PER_NAT = 64, 4  # for the other logits, counted downwards from the last candidate
SCORES = ("first", "previous", "same", "induction", "entropy", "distance")


class Heads(Protocol):
    def __call__(
        self, number: int, chosen: Sequence[int] | None = None, positions: Sequence[int] | None = None
    ) -> Iterator[Floats]:
        """The weights (positions, n) of a layer's heads, one after another; none for a layer without attention. heads,
        positions: ascending; by default, all."""


@dataclass(frozen=True)
class Collected:
    """Arrays by the names of their blocks."""

    arrays: Arrays
    n_heads: int  # of the layer with the most heads
    last: Floats  # (n, dim): the stream that the head reads
    heads: Heads
    tails: dict[int, npt.NDArray[np.uint32]]  # "tail", by maximum number of candidates
    nbytes: int  # of `last`, and of the data that `heads` needs


def collect(core: Core, ids: Sequence[int], hand: int, progress: Progress = None) -> Collected:
    """hand: the position whose attention is shown by hand. progress: called with the share that is done; may raise an
    exception to stop."""
    told = progress or (lambda share: None)
    told(0.0)
    watch = record.Watch(progress=lambda done, total: told(0.7 * done / total), total=len(ids))
    with Turns(core, "page", [len(ids)]) as turns:
        rows = _Rows(core, turns, ids, hand)
        for to, found in record.walk(turns, ids, rows.taps(), range(len(ids)), watch, ROWS):
            rows.add(to, found)
    layers = rows.places.layers
    for number, layer in enumerate(layers):
        q, k = rows.q[number], rows.k[number]
        if q is not None and k is not None and layer.qkv is not None:
            rows.hand.attention(number, layer, q, k)
    arrays = rows.arrays() | rows.hand.arrays()
    n_heads = rows.n_heads
    thumbs = np.zeros((len(layers), n_heads, THUMB, THUMB), np.uint8)
    scores = np.zeros((len(layers), n_heads, len(SCORES)), np.float32)
    rules = _Rules(ids)
    for number in range(len(layers)):
        told(0.7 + 0.3 * number / len(layers))
        for head, weights in enumerate(rows.heads(number)):
            thumbs[number, head] = thumbnail(weights)
            scores[number, head] = rules.scores(weights)
    row, near, cosines = nearest(rows.engine, ids[hand], NEAR)
    arrays |= {"thumbs": thumbs, "head-scores": half(scores)}
    arrays |= {"near-row": half(row), "near-ids": near, "near-cosines": half(cosines)}
    kept = sum(array.nbytes for array in (*rows.q, *rows.k) if array is not None)
    last = np.concatenate(rows.last)
    tails = {most: arrays.pop(f"tail-{most}") for most in FEWER}
    return Collected(arrays, n_heads, last, rows.heads, tails, kept + last.nbytes)


# ---- rows ---------------------------------------------------------------------------------------------------------


class _Rows:
    """The data from each token's row. Queries and keys are kept for the heads' weights."""

    def __init__(self, core: Core, turns: Turns, ids: Sequence[int], hand: int) -> None:
        self.turns, self.engine, self.ids, self.n = turns, turns.engine, ids, len(ids)
        self.plan, self.places = self.engine.plan, find(self.engine.plan)
        missing = [[(-1, -1)] * TARGETS for _ in ids]  # filled in when the logits are known
        self.pushes = attributions.blank(core, range(self.n), missing, NEURONS, named=1)
        self.n_heads = max((x.group.n_q for x in self.places.layers if x.group is not None), default=1)
        self.hand = ByHand(turns, self.places, hand, self.n_heads)
        self.parts: dict[str, list[npt.NDArray[Any]]] = {}
        layers = len(self.places.layers)
        self.lengths = np.zeros((3, layers + 1, self.n), np.float16)  # of the stream, of attention's part, of the rest
        self.last: list[Floats] = []
        self.q, self.k = [], []
        for layer in self.places.layers:
            g = layer.group
            self.q.append(None if g is None else np.zeros((g.n_q, self.n, g.dk), np.float32))
            self.k.append(None if g is None else np.zeros((g.n_kv, self.n, g.dk), np.float32))

    def taps(self) -> list[Tap]:
        layers = self.places.layers
        heads = {tap for x in layers for tap in (x.qkv, x.keys) if tap is not None}
        return sorted({*attributions.taps_of(layers, True), *heads, self.places.embeddings})

    def add(self, to: slice, found: dict[Tap, Floats]) -> None:
        hidden = [found[self.places.embeddings], *(found[x.hidden] for x in self.places.layers)]
        self._lens(hidden, to)
        rows = attributions.Rows.of(found, self.places)
        self.last.append(rows.last)
        for block, logits in record.head_blocks(self.turns, self.places, rows.last, ROWS):
            at = slice(to.start + block.start, to.start + block.stop)
            self.pushes.ids[at] = self._predict(at.start, logits)
        attributions.add(self.engine, self.pushes, to, rows, record.Watch())
        measured: list[Sequence[Floats | None]] = [hidden, [None, *rows.attention], [None, *rows.mlp]]
        for i, parts in enumerate(measured):
            for after, part in enumerate(parts):
                if part is not None:
                    self.lengths[i, after, to] = half(np.linalg.norm(part, axis=1))
        for number, layer in enumerate(self.places.layers):
            if layer.group is None:
                continue
            mixed = rows.mixed[number]
            if mixed is not None and to.start <= self.hand.position < to.stop:
                row = mixed[self.hand.position - to.start][None]
                self.hand.mixed(number, layer, row, range(layer.group.n_q))
            self._attention(number, layer, found, to)

    def arrays(self) -> Arrays:
        out = {name: np.concatenate(parts) for name, parts in self.parts.items() if not name.startswith("lens")}
        for name in ("lens-ids", "lens-p"):
            out[name] = np.concatenate(self.parts[name], axis=1)
        counts = out.pop("cand-counts")
        out["cand-starts"] = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32)
        p = self.pushes
        for name, part in (("att", p.attention), ("mlp", p.mlp), ("edit", p.edits), ("head", p.heads)):
            out[f"{name}-push"] = half(part)
        out["targets"] = p.ids.astype(np.uint32)
        out["base-push"] = np.stack([p.embedding, p.bias], axis=-1).astype(np.float32)
        return {**out, **self._neurons(), "lengths": self.lengths}

    def _neurons(self) -> Arrays:
        """The neurons that contribute most to the first target; zeros if a layer has none, or fewer."""
        p, shape = self.pushes, (self.n, len(self.places.layers), NEURONS)
        found: Arrays = {"neurons": p.neurons, "neuron-acts": p.neuron_values, "neuron-push": p.neuron_logits}
        widest = int(p.neurons.max(initial=0))
        out: Arrays = {}
        for name, part in found.items():
            kind = (np.uint16 if widest < 1 << 16 else np.uint32) if name == "neurons" else np.float16
            out[name] = np.zeros(shape, kind)
            own = np.maximum(part[:, 0], 0) if name == "neurons" else half(part[:, 0])
            out[name][..., : part.shape[-1]] = own
        return out

    def heads(
        self, number: int, chosen: Sequence[int] | None = None, positions: Sequence[int] | None = None
    ) -> Iterator[Floats]:
        layer, q, k = self.places.layers[number], self.q[number], self.k[number]
        g = layer.group
        if g is None or q is None or k is None or layer.qkv is None:
            return
        rows = np.arange(self.n) if positions is None else np.array(positions)
        sinks = None if layer.sinks < 0 else self.plan.vectors[layer.sinks].data
        for head in range(g.n_q) if chosen is None else chosen:
            weights = np.zeros((1, len(rows), self.n), np.float32)
            self.turns.attention(
                q[head : head + 1, rows], k, [head // (g.n_q // g.n_kv)], rows, scale=layer.scale, window=g.window,
                causal=g.causal, cap=layer.cap, sinks=None if sinks is None else sinks[[head]], scores=None,
                weights=weights,
            )  # fmt: skip
            yield weights[0]

    def _keep(self, name: str, array: npt.NDArray[Any]) -> None:
        self.parts.setdefault(name, []).append(array)

    def _lens(self, hidden: Sequence[Floats], to: slice) -> None:
        """Records the likeliest tokens after each layer."""
        shape = (len(hidden), to.stop - to.start, GUESSES)
        ids, p = np.zeros(shape, np.uint32), np.zeros(shape, np.uint8)
        k = min(GUESSES, self.engine.vocab)
        for i, rows in enumerate(hidden):
            for row, top in enumerate(likeliest(self.turns, rows, k)):
                ids[i, row, :k] = [id for id, _ in top]
                p[i, row, :k] = np.rint(255 * np.exp([logprob for _, logprob in top]))
        self._keep("lens-ids", ids)
        self._keep("lens-p", p)

    def _predict(self, start: int, logits: Floats) -> npt.NDArray[np.int64]:
        """Records each row's candidates, and statistics of the other tokens -> the targets (m, TARGETS)."""
        targets = np.zeros((len(logits), TARGETS), np.int64)
        for i, row in enumerate(logits):
            found = candidates(row)
            at = start + i + 1
            following = self.ids[at] if at < self.n else int(found.ids[0])
            self._keep("cand-counts", np.array([len(found.ids)]))
            self._keep("cand-ids", found.ids.astype(np.uint32))
            self._keep("cand-logits", found.logits)
            self._keep("tail", found.tail[None])
            for most in FEWER:
                self._keep(f"tail-{most}", tail(row, found.ids[:most])[None])
            self._keep("stats", np.array([[*found.stats, row[following]]], np.float64))
            self._keep("ranks", np.array([1 + np.count_nonzero(row > row[following])], np.uint32))
            likely = [int(id) for id in found.ids[: TARGETS + 1] if id != following]
            chosen = [following, *likely][:TARGETS]
            targets[i] = chosen + [following] * (TARGETS - len(chosen))
        return targets

    def _attention(self, number: int, layer: Layer, found: dict[Tap, Floats], to: slice) -> None:
        q, k, g = self.q[number], self.k[number], layer.group
        if q is None or k is None or g is None or layer.qkv is None or layer.keys is None:
            return
        parts = record.split(g, found[layer.qkv], found[layer.keys])
        queries, keys = as_multiplied(parts["q"], self.engine), as_cached(parts["k"], self.engine.kv)
        order = channels(self.plan, layer)
        if order is not None:
            queries, keys = queries[..., order], keys[..., order]
        q[:, to], k[:, to] = queries.swapaxes(0, 1), keys.swapaxes(0, 1)


def nearest(engine: _engine.Engine, id: int, k: int) -> tuple[Floats, npt.NDArray[np.uint32], Floats]:
    """A token's row of the embedding table, the k other tokens whose rows have the largest cosine with it, and these
    cosines."""
    plan = engine.plan
    op = plan.ops[find(plan).embeddings.op]
    source = next((one for one in plan.ops if one.kind == Kind.EMBED and one.layer < 0), op)
    matrix = plan.segments[source.seg].matrix

    def unit(start: int, end: int) -> Floats:
        rows = engine.matrix(matrix, rows=(start, end))
        found: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return found

    own = unit(id, id + 1)[0]
    cosines = np.concatenate([unit(i, min(i + TABLE, plan.vocab)) @ own for i in range(0, plan.vocab, TABLE)])
    cosines[id] = -np.inf
    best = best_first(cosines, min(k, plan.vocab - 1))
    return engine.matrix(matrix, rows=(id, id + 1))[0], best.astype(np.uint32), cosines[best]


class Candidates(NamedTuple):
    """The logits of a position as a page shows them: the likeliest tokens, most probable first, and the number of
    others in each quarter of a nat below. stats: log-sum-exp, mean, standard deviation, entropy (nats) of all
    logits."""

    ids: npt.NDArray[np.int64]
    logits: Floats
    tail: npt.NDArray[np.uint32]
    stats: tuple[float, float, float, float]


def candidates(row: Floats) -> Candidates:
    """Of logits (vocab)."""
    x = row.astype(np.float64)
    top = float(x.max())
    e = np.exp(x - top)
    total = float(e.sum())
    order = best_first(row, min(MOST, len(row)))
    held = np.cumsum(e[order]) / total
    order = order[: max(int(np.searchsorted(held, SHARE)) + 1, LEAST)]
    entropy = float(np.log(total) - (e @ (x - top)) / total)
    stats = top + float(np.log(total)), float(x.mean()), float(x.std()), entropy
    return Candidates(order, row[order], tail(row, order), stats)


def tail(row: Floats, order: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """(BINS): the number of logits in each interval below the last of `order`, the best ones, which are not counted."""
    x = row.astype(np.float64)
    bins = np.clip((x[order[-1]] - x) * PER_NAT, 0, BINS - 1).astype(np.int64)
    found = np.bincount(bins, minlength=BINS)
    found[0] -= len(order)  # these are not below the last one
    return found.astype(np.uint32)


def best_first(row: Floats, k: int) -> npt.NDArray[np.int64]:
    """The ids of the k largest logits; of equal ones, the lower id first."""
    if k < len(row):
        least = -np.partition(-row, k - 1)[k - 1]
        ids = np.flatnonzero(row >= least)
    else:
        ids = np.arange(len(row))
    order: npt.NDArray[np.int64] = ids[np.lexsort((ids, -row[ids]))][:k]
    return order


# ---- heads --------------------------------------------------------------------------------------------------------


def thumbnail(weights: Floats) -> npt.NDArray[np.uint8]:
    """(THUMB, THUMB): the largest weight of each part, as 255 times its square root. With fewer tokens than cells, only
    some are filled."""
    n = len(weights)
    out = np.zeros((THUMB, THUMB), np.float32)
    cuts = np.arange(n) if n <= THUMB else np.arange(THUMB) * n // THUMB
    some = np.maximum.reduceat(np.maximum.reduceat(weights, cuts, axis=0), cuts, axis=1)
    out[: len(cuts), : len(cuts)] = some
    return np.asarray(np.rint(255 * np.sqrt(out)), np.uint8)


class _Rules:
    """What a head does on average, by where its attention weight goes."""

    def __init__(self, ids: Sequence[int]) -> None:
        n = len(ids)
        id = np.array(ids)
        earlier = np.tri(n, n, -1, np.bool_)
        self.same = (id[:, None] == id) & earlier
        before = np.concatenate([[-1], id[:-1]])
        self.induction = (id[:, None] == before) & earlier
        self.distance = np.maximum(np.arange(n)[:, None] - np.arange(n), 0).astype(np.float32)

    def scores(self, w: Floats) -> list[float]:
        """In the order of SCORES: mean weight on the first token, on the previous one, on earlier tokens equal to this
        one, and on tokens that follow such a token (each over the rows that have any); mean entropy in bits; mean
        distance."""
        n = len(w)

        def on(where: npt.NDArray[np.bool_]) -> float:
            rows = where.any(axis=1)
            return float(np.where(where, w, 0).sum(axis=1)[rows].mean()) if rows.any() else 0.0

        logs = np.log2(w, where=w > 0, out=np.zeros_like(w))
        return [
            float(w[1:, 0].mean()) if n > 1 else 0.0,
            float(np.diagonal(w, -1).mean()) if n > 1 else 0.0,
            on(self.same),
            on(self.induction),
            float(-(w * logs).sum(axis=1).mean()),
            float((w * self.distance).sum(axis=1).mean()),
        ]
