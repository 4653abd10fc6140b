"""Priorities, keys and deadlines: who is admitted next, and what is given up."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.schedule.caller import Caller, Work
from pellucid.schedule.run import of as scheduler_of
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
    assert run(works, sequences=1)[0] == [1, 9]


def test_each_key_has_a_request_that_runs() -> None:
    """However many run of another, all of which go on."""
    many = [Work(FakeJob([i], 9), Caller(None, 1 << 30), key="many") for i in (1, 2, 3)]
    engine = Engine()
    scheduler = Scheduler(lambda: engine, FakeSequence, sequences=2)
    for one in many:
        scheduler.submit(one)
    scheduler.wait(many[0].caller)
    other = [work(8, key="one"), work(9, key="one")]
    for one in other:
        scheduler.submit(one)
    scheduler.wait(other[0].caller)
    assert engine.passes == [[1, 2], [1, 2, 8]]


def test_rows_of_prompts_go_to_the_key_that_had_the_least() -> None:
    engine = Engine()
    scheduler = Scheduler(lambda: engine, FakeSequence)
    many = [Work(FakeJob([i] * 60, 1), Caller(None, 1 << 30), key="many") for i in range(1, 6)]
    for one in many:
        scheduler.submit(one)
    scheduler.wait(many[0].caller)
    other = Work(FakeJob([9] * 60, 1), Caller(None, 1 << 30), key="one")
    scheduler.submit(other)
    scheduler.wait(other.caller)
    assert [9 in one for one in engine.passes] == [False, False, False, True]  # they had equally much when it came


def test_a_request_that_comes_does_not_look_at_those_that_wait() -> None:
    class Waiting(list[Work]):
        def __iter__(self) -> Any:
            raise AssertionError("a look at each")

    engine = Engine()
    scheduler = Scheduler(lambda: engine, FakeSequence, sequences=1)
    scheduler._waiting = Waiting()
    works = [work(i, key="a" if i % 3 else "b") for i in range(1, 30)]
    for one in works:
        scheduler.submit(one)
    scheduler._waiting = list.copy(scheduler._waiting)
    scheduler.wait(works[0].caller)
    scheduler.leave(works, free=True)
    assert not scheduler._served._active


@pytest.mark.parametrize("beside", [False, True])
def test_keys_that_are_gone_are_forgotten(beside: bool) -> None:
    """Whether or not there always is a request; one that had many rows keeps its place behind the others."""
    scheduler = Scheduler(Engine, FakeSequence)
    if beside:
        scheduler.submit(work(1, key="stays", ahead=0))  # its reader reads nothing
    greedy = 0, "greedy"
    scheduler._served.add(greedy, 10**6)
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


def test_completions_of_a_prompt_run_together_where_its_pages_fit_once(tmp_path: Path) -> None:
    ids = [1 + i % 40 for i in range(300)]
    given: dict[str, Any] = {"n": 3, "max_tokens": 8, "temperature": 1.0, "seed": 1, "ignore_eos": True}
    path = models.write(tmp_path, "llama_gqa")
    with Model.load(path, threads=1) as model:
        expected = [one.ids for one in model.generate(ids, speculate=False, **given)]
        need = scheduler_of(model.core).room.need
        limit = need(300) + 3 * need(64)
    for call in ("generate", "submit"):
        with Model.load(path, threads=1, cache_bytes=limit) as model:
            found: Any
            if call == "generate":
                found = model.generate(ids, speculate=False, **given)
            else:
                found = model.submit(ids, speculate=False, **given).result()
            assert [one.ids for one in found] == expected
            assert model.stats().passes <= 2 + 8 and model.stats().preemptions == 0


@pytest.mark.parametrize("kv", ["f32", "int8"])
def test_a_key_gets_memory_that_another_holds(kv: Any, tmp_path: Path) -> None:
    """Its first request does not wait until one of the other's ends, and no result is another for that."""
    long: dict[str, Any] = {"max_tokens": 40, "temperature": 0, "ignore_eos": True, "speculate": False}
    prompts = [[1 + (i + n) % 40 for i in range(70)] for n in range(6)]
    path = models.write(tmp_path, "llama_gqa")
    with Model.load(path, threads=1, kv=kv) as model:
        expected = [model.generate(ids, **long).ids for ids in prompts]
        mine = model.generate(prompts[0][:30], max_tokens=2, temperature=0).ids
        room = scheduler_of(model.core).room
        limit = 3 * room.need(110) + 1
    with Model.load(path, threads=1, kv=kv, cache_bytes=limit) as model:
        scheduler = scheduler_of(model.core)
        many = [model.submit(ids, key="many", ahead=100, **long) for ids in prompts]
        next(iter(many[0]))
        one = model.submit(prompts[0][:30], key="one", max_tokens=2, temperature=0)
        found: list[Any] = [one.result()]
        assert found[0].ids == mine
        assert scheduler.preemptions and max(len(request._works[0].job.drawn) for request in many) < 40
        found = [request.result() for request in many]
        assert [done.ids for done in found] == expected
