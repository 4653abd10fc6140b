"""Requests and calls that give each other up, beside a driver: all of them end, in whatever order threads go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any

import pytest

from pellucid.schedule.caller import Work
from pellucid.schedule.driver import Driver
from pellucid.schedule.scheduler import Scheduler
from tests.schedule.interleave import World, some, stubborn
from tests.schedule.test_interleavings import Owned, Reader
from tests.schedule.test_memory import Job, Pool
from tests.schedule.test_turns import Visitor

ROOM = 12
MOST = 2000  # passes, of some 60 that are needed where none is in vain


class Tight(Pool):
    """A pool whose passes other threads come between."""

    def __init__(self, world: World) -> None:
        super().__init__(ROOM)
        self.world = world
        self.passes, self.inside = 0, False

    def forward(self, parts: Any, *, found: list[Any], **options: Any) -> None:
        assert not self.inside, "two passes at once"
        self.passes += 1
        assert self.passes < MOST, "passes, and nothing goes on"
        self.inside = True
        try:
            self.world.point()
            super().forward(parts, found=found, **options)
        finally:
            self.inside = False


def with_pages(reader: Reader, prompt: list[int], most: int) -> Reader:
    reader.job = Job(prompt, most)
    reader.work = Work(reader.job, reader.caller, ahead=2)
    return reader


class Calls:
    """Calls one after the other, each as another one."""

    def __init__(self, times: int, make: Callable[[], Visitor]) -> None:
        self.made = [make() for _ in range(times)]

    def __call__(self) -> None:
        for one in self.made:
            one()
            assert one.error is None


def same(pool: Tight) -> Tight:
    return pool


def go_on(world: World, seconds: float) -> None:
    world.point()


def tick(clock: Iterator[int]) -> float:
    return next(clock) / 100


@pytest.mark.parametrize("driven", [True, False])
def test_all_end(driven: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    preemptions = failed = 0
    for choose in (*some(20), *stubborn(20)):
        world = World(choose, releases=True)
        clock = count()
        monkeypatch.setattr(time, "sleep", partial(go_on, world))
        monkeypatch.setattr(time, "monotonic", partial(tick, clock))
        pool = Tight(world)
        scheduler = Scheduler(
            partial(same, pool), pool.sequence, lock=world.lock, event=world.event, signal=world.signal
        )
        readers: list[Reader] = []
        for i, prompt in enumerate(([1] * 8, [2] * 6, [3] * 3, [4] * 7, [5])):
            kind = Owned if driven and i % 2 else Reader
            readers.append(with_pages(kind(world, scheduler, prompt, 2 + i % 3), prompt, 2 + i % 3))
        visit = partial(Visitor, scheduler, pool, event=world.event)
        calls = [Calls(3, partial(visit, 2, rows=2)), Calls(2, partial(visit, 1, rows=9))]
        works: list[Callable[[], None]] = [*readers, *calls]
        if driven:
            driver = scheduler._permanent = Driver(scheduler)
            left = list(works)

            def ended(one: Callable[[], None], left: list[Any] = left, driver: Driver = driver) -> None:
                one()
                left.remove(one)
                if not left:
                    driver.close()

            works = [driver.run, *(partial(ended, one) for one in works)]
        world.run(works)
        for reader in readers:
            assert reader.error is None and reader.got == reader.expected
        assert scheduler._driver is None and not (scheduler._running or scheduler._waiting or scheduler._turns)
        assert not any(one.length for one in pool.sequences) and not scheduler._holders.calls
        preemptions += scheduler.preemptions
        failed += pool.failed
    assert preemptions > 40 and failed > 40
