"""How each filter of the sampling options changes a model's probabilities."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pellucid.sampling import SamplingOptions

__all__ = ["Step", "steps"]

Floats = npt.NDArray[np.float64]
_D = SamplingOptions()


class Step(NamedTuple):
    """The m tokens left after a filter, the most probable first, and their probabilities, which sum to 1."""

    name: str
    ids: npt.NDArray[np.intp]
    probabilities: Floats

    def __repr__(self) -> str:
        return f"<Step {self.name!r}: {len(self.ids)} tokens left, the likeliest {self.probabilities[0]:.3f}>"


def steps(
    logits: npt.ArrayLike,
    *,
    temperature: float = _D.temperature,
    top_k: int = _D.top_k,
    top_p: float = _D.top_p,
    min_p: float = _D.min_p,
) -> list[Step]:
    """A position's logits (vocab) -> the model's distribution, then the one after each filter that is on, in the order
    in which the sampler applies them: top-k, top-p, min-p, temperature. A token is drawn from the last one.

    Raises ValueError or TypeError naming the option, as ``Model.generate`` does.
    """
    SamplingOptions(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    x = np.asarray(logits, np.float64)
    if x.ndim != 1 or not len(x):
        raise ValueError(f"logits has shape {x.shape}, expected (vocab)")
    order = np.argsort(-x, kind="stable")
    found = [Step("model", order, _softmax(x[order]))]
    if temperature == 0:  # greedy, whatever the filters
        return [*found, Step("greedy", order[:1], np.ones(1))]

    def keep(name: str, n: int) -> None:
        nonlocal order
        order = order[:n]
        found.append(Step(name, order, _softmax(x[order])))

    if 0 < top_k:
        keep(f"top-k {top_k}", top_k)
    if top_p < 1:
        sums = np.cumsum(found[-1].probabilities)
        keep(f"top-p {top_p:g}", int(np.searchsorted(sums, np.float32(top_p))) + 1)
    if min_p > 0:
        p = found[-1].probabilities
        keep(f"min-p {min_p:g}", int(np.count_nonzero(p >= min_p * p[0])))
    if temperature != 1:
        found.append(Step(f"temperature {temperature:g}", order, _softmax(x[order] / temperature)))
    return found


def _softmax(x: Floats) -> Floats:
    e: Floats = np.exp(x - x.max())
    e /= e.sum()
    return e
