"""What a page leaves out, besides weights of heads, when it would be too large."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pellucid.look.collect import MOST, NEURONS, TARGETS, Collected

__all__ = ["LADDER", "Rung", "fewer", "said"]


class Rung(NamedTuple):
    """The maximum that is kept."""

    pushed: int = TARGETS  # tokens whose logits are attributed to heads, per position: the one that follows comes first
    neurons: int = NEURONS  # per layer
    candidates: int = MOST  # per position


# From most to least. The last two numbers of candidates are in collect.FEWER.
LADDER = (Rung(), Rung(1), Rung(1, 1), Rung(1, 1, 256), Rung(1, 1, 64))


def said(rung: Rung) -> dict[str, int]:
    """The page's note: what is incomplete."""
    return {name: most for name, most in rung._asdict().items() if most != getattr(Rung(), name)}


def fewer(found: Collected, rung: Rung) -> dict[str, npt.NDArray[Any]]:
    """The arrays, reduced to the rung's limits."""
    arrays = dict(found.arrays)
    arrays["head-push"] = arrays["head-push"][:, : rung.pushed]
    for name in ("neurons", "neuron-acts", "neuron-push"):
        arrays[name] = arrays[name][..., : rung.neurons]
    if rung.candidates < MOST:
        starts = arrays["cand-starts"].astype(np.int64)
        counts = np.minimum(np.diff(starts), rung.candidates)
        ends = np.cumsum(counts)
        places = np.arange(ends[-1]) + np.repeat(starts[:-1] - (ends - counts), counts)
        arrays["cand-starts"] = np.concatenate([[0], ends]).astype(np.uint32)
        arrays |= {name: arrays[name][places] for name in ("cand-ids", "cand-logits")}
        arrays["tail"] = found.tails[rung.candidates]
    return arrays
