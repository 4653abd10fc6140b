"""The engine's own sampler on a position of a text that was computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pellucid import _engine
from pellucid.core import Core
from pellucid.look import choice, places, record
from pellucid.sampling import SamplingOptions
from pellucid.schedule.turns import Turns
from pellucid.text.breakers import Breakers

__all__ = ["Drawing", "drawing"]

Floats = npt.NDArray[np.float32]


class Drawing(NamedTuple):
    """The sampler's steps, and the token that the engine draws after them; None without a seed, unless decoding is
    greedy. u: the random number of the draw."""

    steps: choice.Steps
    id: int | None
    u: float | None


def drawing(core: Core, row: Floats, ids: Sequence[int], number: int, options: SamplingOptions) -> Drawing:
    """The sampling of one position. row (dim): its stream, as the head reads it; ids: all tokens up to it; number:
    index of the new token in its generation, from 0. Raises ValueError if the options leave no token."""
    where = places.find(core.open().plan)
    with Turns(core, "page") as turns:
        logits = np.concatenate([part for _, part in record.head_blocks(turns, where, row[None])])[0]
        found = choice.steps(
            logits, before=ids, piece=core.piece, number=number, suppressed=core.facts.suppressed, options=options
        )
        seed = options.seed if isinstance(options.seed, int) else None
        if seed is None and options.temperature > 0:
            return Drawing(found, None, None)
        bias = {**dict.fromkeys(core.facts.suppressed, -math.inf), **options.logit_bias}
        sampler = _engine.Sampler(**{**options.sampler(), "seed": seed or 0, "bias": bias})
        sampler.advance(number)
        breaks = bytes(Breakers(core.piece, options.dry_breakers).marks(ids)) if options.dry_breakers else None
        sampler.extend(list(ids), breaks)
        drawn: list[Any] = []
        for _, run in record.head_passes(turns, where, row[None], 1):
            run(samplers=[sampler], found=drawn)
    return Drawing(found, int(drawn[0][0]), None if options.temperature == 0 else found.draw(seed).u)
