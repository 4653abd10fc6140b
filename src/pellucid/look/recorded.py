"""What a pass over a text computed, as NumPy arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pellucid.markup import Cell, Fragment, Shown, count, token

__all__ = ["AXES", "LEAST", "PREDICTIONS", "Recorded", "Selected", "Token"]

Floats = npt.NDArray[np.float32]
Selected = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # layers, heads, positions

# Quantity -> its axes. Layers, heads and positions are the selected ones; "after" also has the embeddings, first.
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
PREDICTIONS = ("entropy", "next_rank", "next_probability")


LEAST = float(np.finfo(np.float32).smallest_subnormal)  # replaces probabilities that float32 rounds to 0


class Token(NamedTuple):
    """A token of the traced text. ``piece``: its text, or a special token's spelling; U+FFFD for an incomplete
    character; "" without a tokenizer and for ids beyond its vocabulary."""

    id: int
    piece: str


class Recorded(Shown):
    """Tokens and the arrays kept of them, as attributes: see :class:`~pellucid.look.trace.Trace`."""

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
        self, tokens: Sequence[Token], selected: Selected, arrays: dict[str, npt.NDArray[Any]], name: str
    ) -> None:
        self.tokens = list(tokens)
        self.ids = [token.id for token in self.tokens]
        self.layers, self.heads, self.positions = selected
        self.name = name
        self._keep(arrays)

    def _keep(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        for name, array in arrays.items():
            setattr(self, name, array)

    def __getattr__(self, name: str) -> Any:  # called for missing attributes
        if name in AXES:
            raise AttributeError(f"the trace has no {name}: ask for it with trace(..., want=({name!r}, ...))")
        raise AttributeError(f"a trace has no attribute {name!r}")

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Name -> array: the kept quantities, and predictions once they are computed."""
        return {name: vars(self)[name] for name in (*AXES, *PREDICTIONS) if name in vars(self)}

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the kept quantities."""
        return tuple(name for name in AXES if name in vars(self))

    @property
    def nbytes(self) -> int:
        """Bytes of the kept arrays."""
        return sum(vars(self)[name].nbytes for name in self.kept)

    def __len__(self) -> int:
        return len(self.tokens)

    def _draw(self, fragment: Fragment) -> None:
        fragment.heading(f"{count(len(self), 'token')} through {self.name or 'a model'}")
        found = vars(self).get("next_probability")  # nothing is computed here
        known = {} if found is None else dict(zip(self.positions, map(float, found), strict=True))
        if known:
            fragment.note("The stronger its colour, the more surprising a token was.")
        fragment.tokens(self._cell(i, known.get(i - 1, math.nan)) for i in range(len(self)))
        rows = [
            (name, " \u00d7 ".join(map(str, array.shape)), ", ".join(AXES[name]), f"{array.nbytes / 1e6:.1f}")
            for name, array in ((name, vars(self)[name]) for name in self.kept)
        ]
        fragment.table(("kept", "shape", "axes", "MB"), rows, right=(3,))

    def _cell(self, i: int, probability: float) -> Cell:
        id, piece = self.tokens[i]
        if math.isnan(probability):
            return Cell(piece or f"[{id}]", title=f"position {i}: {piece!r} (id {id})")
        return token(id, piece, math.log(max(probability, LEAST)), surprise=True)

    def __repr__(self) -> str:
        return f"<Trace of {count(len(self), 'token')}, {', '.join(self.kept)}: {self.nbytes / 1e6:.1f} MB>"
