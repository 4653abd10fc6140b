"""The results of a pass over a text, as NumPy arrays."""

from __future__ import annotations

import builtins
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pellucid.markup import Cell, Fragment, Shown, count, token

__all__ = ["AXES", "LEAST", "OF_SOME", "PREDICTIONS", "Array", "Recorded", "Selected", "Token", "nbytes"]

Floats = npt.NDArray[np.float32]
Array = npt.NDArray[Any] | list[npt.NDArray[Any]]  # a list, one array per layer, if layers' sizes differ
Selected = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # layers, heads, positions

# Quantity -> its axes. Layers, heads and positions are the selected ones; "after" begins with the embeddings.
AXES: dict[str, tuple[str, ...]] = {
    "embeddings": ("position", "dim"),
    "hidden": ("after", "position", "dim"),
    "middle": ("layer", "position", "dim"),
    "attention_in": ("layer", "position", "dim"),
    "mlp_in": ("layer", "position", "dim"),
    "final": ("position", "dim"),
    "q_unrotated": ("layer", "head", "position", "head_dim"),
    "k_unrotated": ("layer", "kv_head", "token", "head_dim"),
    "q": ("layer", "head", "position", "head_dim"),
    "k": ("layer", "kv_head", "token", "head_dim"),
    "v": ("layer", "kv_head", "token", "value_dim"),
    "scores": ("layer", "head", "position", "token"),
    "attention": ("layer", "head", "position", "token"),
    "attention_out": ("layer", "position", "dim"),
    "mlp_out": ("layer", "position", "dim"),
    "gate": ("layer", "position", "ff"),
    "up": ("layer", "position", "ff"),
    "neurons": ("layer", "position", "ff"),
    "mixed": ("layer", "head", "position", "mixed_dim"),
    "head_out": ("layer", "head", "position", "dim"),
    "routes": ("layer", "position", "expert"),
    "gates": ("layer", "position", "gate"),
    "conv": ("layer", "position", "channel"),
    "states": ("layer", "position", "state_head", "state_key", "state_value"),
    "logits": ("position", "vocab"),
}
OF_SOME = ("routes", "gates", "conv", "states")  # quantities that only some models have
PREDICTIONS = ("entropy", "next_rank", "next_probability")


LEAST = float(np.finfo(np.float32).smallest_subnormal)  # replaces probabilities that float32 rounds to 0


class _Pair(NamedTuple):
    id: int
    piece: str


class Token(_Pair):
    """A token of the traced text, a pair (id, piece). ``piece``: its text, or a special token's spelling; U+FFFD for an
    incomplete character; "" without a tokenizer and for ids beyond its vocabulary. ``bytes``: the same in UTF-8; the
    bytes present of an incomplete character; b"" in saved traces without this field."""

    bytes: builtins.bytes

    def __new__(cls, id: int, piece: str, bytes: builtins.bytes = b"") -> Token:
        made = super().__new__(cls, id, piece)
        made.bytes = bytes
        return made


class Recorded(Shown):
    """Tokens and the arrays kept for them, as attributes: see :class:`~pellucid.look.trace.Trace`."""

    ids: list[int]
    tokens: list[Token]
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    positions: tuple[int, ...]
    name: str  # of the model
    embeddings: Floats
    hidden: Floats
    middle: Floats
    attention_in: Floats
    mlp_in: Floats
    final: Floats
    q_unrotated: Floats
    k_unrotated: Floats
    q: Floats
    k: Floats
    v: Floats
    scores: Floats
    attention: Floats
    attention_out: Floats
    mlp_out: Floats
    gate: Floats
    up: Floats
    neurons: Floats
    mixed: Floats
    head_out: Floats
    routes: Floats
    gates: Floats
    conv: Floats
    states: Floats
    logits: Floats
    entropy: Floats
    next_rank: npt.NDArray[np.int32]
    next_probability: Floats

    def __init__(self, tokens: Sequence[Token], selected: Selected, arrays: Mapping[str, Array], name: str) -> None:
        self.tokens = list(tokens)
        self.ids = [token.id for token in self.tokens]
        self.layers, self.heads, self.positions = selected
        self.name = name
        self._keep(arrays)

    def _keep(self, arrays: Mapping[str, Array]) -> None:
        for name, array in arrays.items():
            setattr(self, name, array)

    def __getattr__(self, name: str) -> Any:  # called for missing attributes
        if name in AXES:
            raise AttributeError(f"the trace has no {name}: request it with trace(..., want=({name!r}, ...))")
        raise AttributeError(f"a trace has no attribute {name!r}")

    @property
    def arrays(self) -> dict[str, Array]:
        """Name -> array, or list of arrays: the kept quantities, and predictions once they are computed."""
        return {name: vars(self)[name] for name in (*AXES, *PREDICTIONS) if name in vars(self)}

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the kept quantities."""
        return tuple(name for name in AXES if name in vars(self))

    @property
    def nbytes(self) -> int:
        """Bytes of the kept arrays."""
        return sum(nbytes(vars(self)[name]) for name in self.kept)

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
            (name, _shape(array), ", ".join(AXES[name]), f"{nbytes(array) / 1e6:.1f}")
            for name, array in ((name, vars(self)[name]) for name in self.kept)
        ]
        fragment.table(("kept", "shape", "axes", "MB"), rows, right=(3,))

    def _cell(self, i: int, probability: float) -> Cell:
        id, piece = self.tokens[i]
        if math.isnan(probability):
            return Cell(piece or f"[{id}]", title=f"position {i}: {piece!r} (id {id})")
        return token(id, piece, math.log(max(probability, LEAST)), surprise=True)

    def __repr__(self) -> str:
        kept = "".join(f", {name}" for name in self.kept)
        return f"<Trace of {count(len(self), 'token')}{kept}: {self.nbytes / 1e6:.1f} MB>"


def nbytes(array: Array) -> int:
    """Bytes of an array, or of a list of arrays."""
    return sum(one.nbytes for one in array) if isinstance(array, list) else array.nbytes


def _shape(array: Array) -> str:
    """As text; for a list of arrays, differing sizes are shown as a range."""
    if not isinstance(array, list):
        return " \u00d7 ".join(map(str, array.shape))
    sizes = [(min(axis), max(axis)) for axis in zip(*(one.shape for one in array), strict=True)]
    ranges = [str(low) if low == high else f"{low} to {high}" for low, high in sizes]
    return " \u00d7 ".join([str(len(array)), *ranges])
