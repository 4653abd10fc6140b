"""Priorities, keys and deadlines: who is admitted next, and what is given up."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pellucid import Model
from pellucid.schedule.caller import Caller, Work
from pellucid.schedule.scheduler import Scheduler
from pellucid.schedule.turns import Turns
from tests.engine import models
from tests.schedule.test_interleavings import FakeJob, FakeSequence


class Engine:
    """Notes the first token of each request in each pass."""

    max_rows = 64

    def __init__(self) -> None:
        self.passes: list[list[int]] = []

    def forward(self, parts: Any, *, found: list[Any], **options: Any) -> None:
        for sequence, ids, first in parts:
            sequence.ids += ids
            if first < len(ids):
                found.append((0, None, []))
        self.passes.append([sequence.ids[0] for sequence, _, _ in parts])


def run(works: list[Work], **settings: Any) -> list[list[int]]:
    engine = Engine()
    scheduler = Scheduler(lambda: engine, FakeSequence, **settings)
    for work in works:
        scheduler.submit(work)
    for work in works:
        while not work.expired and len(work.job.drawn) < 1:
            work.caller.ready.clear()
            scheduler.wait(work.caller)
        scheduler.leave((work,), free=True)
    return engine.passes


def work(number: int, **options: Any) -> Work:
    return Work(FakeJob([number], 1), Caller(None, 1 << 30), **options)


def test_lower_priorities_come_first() -> None:
    works = [work(1, priority=5), work(2), work(3, priority=-1)]
    assert run(works, sequences=1) == [[3], [2], [1]]


def test_a_key_with_many_requests_does_not_hold_up_another() -> None:
    works = [*(work(i, key="many") for i in range(1, 6)), work(9, key="one")]
    assert [first for (first,) in run(works, sequences=1)][:2] == [1, 9]


@pytest.mark.parametrize("beside", [False, True])
def test_keys_that_are_gone_are_forgotten(beside: bool) -> None:
    """Whether or not there always is a request; one that had many rows keeps its place behind the others."""
    scheduler = Scheduler(Engine, FakeSequence)
    if beside:
        scheduler.submit(work(1, key="stays", ahead=0))  # its reader reads nothing
    greedy = 0, "greedy"
    scheduler._served[greedy] = 10**6
    for i in range(5000):
        one = work(1, key=str(i))
        scheduler.submit(one)
        scheduler.wait(one.caller)
        scheduler.leave((one,), free=True)
    assert len(scheduler._served) < 2000 and scheduler._served[greedy] == 10**6


def test_a_deadline_that_passed() -> None:
    works = [work(1, deadline=time.monotonic() - 1), work(2, deadline=time.monotonic() + 60)]
    assert run(works) == [[2]]
    assert [one.expired for one in works] == [True, False]


def test_passes_of_other_kinds_are_short_beside_one_that_decodes() -> None:
    engine = Engine()
    scheduler = Scheduler(lambda: engine, FakeSequence, max_gap=0.1)
    assert scheduler.beside(500) == 500
    one = Work(FakeJob([1], 3), Caller(None, 1 << 30))
    scheduler.submit(one)
    assert scheduler.beside(500) == 500  # it has not begun
    scheduler.wait(one.caller)
    scheduler._cost._passes.clear()
    for rows in (16, 32, 64, 512):
        scheduler._cost.add(rows, 0, rows / 1000)
    assert scheduler.beside(500) == 96 and scheduler.beside(8) == 8
    scheduler.leave((one,), free=True)
    assert scheduler.beside(500) == 500


@pytest.mark.parametrize("limit", [1, 16])
def test_short_passes_change_no_bit(
    limit: int, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Model.load(models.write(tmp_path_factory.mktemp("short"), "gemma3"), threads=2) as model:
        ids = [1 + i % 40 for i in range(100)]
        context = model.context()
        context.append(ids)
        expected = model.logits(ids), model.score(ids), context.logits()
        monkeypatch.setattr(Turns, "rows", lambda self, most, depth=0: min(most, limit))
        context = model.context()
        context.append(ids)
        found = model.logits(ids), model.score(ids), context.logits()
        assert (found[0] == expected[0]).all() and found[1] == expected[1] and (found[2] == expected[2]).all()
