"""A trace: what one pass over a text computed, and further quantities that are computed on demand."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid import checks, generation
from pellucid.core import Core, Loaded
from pellucid.errors import WrongValue, shown
from pellucid.look import export, lens, record
from pellucid.look.lens import Attribution, Guess, Lens
from pellucid.look.places import Tap, find
from pellucid.look.recorded import PREDICTIONS, Recorded, Selected, Token
from pellucid.results import Completion
from pellucid.sampling import Integer

__all__ = ["LIMIT", "Token", "Trace", "trace"]

Floats = npt.NDArray[np.float32]
WANT = ("hidden", "attention")
LIMIT = 2 << 30  # bytes that a trace may take unless `limit` says otherwise


class Trace(Recorded):
    """What one pass over n tokens computed. Created by ``Model.trace``, whose arguments select what is kept; arrays are
    float32.

    L, H, P: number of selected ``layers``, ``heads`` and ``positions`` (the attributes of these names list them in
    ascending order; by default all). d: the model's width.

    ==================  ==============================  ===========================================================
    ``embeddings``      (P, d)                          the residual stream at its start (Gemma's scale included)
    ``hidden``          (L + 1, P, d)                   the residual stream: first the embeddings, then after each
                                                        selected layer; before the final norm, also the last
    ``q``               (L, H, P, head_dim)             queries as attention uses them: head norm and rotation done
    ``k``               (L, kv_heads, n, head_dim)      keys likewise; of all n tokens and all KV heads
    ``v``               (L, kv_heads, n, value_dim)     values; k and v before the cache rounds them to its type
    ``scores``          (L, H, P, n)                    q . k * scale before softmax; -inf where a row sees nothing
    ``attention``       (L, H, P, n)                    softmax of these: rows sum to 1
    ``attention_out``   (L, P, d)                       what attention adds to the residual stream (post-norm done)
    ``mlp_out``         (L, P, d)                       what the feed-forward network adds to it
    ``neurons``         (L, P, ff)                      activations that ffn_down reads: act(gate) * up
    ``head_out``        (L, H, P, d)                    each head's part of attention_out: its columns of W_o, times the
                                                        post-norm's scale of that row; a bias belongs to no head
    ``logits``          (P, vocab)                      the model's, bit for bit
    ==================  ==============================  ===========================================================

    ``entropy`` (nats), ``next_rank`` (1: the likeliest; 0 where no token follows) and ``next_probability`` (NaN there),
    each (P), are computed at their first use. A quantity that was not asked for raises ``AttributeError``. Where an
    edit skipped attention or the feed-forward network of a layer, its arrays are zero.
    """

    def __init__(
        self,
        tokens: Sequence[Token],
        selected: Selected,
        arrays: dict[str, npt.NDArray[Any]],
        name: str,
        core: Core | None,
    ) -> None:
        super().__init__(tokens, selected, arrays, name)
        self._core = core
        self._probed: tuple[int, dict[Tap, Floats]] | None = None  # the last position's

    def __getattr__(self, name: str) -> Any:  # called for attributes that do not exist yet
        if name not in PREDICTIONS:
            return super().__getattr__(name)
        self._keep(lens.predictions(self, self._blocks()))
        return vars(self)[name]

    def _need_core(self) -> Core:
        """The core that made the trace. Raises ValueError after `load` without a model."""
        if self._core is None:
            raise ValueError("this trace was loaded without a model: Trace.load(path, model=model)")
        self._core = self._core.lasting()
        return self._core

    # ---- one position -----------------------------------------------------------------------------------------

    def lens(self, position: Integer | None = -1, k: Integer | None = 5) -> Lens:
        """The logit lens (nostalgebraist 2020) at a token: the k likeliest next tokens after each layer.

        The model's own operation applies the final norm and the head to the residual stream, so that the last entry
        has the bits of the model's logits. -> list of layers + 1 lists of Guess(id, piece, probability, logit).
        """
        core = self._need_core()
        places = find(core.open().plan)
        position, k = self._place(position), checks.integer("k", 5 if k is None else k, 1)
        if "hidden" in self.kept and self.layers == tuple(range(len(places.layers))) and position in self.positions:
            rows = self.hidden[:, self.positions.index(position)]
        else:
            found = self._probe(position)
            rows = np.concatenate([found[places.embeddings], *(found[layer.hidden] for layer in places.layers)])
        return lens.lens(core, rows, k)

    def top(self, position: Integer | None = -1, k: Integer | None = 5) -> list[Guess]:
        """The k likeliest next tokens after a position -> [Guess(id, piece, probability, logit)]."""
        core, position, k = self._need_core(), self._place(position), checks.integer("k", 5 if k is None else k, 1)
        return lens.guesses(core, self.logits_at(position), k)

    def logits_at(self, position: Integer | None = -1) -> Floats:
        """Logits (vocab) after a position; recomputed where they were not kept."""
        position = self._place(position)
        kept = position in self.positions
        if "logits" in self.kept and kept:
            row: Floats = self.logits[self.positions.index(position)]
            return row
        engine = self._need_core().open()
        places = find(engine.plan)
        if "hidden" in self.kept and len(places.layers) - 1 in self.layers and kept:
            rows = self.hidden[-1, self.positions.index(position)][None]
        else:
            rows = self._probe(position)[places.last]
        ((_, logits),) = record.head_blocks(engine, places, rows)
        row = logits[0]
        return row

    def attribution(self, position: Integer | None = -1, token: Integer | str | None = None) -> Attribution:
        """What the embedding, each layer's attention and feed-forward network, and each head added to a token's logit.

        token: an id, or the text of a single token; default: the token that follows, or after the last position the
        likeliest. The final norm is linear with its scale at that row held fixed; the attributed logit is the one
        before a soft cap. Raises ValueError for a text that is not a single token.
        """
        core, position = self._need_core(), self._place(position)
        id = self._token(position, token)
        return lens.attribution(core, self._probe(position), position, id, float(self.logits_at(position)[id]))

    def _place(self, position: Any) -> int:
        n = len(self)
        return checks.integer("position", -1 if position is None else position, -n, n - 1) % n

    def _token(self, position: int, token: Any) -> int:
        core = self._need_core()
        if token is None:
            if position + 1 < len(self):
                return self.ids[position + 1]
            return int(np.argmax(self.logits_at(position)))
        if isinstance(token, str):
            ids = core.need_tokenizer().encode(token, add_special=False)
            if len(ids) != 1:
                raise WrongValue("token", f"={shown(token)} is {len(ids)} tokens, expected one: give an id")
            return ids[0]
        return core.check_ids([token], "token")[0]

    def _probe(self, position: int) -> dict[Tap, Floats]:
        """Every tap of one token's row; those of the last position asked for are kept."""
        known = self._probed  # read once: another thread may replace it
        if known is None or known[0] != position:
            self._probed = known = (position, lens.probe(self._need_core().open(), self.ids, position))
        return known[1]

    def _blocks(self) -> Iterator[tuple[slice, Floats]]:
        """(slice of the positions, their logits) for all positions, at most 64 at a time."""
        if "logits" in self.kept:
            return ((slice(i, i + 64), self.logits[i : i + 64]) for i in range(0, len(self.positions), 64))
        engine = self._need_core().open()
        places = find(engine.plan)
        last = len(places.layers) - 1
        if "hidden" in self.kept and last in self.layers:
            return record.head_blocks(engine, places, self.hidden[-1])
        again = record.Selection(("hidden",), (last,), self.heads, self.positions, len(self))
        return record.head_blocks(engine, places, record.record(engine, self.ids, again, places, 512)["hidden"][-1])

    # ---- export -----------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the trace as a NumPy file (.npz format); no suffix is added to the path."""
        export.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Loaded | None = None) -> Trace:
        """Reads a file that :meth:`save` wrote. model: the traced model, which lens, attribution and others need.
        Raises ValueError for another kind of file, and for token ids beyond the model's vocabulary."""
        core = None if model is None else model.core
        found = export.load(path, None if core is None else core.config.vocab)
        return cls(found.tokens, (found.layers, found.heads, found.positions), found.arrays, found.name, core)

    def to_pandas(self, quantity: str = "tokens") -> Any:
        """A pandas DataFrame: for "tokens" a row per position (id, piece, entropy, next_rank, next_probability); for a
        kept quantity its last axis as columns and the others as index levels. Raises ImportError without pandas,
        ValueError for an unknown quantity."""
        return export.to_pandas(self, quantity)

    def bertviz(self) -> tuple[tuple[npt.NDArray[np.float32], ...], list[str]]:
        """(attention, tokens) for BertViz's head_view and model_view: for each selected layer an array
        (1, heads, n, n), which `torch.from_numpy` turns into a tensor. The trace must have attention at all positions;
        else ValueError or AttributeError."""
        return export.bertviz(self)


def trace(
    core: Core,
    prompt: Any,
    want: Any = WANT,
    *,
    layers: Any = None,
    heads: Any = None,
    positions: Any = None,
    limit: Any = LIMIT,
    chunk: Any = None,
) -> Trace:
    """``Model.trace``."""
    engine, chunk = core.open(), generation.check_chunk(chunk)
    if isinstance(prompt, Completion):
        prompt = (prompt.prompt_ids + prompt.ids)[: core.context_length]  # the last token may not fit the context
    ids = core.prompt(prompt)
    selection = record.Selection(
        record.check_want(WANT if want is None else want),
        record.select("layers", layers, core.config.layers),
        record.select("heads", heads, core.config.attention.n_q),
        record.select("positions", positions, len(ids)),
        len(ids),
    )
    places = find(engine.plan)
    record.check_limit(engine, places, selection, checks.integer("limit", LIMIT if limit is None else limit, 0))
    arrays = record.record(engine, ids, selection, places, chunk)
    tokens = [Token(id, core.spell(id)) for id in ids]
    return Trace(tokens, (selection.layers, selection.heads, selection.positions), arrays, core.facts.name, core)
