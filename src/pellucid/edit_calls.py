"""The methods that edit a model, with their types."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy.typing as npt

from pellucid.options import HeadPart, Ids, Part
from pellucid.sampling import Integer, Number

if TYPE_CHECKING:
    from typing import Self

    from pellucid.look.edit import Edits

__all__ = ["EditCalls"]


class EditCalls:
    """The methods that edit a model; each returns the ``Edit`` itself."""

    _edits: Edits

    def _make(self, edit: Callable[..., None], *arguments: Any) -> Self:
        raise NotImplementedError

    def add(
        self,
        layer: Integer | Literal["embeddings"],
        vector: npt.ArrayLike,
        positions: Integer | Ids | None = None,
        part: Part | None = None,
    ) -> Self:
        """Adds a vector (d) to the residual stream after a layer. part: adds it instead to what the layer's "attention"
        (or recurrence) or "mlp" adds to the stream."""
        return self._make(self._edits.add, layer, vector, positions, part)

    def patch(
        self,
        layer: Integer | Literal["embeddings"],
        positions: Integer | Ids,
        values: npt.ArrayLike,
        part: Part | None = None,
    ) -> Self:
        """Replaces the residual stream after a layer, at the given positions, by values of shape (len(positions), d),
        or (d) for all of them. part: replaces instead what the layer's "attention" (or recurrence) or "mlp" adds to the
        stream."""
        return self._make(self._edits.patch, layer, positions, values, part)

    def scale(
        self, layer: Integer | Literal["embeddings"], factor: Number, positions: Integer | Ids | None = None
    ) -> Self:
        """Multiplies the residual stream after a layer."""
        return self._make(self._edits.scale, layer, factor, positions)

    def scale_head(self, layer: Integer, head: Integer, factor: Number, positions: Integer | Ids | None = None) -> Self:
        """Multiplies a head's output before it is projected into the residual stream. A factor of 0 removes the
        head."""
        return self._make(self._edits.scale_head, layer, head, factor, positions)

    def patch_head(
        self,
        layer: Integer,
        head: Integer,
        positions: Integer | Ids,
        values: npt.ArrayLike,
        part: HeadPart = "output",
    ) -> Self:
        """Replaces a head's output before its projection (a trace's ``mixed``), its "q", or the "k" or "v" of a KV
        head, at the given positions, by values (len(positions), width of a head)."""
        return self._make(self._edits.patch_head, layer, head, positions, values, part)

    def patch_pattern(self, layer: Integer, head: Integer, positions: Integer | Ids, weights: npt.ArrayLike) -> Self:
        """Replaces a head's attention at the given positions by weights (len(positions), n) of the first n tokens, or
        (n); those of later tokens, and of tokens that the position does not see, are 0."""
        return self._make(self._edits.patch_pattern, layer, head, positions, weights)

    def cut(
        self,
        layer: Integer,
        head: Integer | Ids | None,
        positions: Integer | Ids | None,
        sources: Integer | Ids,
    ) -> Self:
        """Keeps a head (or several; None: all) from attending, at the given positions, to the tokens at `sources`; the
        weights of the others are those of a softmax without them. If none is left, the head gives zeros."""
        return self._make(self._edits.cut, layer, head, positions, sources)

    def scale_neurons(
        self, layer: Integer, neurons: Integer | Ids, factor: Number, positions: Integer | Ids | None = None
    ) -> Self:
        """Multiplies activations of neurons (a trace's ``neurons``). A factor of 0 removes them."""
        return self._make(self._edits.scale_neurons, layer, neurons, factor, positions)

    def set_neurons(
        self,
        layer: Integer,
        neurons: Integer | Ids,
        values: npt.ArrayLike,
        positions: Integer | Ids | None = None,
    ) -> Self:
        """Replaces activations of neurons by a number, by one for each neuron, or by values of shape (len(positions),
        len(neurons))."""
        return self._make(self._edits.set_neurons, layer, neurons, values, positions)

    def scale_expert(self, layer: Integer, expert: Integer, factor: Number) -> Self:
        """Multiplies the weight of an expert wherever it is chosen. A factor of 0 removes what it adds; the choice and
        the weights of the others do not change. Raises ValueError for a layer without experts."""
        return self._make(self._edits.scale_expert, layer, expert, factor)

    def skip(self, layer: Integer, part: Part) -> Self:
        """Skips a layer's "attention" or "mlp": it adds nothing to the residual stream."""
        return self._make(self._edits.skip, layer, part)
