"""What a page of a text shows, as named arrays: computed for some rows at a time, and of attention for one head at a
time, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pellucid import _engine
from pellucid.core import Core
from pellucid.look import record
from pellucid.look.byhand import ByHand
from pellucid.look.norm import NormMap
from pellucid.look.pattern import as_cached, as_multiplied
from pellucid.look.places import Layer, Tap, channels, find
from pellucid.page.blocks import half

__all__ = ["GUESSES", "NEURONS", "SCORES", "TARGETS", "THUMB", "Collected", "Progress", "collect"]

Floats = npt.NDArray[np.float32]
Arrays = dict[str, npt.NDArray[Any]]
Progress = Callable[[float], None] | None

ROWS = 64  # per pass
TARGETS = 4  # tokens that pushes are about: the one that follows, then the likeliest
GUESSES = 3  # tokens of the lens after each layer
NEURONS = 4  # of each layer
THUMB = 24  # cells of a thumbnail, each way
LEAST, MOST = 64, 1024  # candidates of a position
SHARE = 0.99  # of the probability that they hold, unless there are MOST of them
BINS, PER_NAT = 64, 4  # of the other logits, counted downwards from the last candidate
SCORES = ("first", "previous", "same", "induction", "entropy", "distance")


@dataclass(frozen=True)
class Collected:
    """Arrays by the names of their blocks; heads: a layer's number -> the weights (n, n) of each of its heads, none for
    a layer without attention."""

    arrays: Arrays
    n_heads: int  # of the layer that has most
    heads: Callable[[int], Iterator[Floats]]
    nbytes: int  # of what `heads` needs


def collect(core: Core, ids: Sequence[int], hand: int, progress: Progress = None) -> Collected:
    """hand: the position whose attention is shown by hand. progress: is told the share that is done, and may raise to
    end it."""
    told = progress or (lambda share: None)
    rows = _Rows(core, ids, hand)
    for start in range(0, len(ids), ROWS):
        told(0.7 * start / len(ids))
        rows.add(start, min(start + ROWS, len(ids)))
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
    arrays |= {"thumbs": thumbs, "head-scores": half(scores)}
    kept = sum(array.nbytes for array in (*rows.q, *rows.k) if array is not None)
    return Collected(arrays, n_heads, rows.heads, kept)


# ---- rows ---------------------------------------------------------------------------------------------------------


class _Rows:
    """What each token's row gives. Queries and keys are kept for the heads' weights."""

    def __init__(self, core: Core, ids: Sequence[int], hand: int) -> None:
        self.engine, self.ids, self.n = core.open(), ids, len(ids)
        self.plan, self.places = self.engine.plan, find(self.engine.plan)
        layers = len(self.places.layers)
        self.n_heads = max((x.group.n_q for x in self.places.layers if x.group is not None), default=1)
        self.hand = ByHand(self.engine, self.places, hand, self.n_heads)
        self.sequence = _engine.Sequence(self.engine)
        self.parts: dict[str, list[npt.NDArray[Any]]] = {}
        shape = (self.n, TARGETS, layers)
        self.pushes = {name: np.zeros(shape, np.float16) for name in ("att-push", "mlp-push", "edit-push")}
        self.pushes["head-push"] = np.zeros((*shape, self.n_heads), np.float16)
        self.neuron = {
            "neurons": np.zeros((self.n, layers, NEURONS), np.uint16 if self._widest() < 1 << 16 else np.uint32),
            "neuron-acts": np.zeros((self.n, layers, NEURONS), np.float16),
            "neuron-push": np.zeros((self.n, layers, NEURONS), np.float16),
        }
        self.lengths = np.zeros((3, layers + 1, self.n), np.float16)  # of the stream, of attention's part, the other's
        self.q, self.k = [], []
        for layer in self.places.layers:
            g = layer.group
            self.q.append(None if g is None else np.zeros((g.n_q, self.n, g.dk), np.float32))
            self.k.append(None if g is None else np.zeros((g.n_kv, self.n, g.dk), np.float32))

    def _widest(self) -> int:
        widths = [self.plan.buffers[x.neurons.buffer].dim for x in self.places.layers if x.neurons is not None]
        return max(widths, default=0)

    def add(self, start: int, end: int) -> None:
        part = np.array(self.ids[start:end], np.int32)
        taps = sorted({tap for layer in self.places.layers for tap in _taps(layer)} | {self.places.embeddings})
        found: dict[Any, Floats]
        found, _ = self.engine.observe([(self.sequence, part, len(part))], taps=taps)
        hidden = np.stack([found[self.places.embeddings], *(found[x.hidden] for x in self.places.layers)])
        logits = self._lens(hidden)
        targets = self._predict(start, logits)
        directions, bias, start_push = self._directions(targets, found)
        self._keep("targets", targets.astype(np.uint32))
        self._keep("base-push", np.stack([start_push, bias], axis=-1))
        rows = slice(start, end)
        self.lengths[0][:, rows] = half(np.linalg.norm(hidden, axis=2))
        for number, layer in enumerate(self.places.layers):
            self._layer(number, layer, found, directions, rows)

    def arrays(self) -> Arrays:
        out = {name: np.concatenate(parts) for name, parts in self.parts.items() if not name.startswith("lens")}
        for name in ("lens-ids", "lens-p"):
            out[name] = np.concatenate(self.parts[name], axis=1)
        counts = out.pop("cand-counts")
        out["cand-starts"] = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32)
        return {**out, **self.pushes, **self.neuron, "lengths": self.lengths}

    def heads(self, number: int) -> Iterator[Floats]:
        """The weights (n, n) of a layer's heads."""
        layer, q, k = self.places.layers[number], self.q[number], self.k[number]
        g = layer.group
        if g is None or q is None or k is None or layer.qkv is None:
            return
        positions = np.arange(self.n)
        sinks = None if layer.sinks < 0 else self.plan.vectors[layer.sinks].data
        for head in range(g.n_q):
            weights = np.zeros((1, self.n, self.n), np.float32)
            self.engine.attention(
                q[head : head + 1], k, [head // (g.n_q // g.n_kv)], positions, scale=layer.scale, window=g.window,
                causal=g.causal, cap=layer.cap, sinks=None if sinks is None else sinks[[head]], weights=weights,
            )  # fmt: skip
            yield weights[0]

    def _keep(self, name: str, array: npt.NDArray[Any]) -> None:
        self.parts.setdefault(name, []).append(array)

    def _lens(self, hidden: Floats) -> Floats:
        """Keeps the likeliest tokens after each layer -> the model's logits (m, vocab)."""
        layers, m, dim = hidden.shape
        ids, p = np.zeros((layers, m, GUESSES), np.uint32), np.zeros((layers, m, GUESSES), np.uint8)
        for i in range(layers):
            for block, logits in record.head_blocks(self.engine, self.places, hidden[i]):
                best, shares = likeliest(logits, GUESSES)
                ids[i, block], p[i, block] = best, np.rint(255 * shares)
                if i == layers - 1 and m <= ROWS:
                    last = logits
        self._keep("lens-ids", ids)
        self._keep("lens-p", p)
        return last

    def _predict(self, start: int, logits: Floats) -> npt.NDArray[np.int64]:
        """Keeps each row's candidates, and what is known of the other tokens -> the targets (m, TARGETS)."""
        targets = np.zeros((len(logits), TARGETS), np.int64)
        for i, row in enumerate(logits):
            found = candidates(row)
            at = start + i + 1
            following = self.ids[at] if at < self.n else int(found.ids[0])
            self._keep("cand-counts", np.array([len(found.ids)]))
            self._keep("cand-ids", found.ids.astype(np.uint32))
            self._keep("cand-logits", found.logits)
            self._keep("tail", found.tail[None])
            self._keep("stats", np.array([[*found.stats, row[following]]], np.float64))
            self._keep("ranks", np.array([1 + np.count_nonzero(row > row[following])], np.uint32))
            likely = [int(id) for id in found.ids[: TARGETS + 1] if id != following]
            chosen = [following, *likely][:TARGETS]
            targets[i] = chosen + [following] * (TARGETS - len(chosen))
        return targets

    def _directions(self, targets: npt.NDArray[np.int64], found: dict[Any, Floats]) -> tuple[Floats, Floats, Floats]:
        """The directions (TARGETS, m, d) of the stream that the targets' logits grow in; what biases (m, TARGETS) and
        the embedding (m, TARGETS) add to them."""
        op = self.plan.ops[self.places.head]
        seg = self.plan.segments[op.seg]
        rows = {
            int(id): record.scaled(
                self.engine, seg, self.engine.matrix(seg.matrix, rows=(int(id), int(id) + 1)), int(id)
            )
            for id in np.unique(targets)
        }
        wanted = np.stack([np.concatenate([rows[int(id)] for id in column]) for column in targets.T])
        bias = np.zeros(targets.shape, np.float32)
        if op.vec2 >= 0:
            bias += np.einsum("tmd,d->mt", wanted, self.plan.vectors[op.vec2].data)
        if seg.bias >= 0:
            bias += self.plan.vectors[seg.bias].data[targets]
        directions = NormMap.of(self.plan, op, found[self.places.last]).back(wanted).astype(np.float32)
        return directions, bias, _push(directions, [found[self.places.embeddings]])

    def _layer(self, number: int, layer: Layer, found: dict[Any, Floats], directions: Floats, rows: slice) -> None:
        parts = {
            "att-push": [found[tap] for tap in layer.attention_out]
            + [found[b] - found[a] for a, b in layer.attention_changes],
            "mlp-push": [found[tap] for tap in layer.mlp_out] + [found[b] - found[a] for a, b in layer.experts],
            "edit-push": [found[b] - found[a] for a, b in layer.edits],
        }
        for name, some in parts.items():
            if some:
                self.pushes[name][rows, :, number] = half(_push(directions, some))
        for i, name in ((1, "att-push"), (2, "mlp-push")):
            if parts[name]:
                self.lengths[i][number + 1, rows] = half(np.linalg.norm(sum(parts[name]), axis=1))
        if layer.mixed is not None and layer.group is not None:
            self._heads_push(number, layer, found[layer.mixed], directions, rows)
        if layer.neurons is not None:
            self._neurons(number, layer, found[layer.neurons], directions[0], rows)
        q, k, g = self.q[number], self.k[number], layer.group
        if q is not None and k is not None and g is not None and layer.qkv is not None and layer.keys is not None:
            a, b = g.n_q * g.dk, (g.n_q + g.n_kv) * g.dk
            queries = as_multiplied(found[layer.qkv][:, :a].reshape(-1, g.n_q, g.dk), self.engine)
            keys = as_cached(found[layer.keys][:, a:b].reshape(-1, g.n_kv, g.dk), self.engine.kv)
            order = channels(self.plan, layer)
            if order is not None:
                queries, keys = queries[..., order], keys[..., order]
            q[:, rows], k[:, rows] = queries.swapaxes(0, 1), keys.swapaxes(0, 1)

    def _heads_push(self, number: int, layer: Layer, mixed: Floats, directions: Floats, rows: slice) -> None:
        w = record.projection(self.engine, layer)
        norm = record.post_norm(self.engine, layer, mixed @ w.T + record.projection_bias(self.engine, layer))
        read = norm.back(directions).astype(np.float32) @ w
        assert layer.group is not None
        each = (mixed * read).reshape(TARGETS, len(mixed), layer.group.n_q, layer.value).sum(axis=3)
        self.pushes["head-push"][rows, :, number, : each.shape[2]] = half(each.swapaxes(0, 1))
        if rows.start <= self.hand.position < rows.stop:
            row = mixed[self.hand.position - rows.start][None]
            self.hand.mixed(number, layer, row, range(layer.group.n_q))

    def _neurons(self, number: int, layer: Layer, acts: Floats, direction: Floats, rows: slice) -> None:
        assert layer.neurons is not None
        ops = self.plan.ops
        down = next((tap.op for tap in layer.mlp_out if ops[tap.op].inp == layer.neurons.buffer), None)
        if down is None or not ops[down].n_seg:
            return
        seg = self.plan.segments[ops[down].seg]
        w = record.scaled(self.engine, seg, self.engine.matrix(seg.matrix))
        bias = self.plan.vectors[seg.bias].data if seg.bias >= 0 else 0
        seen = acts @ w.T + bias if ops[down].vec >= 0 else acts[:, :0]
        norm = NormMap.of(self.plan, ops[down], seen) if ops[down].vec >= 0 else None
        times = norm.back(direction) if norm else direction * np.float32(ops[down].scale)
        push = acts * (times.astype(np.float32) @ w)
        count = min(NEURONS, push.shape[1])
        best = np.argsort(-np.abs(push), axis=1, kind="stable")[:, :count]
        for name, values in (("neurons", best), ("neuron-acts", acts), ("neuron-push", push)):
            chosen = values if name == "neurons" else half(np.take_along_axis(values, best, axis=1))
            self.neuron[name][rows, number, :count] = chosen


def _push(directions: Floats, parts: Sequence[Floats]) -> Floats:
    """What parts (m, d) of the stream add to the targets' logits -> (m, TARGETS)."""
    out: Floats = np.einsum("tmd,md->mt", directions, sum(parts[1:], parts[0]))
    return out


def _taps(layer: Layer) -> list[Tap]:
    single = (layer.hidden, layer.qkv, layer.keys, layer.mixed, layer.neurons)
    pairs = (*layer.attention_changes, *layer.experts, *layer.edits)
    return [
        *(tap for tap in single if tap is not None),
        *layer.attention_out,
        *layer.mlp_out,
        *(tap for pair in pairs for tap in pair),
    ]


class Candidates(NamedTuple):
    """What a page knows of a position's logits: the likeliest tokens, most probable first, and of the others how many
    there are in each quarter of a nat below. stats: log-sum-exp, mean, standard deviation, entropy (nats) of all."""

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
    bins = np.minimum((x[order[-1]] - np.delete(x, order)) * PER_NAT, BINS - 1).astype(np.int64)
    tail = np.bincount(bins, minlength=BINS).astype(np.uint32)
    entropy = float(np.log(total) - (e @ (x - top)) / total)
    return Candidates(order, row[order], tail, (top + float(np.log(total)), float(x.mean()), float(x.std()), entropy))


def likeliest(logits: Floats, k: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """The k likeliest tokens of each row (m, k), of equal ones the lower id first, and their probabilities."""
    m, vocab = logits.shape
    x = logits - logits.max(axis=1, keepdims=True)
    e = np.exp(x)
    total = e.sum(axis=1)
    ids, p = np.zeros((m, k), np.int64), np.zeros((m, k), np.float32)
    each = np.arange(m)
    for i in range(min(k, vocab)):
        ids[:, i] = x.argmax(axis=1)
        p[:, i] = e[each, ids[:, i]] / total
        x[each, ids[:, i]] = -np.inf
    return ids, p


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
    """(THUMB, THUMB): the largest weight of each part, as 255 times its square root. Fewer tokens than cells fill a
    part of them."""
    n = len(weights)
    out = np.zeros((THUMB, THUMB), np.float32)
    cuts = np.arange(n) if n <= THUMB else np.arange(THUMB) * n // THUMB
    some = np.maximum.reduceat(np.maximum.reduceat(weights, cuts, axis=0), cuts, axis=1)
    out[: len(cuts), : len(cuts)] = some
    return np.asarray(np.rint(255 * np.sqrt(out)), np.uint8)


class _Rules:
    """What a head does on average, by where the weight of its rows goes."""

    def __init__(self, ids: Sequence[int]) -> None:
        n = len(ids)
        id = np.array(ids)
        earlier = np.tri(n, n, -1, np.bool_)
        self.same = (id[:, None] == id) & earlier
        before = np.concatenate([[-1], id[:-1]])
        self.induction = (id[:, None] == before) & earlier
        self.distance = np.maximum(np.arange(n)[:, None] - np.arange(n), 0).astype(np.float32)

    def scores(self, w: Floats) -> list[float]:
        """By SCORES: mean weight on the first token, on the previous one, on earlier tokens equal to this one, and on
        tokens that follow such a token (each over the rows that have any); mean entropy in bits; mean distance."""
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
