"""The inputs of the activations of feed-forward units, which the units themselves overwrite."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pellucid import _engine
from pellucid.core import Core
from pellucid.look.places import find, reordered, with_gates
from pellucid.schedule.turns import Turns

__all__ = ["Gates"]

Floats = npt.NDArray[np.float32]


class Gates:
    """Computes them from the units' inputs, with an engine whose plan has an operation for that. Its passes take turns
    with others; since they use no cache memory, they are not a separate call that would have to wait for the
    trace's."""

    def __init__(self, core: Core, cancel: Callable[[], bool] | None) -> None:
        engine = core.open()
        self._turns = Turns(core, "trace", (), cancel, _engine.Engine(with_gates(engine.plan), base=engine))
        self._layers = find(self._turns.plan).layers
        self._sequence = _engine.Sequence(self._turns.engine)  # stays empty

    def fill(self, number: int, x: Floats, out: Floats) -> None:
        """x: the input of a layer's unit (rows, dim); out (rows, ff) is unchanged if the layer has none."""
        tap, turns = self._layers[number].gate, self._turns
        if tap is None:
            return
        first, start = tap.op - reordered(turns.plan, tap.op), 0
        while start < len(x):
            part = np.ascontiguousarray(x[start : start + turns.rows(turns.max_rows, part=True)])
            rows, feeds = np.zeros(len(part), np.int32), {turns.plan.ops[first].inp: part}
            parts = [(self._sequence, rows, len(part))]
            found, _ = turns.observe(parts, ops=(first, tap.op + 1), feeds=feeds, taps=[tap], at=0)
            out[start : start + len(part)] = found[tap]
            start += len(part)
