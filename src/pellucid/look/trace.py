"""A trace: the results of one pass over a text, and further quantities that are computed on demand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid import _engine, arguments, checks, generation
from pellucid.core import Core, Loaded
from pellucid.errors import ClosedError, UnsupportedModelError, WrongValue
from pellucid.look import attributions, export, lens, pages, record, sizes, sources
from pellucid.look.attributions import Attributions
from pellucid.look.gates import Gates
from pellucid.look.lens import Attribution, Guess, Lens
from pellucid.look.pages import Page
from pellucid.look.pattern import CACHED
from pellucid.look.places import Places, Tap, find
from pellucid.look.recorded import PREDICTIONS, Array, Recorded, Selected, Token
from pellucid.look.sizes import select
from pellucid.look.table import LensTable, lens_table
from pellucid.options import Ids
from pellucid.results import Completion
from pellucid.sampling import Cancel, Integer, Number
from pellucid.schedule.turns import Turns

__all__ = ["LIMIT", "Token", "Trace", "trace"]

Floats = npt.NDArray[np.float32]
WANT = ("hidden", "attention")
LIMIT = 2 << 30  # bytes that a trace may take unless `limit` says otherwise


class Trace(Recorded):
    """The results of one pass over n tokens, created by ``Model.trace``, whose arguments select what is kept. Arrays
    are float32.

    L, H, P: number of selected ``layers``, ``heads`` and ``positions`` (the attributes of these names list them in
    ascending order; by default all). d: the model's width.

    ==================  ==============================  ===========================================================
    ``embeddings``      (P, d)                          the residual stream at its start (Gemma's scale included)
    ``hidden``          (L + 1, P, d)                   the residual stream: first the embeddings, then after each
                                                        selected layer; before the final norm, also the last
    ``middle``          (L, P, d)                       the residual stream after attention, or a recurrence
    ``attention_in``    (L, P, d)                       what these read: the stream after a norm, if there is one
    ``mlp_in``          (L, P, d)                       what the feed-forward network reads
    ``final``           (P, d)                          the stream after the final norm, which the head multiplies
    ``q``               (L, H, P, head_dim)             queries as attention uses them: head norm and rotation done
    ``k``               (L, kv_heads, n, head_dim)      keys likewise; of all n tokens and all KV heads
    ``q_unrotated``     (L, H, P, head_dim)             both before the rotation, after the head norm
    ``k_unrotated``     (L, kv_heads, n, head_dim)
    ``v``               (L, kv_heads, n, value_dim)     values; k and v before the cache rounds them to its type
    ``scores``          (L, H, P, n)                    q . k * scale before softmax; -inf for tokens not attended to
    ``attention``       (L, H, P, n)                    softmax of these: rows sum to 1
    ``attention_out``   (L, P, d)                       what attention adds to the residual stream (post-norm done)
    ``mlp_out``         (L, P, d)                       what the feed-forward network adds to it
    ``gate``            (L, P, ff)                      products of ffn_gate: what the activation reads; of a network
                                                        without gates, its only product
    ``up``              (L, P, ff)                      products of ffn_up, the other factor
    ``neurons``         (L, P, ff)                      activations that ffn_down reads: act(gate) * up
    ``mixed``           (L, H, P, value_dim)            heads' outputs before W_o: values weighed by attention,
                                                        times the gates, if the model has them
    ``head_out``        (L, H, P, d)                    each head's part of attention_out: its columns of W_o, times the
                                                        post-norm's scale of that row; a bias belongs to no head
    ``routes``          (L, P, experts)                 weights of a token's experts; 0: not chosen
    ``gates``           (L, P, columns)                 factors of the output of attention or of a recurrence, before
                                                        its projection
    ``conv``            (L, P, channels)                a recurrent layer's convolution, after its activation
    ``states``          (L, P, heads, keys, values)     a recurrence's state after the token
    ``logits``          (P, vocab)                      the model's, bit for bit
    ==================  ==============================  ===========================================================

    ``entropy`` (nats), ``next_rank`` (1: the likeliest; 0 if no token follows) and ``next_probability`` (then NaN),
    each (P), are computed at their first use. A quantity that was not requested raises ``AttributeError``. If an edit
    skipped attention or the feed-forward network of a layer, its arrays are zero, as are those of layers that lack the
    quantity. Requesting a quantity that the model or all selected layers lack raises ``ValueError``. If layers differ
    in the sizes of a quantity, it is a list with an array for each layer.

    Channels of q and k: whatever the file's order, channels i and i + r / 2 of the r rotated ones form a rotated pair,
    as in the folders of most models.

    ``scores`` and ``attention`` are recomputed in float32 from the queries and from the keys as read back from the
    cache, whatever its type; ``q``, ``k`` and ``v`` are the values before the cache rounds them. Weights agree with
    those of the pass to about 1e-6. If the instructions multiply bf16 (``kv="bf16"`` with the instruction sets
    avx512bf16 and amx), the pass rounds each weight to 8 bits when it multiplies a value: to within 0.4 % of it.
    """

    def __init__(
        self,
        tokens: Sequence[Token],
        selected: Selected,
        arrays: Mapping[str, Array],
        name: str,
        core: Core | None,
    ) -> None:
        super().__init__(tokens, selected, arrays, name)
        self._core = core
        self._probed: tuple[int, dict[Tap, Floats]] | None = None  # of the last position requested

    def __getattr__(self, name: str) -> Any:  # called for attributes that do not exist yet
        if name not in PREDICTIONS:
            return super().__getattr__(name)
        self._keep(lens.predictions(self, self._blocks()))
        return vars(self)[name]

    def __getstate__(self) -> dict[str, Any]:
        """A pickle has the arrays, as in the file of `save`, but not the model."""
        return {**vars(self), "_core": None, "_probed": None}

    def __copy__(self) -> Trace:
        made = Trace.__new__(Trace)
        vars(made).update(vars(self))
        return made

    def _need_core(self) -> Core:
        """The core that made the trace. Raises ValueError after `load` without a model, and after a pickle."""
        if self._core is None:
            raise ValueError("this trace was loaded without a model: Trace.load(path, model=model)")
        self._core = self._core.lasting()
        return self._core

    def _repr_html_(self) -> str:
        """For a notebook: the page, if the model is available and the page has at most 2 MB; else a table."""
        try:
            if len(self) <= pages.NOTEBOOK_TOKENS:
                return pages.page(self._need_core(), self.ids, megabytes=pages.NOTEBOOK / 1e6)._repr_html_()
        except (ValueError, ClosedError, UnsupportedModelError):  # no model, or no room
            pass
        return super()._repr_html_()

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
        """Logits (vocab) after a position; recomputed if they were not kept."""
        position = self._place(position)
        kept = position in self.positions
        if "logits" in self.kept and kept:
            row: Floats = self.logits[self.positions.index(position)]
            return row
        core = self._need_core()
        places = find(core.open().plan)
        if "hidden" in self.kept and len(places.layers) - 1 in self.layers and kept:
            rows = self.hidden[-1, self.positions.index(position)][None]
        else:
            rows = self._probe(position)[places.last]
        with Turns(core, "trace") as turns:
            ((_, logits),) = record.head_blocks(turns, places, rows)
        row = logits[0]
        return row

    def attribution(
        self,
        position: Integer | None = -1,
        token: Integer | str | None = None,
        against: Integer | str | None = None,
    ) -> Attribution:
        """The contributions of the embedding, of each layer's attention and feed-forward network, and of each head to a
        token's logit.

        token: an id, or the text of a single token; default: the token that follows, or after the last position the
        likeliest. against: another token, whose logit is subtracted: shows what made the first more probable than the
        second. The final norm is linearised by holding its scale at that row fixed; the attributed logit is the one
        before a soft cap. Raises ValueError for a text that is not a single token.
        """
        core, position = self._need_core(), self._place(position)
        id = self._token(position, token)
        other = -1 if against is None else attributions.token_id(core, "against", against)
        found = attributions.attributions(core, self.ids, [position], [[(id, other)]], 0, record.Watch(), self)
        return found.at(position)

    def sources(
        self,
        position: Integer | None = -1,
        token: Integer | str | None = None,
        against: Integer | str | None = None,
    ) -> npt.NDArray[np.float64]:
        """The contribution of each head to a token's logit through the value of each token that it attends to ->
        float64 (layers, heads, n). Sums over n are the heads' parts in :meth:`attribution`, which describes the
        arguments."""
        core, position = self._need_core(), self._place(position)
        other = -1 if against is None else attributions.token_id(core, "against", against)
        return sources.sources(core, self.ids, position, (self._token(position, token), other))

    # ---- many positions ---------------------------------------------------------------------------------------

    def lens_table(
        self,
        k: Integer | None = 5,
        positions: Integer | Ids | None = None,
        *,
        cancel: Cancel | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> LensTable:
        """The logit lens at all or some positions of the trace, in one run of the sequence -> LensTable: arrays of ids
        and probabilities (layers + 1, positions, k). The engine keeps the k likeliest of each row as it computes its
        logits. cancel, progress: as in ``Model.trace``."""
        core = self._need_core()
        k = checks.integer("k", 5 if k is None else k, 1)
        chosen = self.positions if positions is None else select("positions", positions, len(self))
        with record.cancelling():
            return lens_table(core, self.ids, chosen, k, watch(cancel, progress, chosen[-1] + 1))

    def attributions(
        self,
        positions: Integer | Ids | None = None,
        targets: Any = None,
        *,
        neurons: Integer | None = 0,
        cancel: Cancel | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Attributions:
        """:meth:`attribution` at several positions (by default those of the trace) and for several tokens together, in
        one run of the sequence -> Attributions, with arrays (positions, targets, ...). A trace that kept ``hidden``,
        ``attention_out``, ``mlp_out`` and ``mixed`` (and ``neurons``, to name some) of all layers and heads needs no
        run, unless edits changed the residual stream.

        targets: a token (an id, or the text of one token), a tuple of two (the second one's logit is subtracted), or a
        list of these, the same at each position; an array of ids (positions, targets); default: the token that follows,
        after the last position the likeliest. neurons: how many neurons of each layer to name, in order of
        contribution. cancel, progress: as in ``Model.trace``. Raises ValueError or TypeError naming the argument.
        """
        core = self._need_core()
        chosen = self.positions if positions is None else select("positions", positions, len(self))
        most = checks.integer("neurons", 0 if neurons is None else neurons, 0)
        wanted = attributions.pairs(core, self.ids, chosen, attributions.in_order(targets, positions, len(self)))
        with record.cancelling():
            return attributions.attributions(
                core, self.ids, chosen, wanted, most, watch(cancel, progress, chosen[-1] + 1), self
            )

    def _place(self, position: Any) -> int:
        n = len(self)
        return checks.integer("position", -1 if position is None else position, -n, n - 1) % n

    def _token(self, position: int, token: Any) -> int:
        core = self._need_core()
        if token is None:
            if position + 1 < len(self):
                return self.ids[position + 1]
            return int(np.argmax(self.logits_at(position)))
        return attributions.token_id(core, "token", token)

    def _probe(self, position: int) -> dict[Tap, Floats]:
        """All taps of one token's row; those of the last position requested are kept."""
        known = self._probed  # read once: another thread may replace it
        if known is None or known[0] != position:
            self._probed = known = (position, lens.probe(self._need_core(), self.ids, position))
        return known[1]

    def _blocks(self) -> Iterator[tuple[slice, Floats]]:
        """(slice of the positions, their logits) for all positions, at most 64 at a time."""
        if "logits" in self.kept:
            yield from ((slice(i, i + 64), self.logits[i : i + 64]) for i in range(0, len(self.positions), 64))
            return
        with Turns(self._need_core(), "trace", [len(self)]) as turns:
            places = find(turns.plan)
            last = len(places.layers) - 1
            if "hidden" in self.kept and last in self.layers:
                hidden = self.hidden[-1]
            else:
                again = sizes.Selection(("hidden",), (last,), self.heads, self.positions, len(self))
                hidden = record.record(turns, self.ids, again, places, 512)["hidden"][-1]
        yield from record.head_blocks(turns, places, hidden)

    # ---- export -----------------------------------------------------------------------------------------------

    def html(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        title: str | None = None,
        megabytes: Number = pages.MEGABYTES,
        layers: Integer | Ids | None = None,
        positions: Integer | Ids | None = None,
        against: Trace | None = None,
    ) -> Page:
        """A page that shows how the model processed the text: a single HTML file, which opens in any browser and
        fetches nothing. -> a Page, which a notebook shows.

        The tokens run once more, whatever the trace kept. path: a file to write, as ``Page.save`` does. megabytes:
        maximum size of the page; small attention weights of heads are left out to fit, with a note on the page. layers,
        positions: those for which the page has weights of heads; None: all.
        against: a trace of the same number of tokens to compare with, such as that of the model without an edit.
        Raises ValueError for more than 2,048 tokens, or if the rest does not fit; ModelFileError if the file cannot be
        written.
        """
        if against is not None and not isinstance(against, Trace):
            raise checks.wrong_type("against", against, "a trace")
        other = None if against is None else (against._need_core(), against.ids)
        made = pages.page(
            self._need_core(),
            self.ids,
            title=None if title is None else checks.string("title", title, "a text"),
            megabytes=checks.number("megabytes", megabytes, 0.5, 2000),
            layers=layers,
            positions=positions,
            against=other,
        )
        if path is not None:
            made.save(path)
        return made

    def save(self, path: str | os.PathLike[str], *, compressed: bool = False) -> None:
        """Writes the trace as a NumPy file (.npz format); no suffix is added to the path. A file of this name is
        replaced when the new one is complete. compressed: takes less space (attention about half) and more time.

        Raises ModelFileError if the file cannot be written."""
        export.save(self, checks.file_name(path), checks.flag("compressed", compressed))

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Loaded | None = None, *, limit: Integer | None = None) -> Trace:
        """Reads a file that :meth:`save` wrote. model: the traced model, needed by lens, attribution and others. limit:
        bytes that the arrays of a compressed file may take; default: 2 GiB. Raises ValueError for another kind of file,
        for arrays beyond the limit, and for token ids beyond the model's vocabulary."""
        core = None if model is None else model.core
        most = checks.integer("limit", LIMIT if limit is None else limit, 0)
        found = export.load(checks.file_name(path), None if core is None else core.config.vocab, most)
        return cls(found.tokens, (found.layers, found.heads, found.positions), found.arrays, found.name, core)

    def to_pandas(self, quantity: str = "tokens") -> Any:
        """A pandas DataFrame: for "tokens" a row per position (id, piece, entropy, next_rank, next_probability); for a
        kept quantity its last axis as columns and the others as index levels. Raises ImportError without pandas,
        ValueError for an unknown quantity."""
        return export.to_pandas(self, quantity)

    def bertviz(self) -> tuple[tuple[npt.NDArray[np.float32], ...], list[str]]:
        """(attention, tokens) for BertViz's head_view and model_view: for each selected layer an array (1, heads, n,
        n), which `torch.from_numpy` turns into a tensor. Raises ValueError or AttributeError unless the trace has
        attention at all positions."""
        return export.bertviz(self)


def watch(cancel: Any, progress: Any, total: int = 0) -> record.Watch:
    """Raises TypeError naming the argument."""
    if progress is not None and not callable(progress):
        raise checks.wrong_type("progress", progress, "a callable")
    return record.Watch(generation.canceller(cancel), progress, total)


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
    each: Any = None,
    cancel: Any = None,
    progress: Any = None,
    begun: _engine.Sequence | None = None,
) -> Any:
    """``Model.trace``. begun: a sequence of the first tokens of the prompt (only one); it is not changed."""
    engine, chunk = core.decoder(), generation.check_chunk(chunk)
    several, many = prompts(core, prompt)
    names = sizes.check_want(WANT if want is None else want)
    places, seen = find(engine.plan), watch(cancel, progress)
    limit = checks.integer("limit", LIMIT if limit is None else limit, 0)
    if each is not None and not callable(each):
        raise checks.wrong_type("each", each, "a callable")
    if each is not None and several:
        raise WrongValue("each", ": expected a single prompt, not several")
    selections = [
        sizes.Selection(
            names,
            select("layers", layers, core.config.layers),
            select("heads", heads, core.config.attention.n_q),
            select("positions", positions, len(ids)),
            len(ids),
        )
        for ids in many
    ]
    if each is None:
        _check_limit(engine, places, selections, limit)
        seen.total = sum(map(len, many))
    if begun is not None:
        begun = _before(begun, engine, places, selections[0])
        selections = [replace(selections[0], cached=0 if begun is None else begun.length)]
    gates = Gates(core, seen.cancel) if "gate" in names else None
    found = []
    for ids, s in zip(many, selections, strict=True):
        begin = partial(Turns, core, "trace", [len(ids)], seen.cancel)
        with record.cancelling():
            if each is None:
                with begin() as turns:
                    arrays = record.record(turns, ids, s, places, chunk, seen, begun, gates)
            else:
                arrays = record.by_layer(begin, ids, s, places, chunk, limit, seen, each, begun, gates)
        tokens = [Token(id, core.spell(id), core.piece(id, special=True)) for id in ids]
        found.append(Trace(tokens, (s.layers, s.heads, s.positions), arrays, core.facts.name, core))
    return found if several else found[0]


def _before(
    begun: _engine.Sequence, engine: _engine.Engine, places: Places, s: sizes.Selection
) -> _engine.Sequence | None:
    """The part of a sequence that need not be recomputed: the tokens before the first position, whose keys and values
    are in the cache. None if a window has already dropped some that are wanted, or for another engine's sequence."""
    if begun.engine is not engine:
        return None
    before = begun.fork()
    if before.length > s.positions[0]:
        before.rewind(s.positions[0])
    if {*CACHED} & {*s.want}:
        passed = [first > 0 for first, *_ in before.extents()]
        attending = (engine.plan.ops[places.layers[i].attend] for i in s.layers if places.layers[i].attend >= 0)
        if any(passed[op.cache] for op in attending):
            return None
    return before


def _check_limit(engine: _engine.Engine, places: Places, selections: Sequence[sizes.Selection], limit: int) -> None:
    """Raises ValueError if the traces together take more."""
    parts = [sizes.estimate(engine, places, s) for s in selections]
    taken = sum(sum(one.values()) for one in parts)
    if len(parts) == 1:
        sizes.check_limit(parts[0], selections[0], limit, lambda fewer: sizes.estimate(engine, places, fewer))
    elif taken > limit:
        raise WrongValue("limit", f"={limit}: the {len(parts)} traces would take {taken:,} bytes")


def prompts(core: Core, prompt: Any) -> tuple[bool, list[list[int]]]:
    """(whether there are several, the ids of each) for the prompts that ``Model.trace`` accepts."""
    if _is_whole(prompt):
        return False, [_ids(core, prompt, "prompt")]
    several, given = arguments.prompts(prompt, "prompt")
    if several and not given:
        raise WrongValue("prompt", " is empty: expected at least one token")
    if several and all(isinstance(one, Mapping) for one in given):
        return False, [core.conversation(given, "prompt").ids]
    return several, [_ids(core, one, f"prompt[{i}]" if several else "prompt") for i, one in enumerate(given)]


def _is_whole(prompt: Any) -> bool:
    """Whether it is a completion, or has a list of ids: a chat's prompt, another trace, a context."""
    return isinstance(prompt, Completion) or isinstance(getattr(prompt, "ids", None), list)


def _ids(core: Core, prompt: Any, name: str) -> list[int]:
    if isinstance(prompt, Completion):  # the last token may not fit the context
        return core.prompt((prompt.prompt_ids + prompt.ids)[: core.context_length], name)
    if _is_whole(prompt):
        return core.prompt(prompt.ids, name)
    if isinstance(prompt, Sequence) and not isinstance(prompt, str) and prompt and isinstance(prompt[0], Mapping):
        return core.conversation(prompt, name).ids
    return core.prompt(prompt, name)
