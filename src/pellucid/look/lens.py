"""What the model would have said after each layer, what pushed a token's logit, and how sure it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pellucid import _engine, checks
from pellucid.errors import WrongValue, shown
from pellucid.look import record
from pellucid.look.places import Places, Tap

if TYPE_CHECKING:
    from pellucid.look.trace import Token, Trace

__all__ = ["Attribution", "Guess", "Lens", "attribution", "lens", "predictions", "top"]

Floats = npt.NDArray[np.float32]


class Guess(NamedTuple):
    """A possible next token."""

    id: int
    piece: str
    probability: float
    logit: float


class Lens(list[list[Guess]]):
    """The likeliest tokens after the embedding, [0], and after layer i, [i + 1]; prints as a table."""

    def __str__(self) -> str:
        lines = []
        for i, guesses in enumerate(self):
            cells = "  ".join(f"{g.piece!r} {g.probability:.3f}" for g in guesses)
            lines.append(f"{'embedding' if i == 0 else f'layer {i - 1}':>9}  {cells}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Attribution:
    """Parts of one logit, in logits; L layers of H heads.

    ``embedding`` + ``attention`` + ``mlp`` + ``edits`` sum to ``total``, the logit before a soft cap as the final
    norm's scale and the dequantised head give it. ``logit``: what the model itself computed.
    """

    position: int
    token: Token
    logit: float
    embedding: float
    attention: npt.NDArray[np.float64]  # (L)
    mlp: npt.NDArray[np.float64]  # (L)
    heads: npt.NDArray[np.float64]  # (L, H): a layer's sum to its attention (but for a projection's bias)
    edits: npt.NDArray[np.float64]  # (L): what edits of the residual stream after a layer did; else 0

    @property
    def total(self) -> float:
        return self.embedding + float(self.attention.sum() + self.mlp.sum() + self.edits.sum())

    def parts(self) -> list[tuple[str, float]]:
        """[(name, logits)], what did most first: embedding, and each layer's attention and mlp (and edits)."""
        out = [("embedding", self.embedding)]
        for i in range(len(self.mlp)):
            out += [(f"layer {i} attention", float(self.attention[i])), (f"layer {i} mlp", float(self.mlp[i]))]
            if self.edits[i]:
                out.append((f"layer {i} edits", float(self.edits[i])))
        return sorted(out, key=lambda part: -abs(part[1]))

    def __str__(self) -> str:
        lines = [f"{self.token.piece!r} at position {self.position}: logit {self.logit:.3f}"]
        return "\n".join(lines + [f"{value:+9.3f}  {name}" for name, value in self.parts()[:12]])


# ---- one position -------------------------------------------------------------------------------------------------


def lens(trace: Trace, position: int, k: int) -> Lens:
    model = trace._need_model()
    engine, places = model.core.open(), record.places_of(model.core.open())
    position, k = _place(trace, position), _count(k, engine.vocab)
    n_layers = len(places.layers)
    if "hidden" in trace.kept and trace.layers == tuple(range(n_layers)) and position in trace.positions:
        rows = trace.hidden[:, trace.positions.index(position)]
    else:
        found = probe(trace, position)
        rows = np.concatenate([found[places.embeddings], *(found[layer.hidden] for layer in places.layers)])
    out = Lens()
    for _, logits in record.head_blocks(engine, places, np.ascontiguousarray(rows)):
        out += [guesses(model, row, k) for row in logits]
    return out


def top(trace: Trace, position: int, k: int) -> list[Guess]:
    model = trace._need_model()
    position, k = _place(trace, position), _count(k, model.core.open().vocab)
    return guesses(model, logits_at(trace, position), k)


def logits_at(trace: Trace, position: int) -> Floats:
    """(vocab), kept or computed again."""
    if "logits" in trace.kept and position in trace.positions:
        return trace.logits[trace.positions.index(position)]
    engine = trace._need_model().core.open()
    places = record.places_of(engine)
    if "hidden" in trace.kept and len(places.layers) - 1 in trace.layers and position in trace.positions:
        row = trace.hidden[-1, trace.positions.index(position)][None]
    else:
        row = probe(trace, position)[places.last]
    ((_, logits),) = record.head_blocks(engine, places, row)
    return logits[0]


def guesses(model: Any, logits: Floats, k: int) -> list[Guess]:
    """The k likeliest, of equals the lower id first."""
    from pellucid.look.trace import spell

    best = np.argpartition(-logits, k - 1)[:k]
    order = best[np.lexsort((best, -logits[best]))]
    wide = logits.astype(np.float64)
    top = wide.max()
    p = np.exp(wide[order] - top) / np.exp(wide - top).sum()
    return [
        Guess(token.id, token.piece, float(p[i]), float(logits[token.id]))
        for i, token in enumerate(spell(model.core, order.tolist()))
    ]


def attribution(trace: Trace, position: int, token: Any) -> Attribution:
    from pellucid.look.trace import spell

    model = trace._need_model()
    engine = model.core.open()
    places = record.places_of(engine)
    position = _place(trace, position)
    id = _token(trace, position, token)
    found = probe(trace, position)
    plan = engine.plan
    op = plan.ops[places.head]
    x = found[places.last][0].astype(np.float64)
    row = engine.matrix(plan.segments[op.seg].matrix, rows=(id, id + 1))[0]
    direction = row.astype(np.float64) * plan.vectors[op.vec].data / np.sqrt(np.mean(x * x) + op.eps)

    def push(tap: Tap | None) -> float:
        return 0.0 if tap is None else float(found[tap][0].astype(np.float64) @ direction)

    layers = places.layers
    heads = np.zeros((len(layers), model.core.config.attention.n_q))
    for i, layer in enumerate(layers):
        if layer.mixed is None or layer.group is None:
            continue
        w = record.projection(engine, layer)
        mixed = found[layer.mixed][0]
        scale = record.post_norm(engine, layer, (w @ mixed + record.projection_bias(engine, layer))[None])[0]
        read = (direction * scale) @ w  # (heads * value_dim)
        heads[i] = (mixed * read).reshape(layer.group.n_q, layer.group.dv).sum(axis=1)
    return Attribution(
        position,
        spell(model.core, [id])[0],
        float(logits_at(trace, position)[id]),
        push(places.embeddings),
        np.array([push(layer.attention_out) for layer in layers]),
        np.array([push(layer.mlp_out) for layer in layers]),
        heads,
        np.array([sum(push(after) - push(before) for before, after in layer.edits) for layer in layers], np.float64),
    )


def probe(trace: Trace, position: int) -> dict[Tap, Floats]:
    """All taps of one token's row, (1, width) each: computed again, with the same bits; the last one is kept."""
    known = trace._probe  # read once: another thread may ask for another position
    if known is None or known[0] != position:
        engine = trace._need_model().core.open()
        sequence = _engine.Sequence(engine)
        for start in range(0, position, engine.max_rows):
            part = np.array(trace.ids[start : min(start + engine.max_rows, position)], np.int32)
            engine.forward([(sequence, part, len(part))])
        last = np.array([trace.ids[position]], np.int32)
        found, _ = engine.observe([(sequence, last, 1)], taps=_row_taps(record.places_of(engine)))
        trace._probe = known = (position, found)
    return known[1]


def _row_taps(places: Places) -> list[Tap]:
    taps = {places.embeddings}
    for layer in places.layers:
        taps.add(layer.hidden)
        taps |= {t for t in (layer.mixed, layer.attention_out, layer.mlp_out) if t is not None}
        taps |= {t for edit in layer.edits for t in edit}
    return sorted(taps)


def _place(trace: Trace, position: Any) -> int:
    (place,) = record.select("position", checks.integer("position", position, -len(trace), len(trace) - 1), len(trace))
    return place


def _count(k: Any, vocab: int) -> int:
    return min(checks.integer("k", k, 1), vocab)


def _token(trace: Trace, position: int, token: Any) -> int:
    model = trace._need_model()
    if token is None:
        if position + 1 < len(trace):
            return trace.ids[position + 1]
        return int(np.argmax(logits_at(trace, position)))
    if isinstance(token, str):
        ids = model.tokenize(token, add_special=False)
        if len(ids) != 1:
            raise WrongValue("token", f"={shown(token)} is {len(ids)} tokens, expected one: give an id")
        return ids[0]
    return model.core.check_ids([token], "token")[0]


# ---- every position -----------------------------------------------------------------------------------------------


def predictions(trace: Trace) -> dict[str, npt.NDArray[Any]]:
    """entropy, next_rank and next_probability of the trace's positions, in blocks of 64 rows of logits."""
    n = len(trace.positions)
    entropy = np.empty(n, np.float32)
    rank, probability = np.zeros(n, np.int32), np.full(n, np.nan, np.float32)
    for rows, logits in _blocks(trace):
        x = logits - logits.max(axis=1, keepdims=True)
        e = np.exp(x)
        total = e.sum(axis=1)
        entropy[rows] = np.log(total) - np.einsum("ij,ij->i", e, x) / total
        for i, position in enumerate(trace.positions[rows]):
            if position + 1 < len(trace):
                own = x[i, trace.ids[position + 1]]
                rank[rows.start + i] = 1 + np.count_nonzero(x[i] > own)
                probability[rows.start + i] = np.exp(own) / total[i]
    return {"entropy": entropy, "next_rank": rank, "next_probability": probability}


def _blocks(trace: Trace) -> Any:
    if "logits" in trace.kept:
        return ((slice(i, i + 64), trace.logits[i : i + 64]) for i in range(0, len(trace.positions), 64))
    engine = trace._need_model().core.open()
    places = record.places_of(engine)
    if "hidden" in trace.kept and len(places.layers) - 1 in trace.layers:
        return record.head_blocks(engine, places, trace.hidden[-1])
    again = record.Selection(("hidden",), (len(places.layers) - 1,), trace.heads, trace.positions, len(trace))
    return record.head_blocks(engine, places, record.record(engine, trace.ids, again, places, 512)["hidden"][-1])
