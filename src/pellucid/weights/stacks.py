"""Stacks of the matrices of experts, which a folder may have as separate tensors."""

from __future__ import annotations

import re

from pellucid.errors import ModelFileError
from pellucid.parts import Parts
from pellucid.weights.base import ModelFile, Tensor
from pellucid.weights.derived import FLOATS, wide
from pellucid.weights.prequantised import Quantised

__all__ = ["NUMBER", "stacked"]

# The number of an expert or of a head, within the names of a layer's tensors.
NUMBER = re.compile(r"(?:(?<=experts)|(?<=layernorm\.norms))\.(0|[1-9][0-9]{0,3})(?=\.)")


def stacked(folder: ModelFile, found: dict[str, dict[int, Tensor]], quantised: Quantised) -> dict[str, Tensor]:
    """The matrices of experts, {name: {expert: matrix}}, as one tensor each of shape (experts, rows, k); vectors of
    heads likewise. If quantised experts have different formats, their stack becomes F32.

    Raises ModelFileError if an expert is missing or has another shape, or another format while none is quantised.
    """
    made: dict[str, Tensor] = {}
    for kind in {_kind(name) for name in found}:
        made |= _of_kind(folder, {name: parts for name, parts in found.items() if _kind(name) == kind}, quantised)
    return made


def _kind(name: str) -> str:
    """The key for parts whose number is the same in all layers: experts, or the norms of heads of one name."""
    return "experts" if name.endswith("_exps.weight") else name.split(".", 2)[2]


def _of_kind(folder: ModelFile, found: dict[str, dict[int, Tensor]], quantised: Quantised) -> dict[str, Tensor]:
    n = max((max(parts) for parts in found.values()), default=-1) + 1
    made = {}
    for name, parts in found.items():
        first = parts[min(parts)]
        mixed = any(t.name in quantised.names for t in parts.values())
        for e in range(n):
            own = NUMBER.sub(f".{e}", first.name)
            if e not in parts:
                message = f"no such tensor beside {first.name}"
                raise ModelFileError(message, file=folder.path, field=own, expected=f"a tensor for each of {n} experts")
            t = parts[e]
            known = mixed and (t.type in FLOATS or t.name in quantised.floats)
            if t.shape != first.shape or (t.type != first.type and not known):
                message = f"is {t.type} of shape {t.shape}"
                expected = f"{first.type} of shape {first.shape}, as {first.name} is"
                raise ModelFileError(message, file=t.file, field=own, offset=t.offset, expected=expected)
        every = [parts[e] for e in range(n)]
        if len({t.type for t in every}) > 1:
            every = _alike(every, quantised)
        data = Parts(tuple(t.data for t in every))
        made[name] = every[0]._replace(shape=(n, *first.shape), data=data)
    return made


def _alike(every: list[Tensor], quantised: Quantised) -> list[Tensor]:
    """The same matrices in F32; records the first one's name in `quantised`: in `widened` if all but floats are FP8,
    else in `reasons`."""
    integers = [t for t in every if t.name in quantised.names - quantised.widened]
    name = next(t.name for t in integers or every if t.name in quantised.names)
    if integers:
        formats = {t.type if t.name not in quantised.widened else "FP8" for t in every}
        whys = sorted({quantised.reasons[t.name] for t in integers if t.name in quantised.reasons})
        some = f", some with {' and '.join(whys)}" if whys else ""
        quantised.reasons[name] = f"experts in different formats ({', '.join(sorted(formats))}){some}"
    made = [wide(quantised.floats.get(t.name, t) if t.type not in FLOATS else t) for t in every]
    return [made[0]._replace(name=name), *made[1:]]
