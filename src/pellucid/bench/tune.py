"""Measures the whole tuning at length: what a load measures too, and what shows only in whole passes of a model."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping

from pellucid import _engine, tuning
from pellucid.model import Model
from pellucid.tuning import Timing

__all__ = ["tune"]

PROMPT = 512  # tokens of a pass that is bound by computing
STEPS = 16  # passes of one token
FEW = 4  # tokens of a pass of which it is not clear what binds it


def _candidates(default: Mapping[str, int], name: str, *factors: float) -> tuple[Mapping[str, int], ...]:
    least, most = _engine.tuning_limits()[name]
    values = [default[name], *(int(default[name] * f) for f in factors)]
    return tuple({name: v} for v in dict.fromkeys(values) if least <= v <= most)


def tune(model: Model, seconds: float) -> tuning.Tuning:
    """Measures for about `seconds`, half of them on the kernels alone and half on passes of the model, and keeps what
    was fastest for every later load. Raises OutOfMemoryError."""
    engine, facts = model.core.open(), model.core.facts
    isa = engine.info()["isa"]
    timings = tuning.measure(isa, facts.threads, seconds / 2)
    values = _engine.default_tuning(isa)
    for timing in timings:
        values |= timing.candidates[timing.chosen]
    wanted = [
        ("rows at once", _candidates(values, "step_rows", 0.5, 2), PROMPT),
        ("tiles of the gated unit at once", _candidates(values, "step_tiles", 0.5, 2), PROMPT),
        ("activations laid out at once", _candidates(values, "panel_bytes", 0.5, 2), PROMPT),
        ("weights that many rows meet", _candidates(values, "group_bytes", 0.5, 2), PROMPT),
        ("prefetching before a barrier", _candidates(values, "barrier_bytes", 0, 4), 1),
        ("threads' shares of few rows", _candidates(values, "few_rows", 0.5, 2), FEW),
    ]
    if isa.startswith("avx512") or isa == "amx":
        del wanted[3]
    else:
        del wanted[2]
    try:
        for what, candidates, rows in wanted:
            timings.append(_time(model, what, candidates, values, rows, seconds / 2 / len(wanted)))
            values |= candidates[timings[-1].chosen]
    finally:
        engine.tune(facts.tuning)
    return tuning.keep(isa, facts.threads, timings)


def _time(
    model: Model,
    what: str,
    candidates: tuple[Mapping[str, int], ...],
    values: Mapping[str, int],
    rows: int,
    seconds: float,
) -> Timing:
    """Whole passes of `rows` rows with each candidate, in turns."""
    engine = model.core.open()
    rows = min(rows, model.context_length, engine.max_rows)
    ids = random.Random(1).choices(range(engine.vocab), k=rows)
    turns: list[list[float]] = []
    until = time.perf_counter() + seconds
    while len(turns) < 3 or time.perf_counter() < until:
        times = []
        for candidate in candidates:
            engine.tune({**values, **candidate})
            times.append(_pass(engine, ids))
        turns.append(times)
    return tuning.decide(what, candidates, [turns], tuning.GAIN_AT_LENGTH)


def _pass(engine: _engine.Engine, ids: list[int]) -> float:
    # A sequence for each: where tokens see later ones, a sequence is one pass.
    sequences = [_engine.Sequence(engine) for _ in range(STEPS if len(ids) == 1 else 1)]
    start = time.perf_counter()
    for sequence in sequences:
        engine.forward([(sequence, ids, len(ids))])
    return time.perf_counter() - start
