"""A trace: what one pass over a text computed on its way, as NumPy arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pellucid import checks
from pellucid.core import Core
from pellucid.look import record
from pellucid.results import Completion

if TYPE_CHECKING:
    from pellucid.look.lens import Attribution, Guess, Lens
    from pellucid.model import Model

__all__ = ["LIMIT", "Token", "Trace", "trace"]

Floats = npt.NDArray[np.float32]
LIMIT = 2 << 30  # bytes that a trace may take unless `limit` says otherwise
PREDICTIONS = ("entropy", "next_rank", "next_probability")


class Token(NamedTuple):
    """A token of the traced text. ``piece``: its text, or a special token's spelling (U+FFFD for a part of a character,
    "" without a tokenizer and beyond its vocabulary)."""

    id: int
    piece: str


class Trace:
    """What one pass over n tokens computed. Made by ``Model.trace``, which says what is kept; arrays are float32.

    L, H, P: how many ``layers``, ``heads`` and ``positions`` were selected (the attributes of these names list them,
    ascending; by default all). d: the model's width.

    ==================  ==============================  ===========================================================
    ``embeddings``      (P, d)                          the residual stream as it begins (Gemma's scale included)
    ``hidden``          (L + 1, P, d)                   the residual stream: first the embeddings, then after each
                                                        selected layer; before the final norm, also the last
    ``q``               (L, H, P, head_dim)             queries as attention uses them: head norm and rotation done
    ``k``               (L, kv_heads, n, head_dim)      keys likewise; of all n tokens and all KV heads
    ``v``               (L, kv_heads, n, value_dim)     values; k and v before the cache rounds them to its type
    ``scores``          (L, H, P, n)                    q . k * scale before softmax; -inf where a row sees nothing
    ``attention``       (L, H, P, n)                    softmax of these: rows sum to 1
    ``attention_out``   (L, P, d)                       what attention adds to the residual stream (post-norm done)
    ``mlp_out``         (L, P, d)                       what the feed-forward part adds to it
    ``neurons``         (L, P, ff)                      activations that ffn_down reads: act(gate) * up
    ``head_out``        (L, H, P, d)                    each head's part of attention_out: its columns of W_o, times the
                                                        post-norm's scale of that row; a bias belongs to no head
    ``logits``          (P, vocab)                      the model's, bit for bit
    ==================  ==============================  ===========================================================

    ``entropy`` (nats), ``next_rank`` (1: the likeliest; 0 where no token follows) and ``next_probability`` (NaN there)
    of the P positions are computed at their first use. A quantity that was not asked for is an ``AttributeError``.
    Of a layer whose part an edit skipped, that part's arrays are zero.
    """

    ids: list[int]
    tokens: list[Token]
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    positions: tuple[int, ...]
    name: str  # of the model
    embeddings: Floats
    hidden: Floats
    q: Floats
    k: Floats
    v: Floats
    scores: Floats
    attention: Floats
    attention_out: Floats
    mlp_out: Floats
    neurons: Floats
    head_out: Floats
    logits: Floats
    entropy: Floats
    next_rank: npt.NDArray[np.int32]
    next_probability: Floats

    def __init__(
        self,
        tokens: Sequence[Token],
        selected: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
        arrays: dict[str, npt.NDArray[Any]],
        name: str,
        model: Model | None,
    ) -> None:
        self.tokens = list(tokens)
        self.ids = [token.id for token in self.tokens]
        self.layers, self.heads, self.positions = selected
        self.name = name
        self.__dict__.update(arrays)
        self._model = model
        self._probe: Any = None  # (position, its taps): lens.probe

    def __getattr__(self, name: str) -> Any:  # of what is not there
        if name in PREDICTIONS:
            from pellucid.look import lens

            self.__dict__.update(lens.predictions(self))
            return self.__dict__[name]
        if name in record.AXES:
            raise AttributeError(f"the trace has no {name}: ask for it with trace(..., want=({name!r}, ...))")
        raise AttributeError(f"a trace has no attribute {name!r}")

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the quantities that it holds."""
        return tuple(name for name in record.AXES if name in self.__dict__)

    @property
    def nbytes(self) -> int:
        return sum(self.__dict__[name].nbytes for name in self.kept)

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        return f"<Trace of {len(self)} tokens, {', '.join(self.kept)}: {self.nbytes / 1e6:.1f} MB>"

    # ---- asking the model again -------------------------------------------------------------------------------

    def _need_model(self) -> Model:
        """The model (or edited view) that it was made with. Raises ValueError after `load` without one."""
        if self._model is None:
            raise ValueError("this trace was loaded without a model: Trace.load(path, model=model)")
        return self._model

    def lens(self, position: int = -1, k: int = 5) -> Lens:
        """The logit lens (nostalgebraist 2020) at a token: the k likeliest next tokens after each layer.

        The final norm and the head are applied to the residual stream, by the model's own operation: the last entry
        has the bits of the real logits. -> list of layers + 1 lists of Guess(id, piece, probability, logit).
        """
        from pellucid.look import lens

        return lens.lens(self, position, k)

    def top(self, position: int = -1, k: int = 5) -> list[Guess]:
        """The k likeliest next tokens after a position -> [Guess(id, piece, probability, logit)]."""
        from pellucid.look import lens

        return lens.top(self, position, k)

    def attribution(self, position: int = -1, token: int | str | None = None) -> Attribution:
        """What the embedding, each layer's attention and feed-forward part, and each head pushed a token's logit by.

        token: an id, or the text of a single token; default: the token that follows, at the end the likeliest. The
        final norm is taken as linear at that row's own scale; what is attributed is the logit before a soft cap.
        """
        from pellucid.look import lens

        return lens.attribution(self, position, token)

    # ---- elsewhere --------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes all that it holds as one NumPy file (.npz)."""
        from pellucid.look import export

        export.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Model | None = None) -> Trace:
        """Reads what `save` wrote. model: for what must ask it (lens, attribution). Raises ValueError for another
        file."""
        from pellucid.look import export

        return export.load(path, model)

    def to_pandas(self, quantity: str = "tokens") -> Any:
        """A pandas DataFrame: "tokens", a row per position (id, piece, entropy, next_rank, next_probability); or a kept
        quantity, its last axis as columns and the others as index levels. Raises ImportError without pandas."""
        from pellucid.look import export

        return export.to_pandas(self, quantity)

    def bertviz(self) -> tuple[tuple[npt.NDArray[np.float32], ...], list[str]]:
        """(attention, tokens) as BertViz's head_view and model_view take them: of each selected layer an array
        (1, heads, n, n), which `torch.from_numpy` turns into a tensor. Needs attention at all positions."""
        from pellucid.look import export

        return export.bertviz(self)


def trace(
    model: Any,
    prompt: Any,
    want: Any = ("hidden", "attention"),
    *,
    layers: Any = None,
    heads: Any = None,
    positions: Any = None,
    limit: int = LIMIT,
    chunk: int = 512,
) -> Trace:
    """``Model.trace``."""
    from pellucid import generation

    engine, chunk = model.core.open(), generation.check_chunk(chunk)
    if isinstance(prompt, Completion):
        prompt = (prompt.prompt_ids + prompt.ids)[: model.context_length]  # a last token without a place is left out
    ids = model.core.prompt(prompt)
    selection = plan_trace(model, len(ids), want, layers, heads, positions, limit)
    arrays = record.record(engine, ids, selection, record.places_of(engine), chunk)
    selected = selection.layers, selection.heads, selection.positions
    return Trace(spell(model.core, ids), selected, arrays, model.core.facts.name, model)


def plan_trace(
    model: Any, n: int, want: Any, layers: Any = None, heads: Any = None, positions: Any = None, limit: int = LIMIT
) -> record.Selection:
    """Checks what is asked for of n tokens, and its size."""
    config, engine = model.core.config, model.core.open()
    limit = checks.integer("limit", limit, 0)
    selection = record.Selection(
        record.check_want(want),
        record.select("layers", layers, config.layers),
        record.select("heads", heads, config.attention.n_q),
        record.select("positions", positions, n),
        n,
    )
    record.check_limit(engine, record.places_of(engine), selection, limit)
    return selection


def spell(core: Core, ids: Sequence[int]) -> list[Token]:
    return [Token(id, core.spell(id, special=True)) for id in ids]
