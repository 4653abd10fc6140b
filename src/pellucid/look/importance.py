"""How much each column of a model's matrices matters: mean squares of its inputs over a text ("imatrix")."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pellucid.core import Core
from pellucid.look.places import Tap
from pellucid.plan import Kind, Plan
from pellucid.schedule.turns import Turns
from pellucid.weights.importance import Importance

__all__ = ["importances", "inputs"]

_ROOM = 256 << 20  # bytes for the inputs of a pass
_LEFT_OUT = (Kind.EMBED, Kind.ROUTE, Kind.HEAD)


class Input(NamedTuple):
    """The place of the input of matrices. stack: the number of matrices in a tensor, each with its own part of the
    input: one per head, or one per expert, with `routes` naming a row's experts. one: all of a row's experts read the
    same input. heads: matrices in a tensor without a stack, whose inputs count as further rows."""

    tap: Tap
    stack: int = 1
    routes: Tap | None = None
    one: bool = False
    heads: int = 1


def inputs(plan: Plan) -> dict[Input, list[str]]:
    """The input of each linear -> the tensors that multiply it. The head and routers, which are not quantised, are left
    out. The columns of inputs are in the model's order, even if those of a matrix are not (GPTQ)."""
    found: dict[Input, list[str]] = {}
    for i, op in enumerate(plan.ops):
        if not op.n_seg or op.kind in _LEFT_OUT:
            continue
        routes = Tap(i - 1, op.tmp) if op.kind.routed else None
        for segment in plan.segments[op.seg : op.seg + op.n_seg]:
            m, buffer = plan.matrices[segment.matrix], segment.input if segment.input >= 0 else op.inp
            if not m.tensor:  # computed from another matrix
                continue
            last = next((j for j in range(i - 1, -1, -1) if plan.ops[j].out == buffer), i - 1)
            if plan.ops[last].kind == Kind.REORDER:
                buffer = plan.ops[last].inp
            by_heads = routes is None and m.k != plan.buffers[buffer].dim  # each matrix has its own columns
            in_one = by_heads and m.name != m.tensor  # keys and values in one tensor
            heads = m.stack if in_one else 1
            stack = m.stack if not in_one and (routes is not None or by_heads) else 1
            names = found.setdefault(Input(Tap(i - 1, buffer), stack, routes, op.kind == Kind.EXPERTS, heads), [])
            if m.tensor not in names:  # parts of one tensor share its input
                names.append(m.tensor)
    return found


def importances(
    core: Core,
    chunks: Sequence[Sequence[int]],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Importance]:
    """Runs each chunk of token ids separately -> {name of a tensor: sums of squares of its inputs, number of rows
    summed; for experts, of each one's own rows}.

    progress: called with (tokens done, all tokens).
    """
    engine = core.open()
    places = inputs(engine.plan)
    taps = [*dict.fromkeys(tap for at in places for tap in (at.tap, at.routes) if tap is not None)]
    room = 4 * max(sum(engine.plan.buffers[tap.buffer].dim for tap in taps), 1)
    kept = {at: (np.zeros((at.stack, _columns(engine.plan, at)), np.float64), np.zeros(at.stack)) for at in places}
    step = min(max(_ROOM // room, 1), engine.max_rows)
    whole = not all(group.causal for group in engine.plan.caches)  # a chunk must then be a single pass
    done, total = 0, sum(map(len, chunks))
    for ids in chunks:
        with Turns(core, "importance", [len(ids)]) as turns:
            sequence = turns.sequence()
            while sequence.length < len(ids):
                start = sequence.length
                n = len(ids) if whole else turns.rows(step, start)
                rows = np.array(ids[start : start + n], np.int32)
                found, _ = turns.observe([(sequence, rows, len(rows))], taps=taps)
                for at, (sums, counts) in kept.items():
                    _collect(at, found[at.tap], None if at.routes is None else found[at.routes], sums, counts)
                done += len(rows)
                if progress is not None:
                    progress(done, total)
    made = {at: Importance(sums.astype(np.float32), counts.astype(np.float32)) for at, (sums, counts) in kept.items()}
    return {name: made[at] for at, names in places.items() for name in names}


def _columns(plan: Plan, at: Input) -> int:
    """Of each matrix of a stack."""
    dim = plan.buffers[at.tap.buffer].dim
    if at.one:
        return dim
    return dim // (at.stack * at.heads if at.routes is None else plan.buffers[at.routes.buffer].dim // 2)


def _collect(
    at: Input,
    x: npt.NDArray[np.float32],
    routes: npt.NDArray[np.float32] | None,
    sums: npt.NDArray[np.float64],
    counts: npt.NDArray[np.float64],
) -> None:
    """Adds the squares of the rows of a pass, row by row, so that no bit depends on how rows are divided into
    passes."""
    for i, row in enumerate(x):
        squares = row.astype(np.float64) ** 2
        if routes is None:
            parts = squares.reshape(-1, *sums.shape)  # one, or a head's each
            sums += parts.sum(axis=0)
            counts += len(parts)
            continue
        chosen = routes[i, : routes.shape[1] // 2].astype(np.intp)  # each expert once
        sums[chosen] += squares if at.one else squares.reshape(len(chosen), -1)
        counts[chosen] += 1
