"""Groups of runs by the bandwidth of their moment: found from the readings, whatever machine they are from."""

from __future__ import annotations

import random

import pytest

from pellucid.bench import moments


def grouped(reads: list[float]) -> list[list[float]]:
    return [[reads[i] for i in group] for group in moments.divide(reads, moments.edges(reads))]


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_two_levels(scale: float) -> None:
    slow, fast = [34.0 * scale, 35.5 * scale, 36.0 * scale], [57.0 * scale, 60.0 * scale]
    reads = [fast[0], *slow, fast[1]]
    assert grouped(reads) == [slow, fast]
    (edge,) = moments.edges(reads)
    assert slow[-1] < edge < fast[0]


def test_three_levels() -> None:
    reads = [20.0, 21.0, 40.0, 41.0, 42.0, 80.0, 81.0]
    assert grouped(reads) == [reads[:2], reads[2:5], reads[5:]]


@pytest.mark.parametrize("reads", [[], [30.0], [30.0, 30.0], [30.0, 33.0, 36.0]])
def test_one_level(reads: list[float]) -> None:
    assert moments.edges(reads) == []
    assert grouped(reads) == [reads]


def test_no_group_is_wide_and_none_is_lost() -> None:
    rng = random.Random(3)
    reads = [rng.uniform(20, 60) for _ in range(200)]
    groups = grouped(reads)
    assert sorted(x for group in groups for x in group) == sorted(reads)
    assert 4 <= len(groups) <= 10 and all(max(group) <= 1.25 * min(group) for group in groups)


def test_a_stray_reading_joins_its_neighbours() -> None:
    reads = [35.0 + i / 20 for i in range(30)] + [58.0 + i / 20 for i in range(30)] + [10.0]
    assert [len(group) for group in grouped(reads)] == [31, 30]
    assert [len(group) for group in grouped([35.0, 36.0, 10.0])] == [1, 2]  # a third of the readings is not stray


def test_steady() -> None:
    assert moments.steady(40.0, 42.0) == moments.steady(42.0, 40.0) == 41.0
    assert moments.steady(40.0, 50.0) is None and moments.steady(50.0, 40.0) is None
