"""Measures the whole tuning thoroughly: what a load measures, and what only shows in whole passes of a model."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping

from pellucid import _engine, tuning
from pellucid.model import Model
from pellucid.tuning import Timing

__all__ = ["tune"]

PROMPT = 512  # tokens of a compute-bound pass
STEPS = 16  # passes of one token
FEW = 4  # tokens of a pass for which it is unclear whether memory or computing limits it
TURNS = 3  # minimum for each candidate


def _candidates(default: Mapping[str, int], name: str, *factors: float) -> tuple[Mapping[str, int], ...]:
    least, most = _engine.tuning_limits()[name]
    values = [default[name], *(int(default[name] * f) for f in factors)]
    return tuple({name: v} for v in dict.fromkeys(values) if least <= v <= most)


def tune(model: Model, seconds: float, note: Callable[[str], object] = lambda text: None) -> tuning.Tuning:
    """Measures for about `seconds`, half of them on kernels and half on passes of the model, and stores the fastest
    settings for every later load. Three turns of the passes may take longer; then `note` is called with the time.
    Raises OutOfMemoryError; PellucidError, before measuring, if the result could not be stored."""
    tuning.check_folder()
    engine, facts = model.core.open(), model.core.facts
    isa = engine.info()["isa"]
    values = _engine.default_tuning(isa)
    wanted = [
        ("rows at once", _candidates(values, "step_rows", 0.5, 2), PROMPT),
        ("weights of which threads divide the rows", _candidates(values, "rows_bytes", 0, 4), PROMPT),
        ("tiles of the gated unit at once", _candidates(values, "step_tiles", 0.5, 2), PROMPT),
        ("activations laid out at once", _candidates(values, "panel_bytes", 0.5, 2), PROMPT),
        ("weights that many rows meet", _candidates(values, "group_bytes", 0.5, 2), PROMPT),
        ("prefetching before a barrier", _candidates(values, "barrier_bytes", 0, 4), 1),
        ("threads' shares of few rows", _candidates(values, "few_rows", 0.5, 2), FEW),
    ]
    if isa.startswith("avx512") or isa == "amx":
        del wanted[4]
    each = seconds / 2 / len(wanted)
    passes = {rows: _pass(engine, _ids(model, rows)) for rows in (PROMPT, FEW, 1)}
    whole = seconds / 2 + sum(max(each, TURNS * len(candidates) * passes[rows]) for _, candidates, rows in wanted)
    if whole > 1.2 * seconds:
        note(f"the passes of this model need longer: about {whole:.0f} s in all")
    timings = tuning.measure(isa, facts.threads, seconds / 2, long=True)
    for timing in timings:
        values |= timing.candidates[timing.chosen]
    try:
        for what, candidates, rows in wanted:
            timings.append(_time(model, what, candidates, values, rows, each))
            values |= candidates[timings[-1].chosen]
    finally:
        engine.tune(facts.tuning)
    return tuning.keep(isa, facts.threads, timings)


def _ids(model: Model, rows: int) -> list[int]:
    """n tokens, or as many as a pass can have."""
    engine = model.core.open()
    return random.Random(1).choices(range(engine.vocab), k=min(rows, model.context_length, engine.max_rows))


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
    ids = _ids(model, rows)
    turns: list[list[float]] = []
    until = time.perf_counter() + seconds
    while len(turns) < TURNS or time.perf_counter() < until:
        times = []
        for candidate in candidates:
            engine.tune({**values, **candidate})
            times.append(_pass(engine, ids))
        turns.append(times)
    return tuning.decide(what, candidates, [turns], tuning.GAIN_AT_LENGTH)


def _pass(engine: _engine.Engine, ids: list[int]) -> float:
    # One sequence each: if tokens attend to later ones, a sequence is one pass.
    sequences = [_engine.Sequence(engine) for _ in range(STEPS if len(ids) == 1 else 1)]
    start = time.perf_counter()
    for sequence in sequences:
        engine.forward([(sequence, ids, len(ids))])
    return time.perf_counter() - start
