"""The states of recurrent layers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pellucid import _engine
from pellucid.look.places import Places
from pellucid.look.sizes import Selection
from pellucid.plan import Plan

__all__ = ["states"]


def states(
    plan: Plan, sequence: _engine.Sequence, places: Places, s: Selection
) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """(place among the selected layers, state (heads, keys, values)) of a sequence's recurrences."""
    whole, first, starts = sequence.state(), 0, []
    for group in plan.states:
        starts.append(first)
        first += group.n_layers * group.layer.floats
    for j, number in enumerate(s.layers):
        at = places.layers[number].state
        if at is None:
            continue
        kind = plan.states[at[0]].layer
        begin = starts[at[0]] + at[1] * kind.floats + kind.conv_floats
        blocks = whole[begin : begin + kind.scan_floats].reshape(kind.n_v, -1, kind.dk, 16)
        yield j, blocks.swapaxes(1, 2).reshape(kind.n_v, kind.dk, -1)[..., : kind.dv]
