"""The logit lens, the attribution of a logit to parts of the model, and the entropy and ranks of predictions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pellucid.core import Core
from pellucid.errors import shown
from pellucid.generation import prefill
from pellucid.look import record
from pellucid.look.places import Places, Tap, find
from pellucid.look.recorded import Recorded, Token
from pellucid.markup import ORANGE, PURPLE, Cell, Fragment, Shown
from pellucid.schedule.turns import Turns

__all__ = ["Attribution", "Guess", "Lens", "guesses", "lens", "predictions", "probe"]

Floats = npt.NDArray[np.float32]
MOST_GUESSES = 10  # shown in a notebook after a layer


class Guess(NamedTuple):
    """A possible next token."""

    id: int
    piece: str
    probability: float
    logit: float


class Lens(list[list[Guess]], Shown):
    """The likeliest tokens after the embedding (item 0) and after layer i (item i + 1). `print` shows them as a
    table."""

    def __repr__(self) -> str:
        last = f", after the last {shown(self[-1][0].piece)}" if self and self[-1] else ""
        return f"<Lens of {max(len(self) - 1, 0)} layers: {self._width()} likeliest tokens after each{last}>"

    def __str__(self) -> str:
        lines = []
        for i, guesses in enumerate(self):
            cells = "  ".join(f"{g.piece!r} {g.probability:.3f}" for g in guesses)
            lines.append(f"{_after(i):>9}  {cells}")
        return "\n".join(lines)

    def _width(self) -> int:
        return max(map(len, self), default=0)

    def _draw(self, fragment: Fragment) -> None:
        n = min(self._width(), MOST_GUESSES)
        left = f" The first {n} of {self._width()} are shown." if n < self._width() else ""
        fragment.note(f"The likeliest next tokens after each layer, and their probabilities.{left}")
        rows: list[list[str | Cell]] = []
        for i, guesses in enumerate(self):
            cells = [_guess(g) for g in guesses[:n]]
            rows.append([_after(i), *cells, *[Cell("")] * (n - len(cells))])
        fragment.table(["after", *map(str, range(1, n + 1))], rows, what="layers")


def _after(i: int) -> str:
    return "embedding" if i == 0 else f"layer {i - 1}"


def _guess(guess: Guess) -> Cell:
    title = f"id {guess.id}: probability {guess.probability:.4f}, logit {guess.logit:.2f}"
    return Cell(f"{shown(guess.piece, 24)} {guess.probability:.2f}", guess.probability, title=title)


@dataclass(frozen=True)
class Attribution(Shown):
    """The contribution of each part of a model of L layers and H heads to one logit.

    ``embedding`` + ``attention`` + ``mlp`` + ``edits`` + ``bias`` sum to ``total``, the logit before a soft cap,
    computed with the final norm's scale and the dequantised head. ``logit``: as computed by the model.
    """

    position: int
    token: Token
    logit: float
    embedding: float
    attention: npt.NDArray[np.float64]  # (L)
    mlp: npt.NDArray[np.float64]  # (L)
    heads: npt.NDArray[np.float64]  # (L, H): each row sums to the layer's attention, except for a projection's bias
    edits: npt.NDArray[np.float64]  # of edits of the residual stream after a layer; 0 if there are none
    bias: float = 0.0  # of the biases of the final norm and of the head
    against: Token | None = None  # the token whose logit is subtracted; all numbers are then differences

    @property
    def total(self) -> float:
        """The sum of all parts: the logit before a soft cap, or the difference of two."""
        return self.embedding + self.bias + float(self.attention.sum() + self.mlp.sum() + self.edits.sum())

    def parts(self) -> list[tuple[str, float]]:
        """[(name, logits)] of the embedding, of the final biases, and of each layer's attention, mlp and edits, in
        descending order of absolute value."""
        out = [("embedding", self.embedding), *([("bias", self.bias)] if self.bias else [])]
        for i in range(len(self.mlp)):
            out += [(f"layer {i} attention", float(self.attention[i])), (f"layer {i} mlp", float(self.mlp[i]))]
            if self.edits[i]:
                out.append((f"layer {i} edits", float(self.edits[i])))
        return sorted(out, key=lambda part: -abs(part[1]))

    def __repr__(self) -> str:
        return f"<Attribution of {self._name()} at position {self.position}: logit {self.logit:.3f}>"

    def _name(self) -> str:
        return shown(self.token.piece) + ("" if self.against is None else f" - {shown(self.against.piece)}")

    def _draw(self, fragment: Fragment) -> None:
        fragment.heading(f"{self._name()} at position {self.position}: logit {self.logit:.2f}")
        fragment.note(
            f"What each layer added to it, in logits; the embedding added {self.embedding:+.2f}. "
            "Orange is up, purple is down."
        )
        parts = {"attention": self.attention, "feed-forward": self.mlp, "edits": self.edits}
        if not self.edits.any():
            del parts["edits"]
        most = max((float(np.abs(part).max()) for part in parts.values() if part.size), default=0.0)
        rows: list[list[str | Cell]] = []
        for i in range(len(self.mlp)):
            strongest = np.argsort(-np.abs(self.heads[i]), kind="stable")[:3].tolist()
            heads = ", ".join(f"{head}: {self.heads[i, head]:+.2f}" for head in strongest if self.heads[i, head])
            rows.append([str(i), *[_push(float(part[i]), most) for part in parts.values()], heads])
        fragment.table(["layer", *parts, "heads that added most"], rows, (0, *range(1, len(parts) + 1)), "layers")

    def __str__(self) -> str:
        minus = "" if self.against is None else f" - {self.against.piece!r}"
        lines = [f"{self.token.piece!r}{minus} at position {self.position}: logit {self.logit:.3f}"]
        return "\n".join(lines + [f"{value:+9.3f}  {name}" for name, value in self.parts()[:12]])


def _push(value: float, most: float) -> Cell:
    return Cell(f"{value:+.2f}", abs(value) / most if most else 0.0, ORANGE if value > 0 else PURPLE)


# ---- one position -------------------------------------------------------------------------------------------------


def lens(core: Core, rows: Floats, k: int) -> Lens:
    """``Trace.lens``. rows: the residual stream (L + 1, d) of one token, after the embedding and after each layer."""
    out = Lens()
    with Turns(core, "trace") as turns:
        for _, logits in record.head_blocks(turns, find(turns.plan), np.ascontiguousarray(rows)):
            out += [guesses(core, row, k) for row in logits]
    return out


def guesses(core: Core, logits: Floats, k: int) -> list[Guess]:
    """The k likeliest tokens of logits (vocab); of equal ones, the lower id first."""
    k = min(k, len(logits))
    best = np.argpartition(-logits, k - 1)[:k]
    order = best[np.lexsort((best, -logits[best]))]
    wide = logits.astype(np.float64)
    top = wide.max()
    p = np.exp(wide[order] - top) / np.exp(wide - top).sum()
    ids = order.tolist()
    return [Guess(id, core.spell(id), float(p[i]), float(logits[id])) for i, id in enumerate(ids)]


def probe(core: Core, ids: Sequence[int], position: int) -> dict[Tap, Floats]:
    """The residual stream of one token after the embedding and each layer, each (1, d), bit for bit."""
    with Turns(core, "prompt", [position + 1]) as turns:
        sequence = turns.sequence()
        prefill(turns, sequence, ids[:position], turns.max_rows, None, turns.rows)
        last = np.array([ids[position]], np.int32)
        found, _ = turns.observe([(sequence, last, 1)], taps=_row_taps(find(turns.plan)))
    return {Tap(*tap): rows for tap, rows in found.items()}


def _row_taps(places: Places) -> list[Tap]:
    return sorted({places.embeddings, *(layer.hidden for layer in places.layers)})


# ---- every position -----------------------------------------------------------------------------------------------


def predictions(recorded: Recorded, blocks: Iterable[tuple[slice, Floats]]) -> dict[str, npt.NDArray[Any]]:
    """{name: values} for entropy, next_rank and next_probability at the recorded positions. blocks: (rows, their
    logits)."""
    n = len(recorded.positions)
    entropy = np.empty(n, np.float32)
    rank, probability = np.zeros(n, np.int32), np.full(n, np.nan, np.float32)
    for rows, logits in blocks:
        x = logits - logits.max(axis=1, keepdims=True)
        e = np.exp(x)
        total = e.sum(axis=1)
        # Separate sums: the error of a single one in 32 bits would grow with the vocabulary.
        entropy[rows] = np.log(total) - np.einsum("ij,ij->i", e, x, dtype=np.float64) / total
        for i, position in enumerate(recorded.positions[rows]):
            if position + 1 < len(recorded):
                own = x[i, recorded.ids[position + 1]]
                rank[rows.start + i] = 1 + np.count_nonzero(x[i] > own)
                probability[rows.start + i] = np.exp(own) / total[i]
    return {"entropy": entropy, "next_rank": rank, "next_probability": probability}
