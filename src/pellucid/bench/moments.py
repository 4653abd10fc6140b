"""Groups runs by the memory bandwidth at their time.

On a shared machine the bandwidth varies within seconds, and the more there is, the smaller the fraction of it that a
kernel uses: a median over all runs depends on how many of them met which bandwidth. So memory is read right before and
right after every run, runs whose two readings differ are left out, and the others are grouped by these readings.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Iterable, Sequence

__all__ = ["divide", "edges", "steady"]

APART = 0.1  # relative difference of the readings around a run above which the bandwidth has changed in between
WIDTH = 1.25  # maximum ratio of the largest to the smallest reading of a group
FEWEST = 0.05  # of all readings: a smaller group joins the nearest one


def steady(before: float, after: float) -> float | None:
    """The mean of the readings before and after a run; None if the bandwidth changed in between."""
    return (before + after) / 2 if abs(before - after) <= APART * max(before, after) else None


def edges(reads: Iterable[float]) -> list[float]:
    """The bandwidths at which groups of readings divide, ascending; empty if all are close together.

    A group that is too wide is divided so that the variation within the two parts is least (least squares of
    logarithms).
    """
    values = sorted(reads)
    cuts = sorted(_cuts(values, 0, len(values))) if values else []
    while cuts:
        bounds = [0, *cuts, len(values)]
        sizes = [b - a for a, b in zip(bounds, bounds[1:])]
        least = min(range(len(sizes)), key=sizes.__getitem__)
        if sizes[least] >= FEWEST * len(values):
            break
        beside = [i for i in (least - 1, least) if 0 <= i < len(cuts)]  # the cuts at its ends
        cuts.remove(min((cuts[i] for i in beside), key=lambda cut: values[cut] / values[cut - 1]))
    return [math.sqrt(values[cut - 1] * values[cut]) for cut in cuts]


def _cuts(values: Sequence[float], start: int, end: int) -> list[int]:
    """Indices at which the ascending values[start:end] are divided."""
    if values[end - 1] <= WIDTH * values[start]:
        return []
    logs = [math.log(x) for x in values[start:end]]
    n, total, left = len(logs), sum(logs), 0.0
    best, at = -1.0, 1
    for i in range(1, n):
        left += logs[i - 1]
        between = left * left / i + (total - left) ** 2 / (n - i)  # plus a constant: the squares explained by the cut
        if between > best and logs[i] > logs[i - 1]:
            best, at = between, i
    return [*_cuts(values, start, start + at), start + at, *_cuts(values, start + at, end)]


def divide(reads: Sequence[float], bounds: Sequence[float]) -> list[list[int]]:
    """Indices of the readings of each group, by ascending bandwidth; bounds: :func:`edges`. Groups may be empty."""
    groups: list[list[int]] = [[] for _ in range(len(bounds) + 1)]
    for i, read in enumerate(reads):
        groups[bisect(bounds, read)].append(i)
    return groups
