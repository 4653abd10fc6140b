"""Nothing that a caller waits for gets lost: each test was a wait without an end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.errors import ClosedError, PellucidError
from pellucid.schedule.caller import Caller, Work
from pellucid.schedule.driver import Driver
from pellucid.schedule.locks import Signal
from pellucid.schedule.request import Request
from pellucid.schedule.scheduler import Scheduler
from tests.schedule.interleave import World, every
from tests.schedule.test_interleavings import FakeEngine, FakeJob, FakeSequence, Reader, alone
from tests.schedule.test_memory import Pool, work


class Lock:
    """A lock during whose use something happens."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def acquire(self, blocking: bool = True) -> bool:
        found = self._lock.acquire(blocking)
        if blocking:
            self.taken()
        return found

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()

    def taken(self) -> None:
        raise NotImplementedError


@pytest.fixture
def scheduler() -> Scheduler:
    pool = Pool(1000)
    return Scheduler(lambda: pool, pool.sequence)


LOOKS: dict[str, Callable[[Scheduler], Any]] = {
    "stats": lambda s: s.stats(),
    "deadline": lambda s: s.next_deadline(),
    "clear": lambda s: s.clear_cache(),
    "kept": lambda s: s.kept(),
    "spare": lambda s: s.spare(),
    "room": lambda s: s.check_room(1, 1),
    "fail": lambda s: s.fail(ClosedError()),
}


@pytest.mark.parametrize("look", LOOKS)
def test_one_that_leaves_while_another_looks(scheduler: Scheduler, look: str) -> None:
    """Whoever holds the lock, for whatever: it removes what left meanwhile."""
    one, gone = work([1, 2]), threading.Event()
    scheduler.submit(one)

    class Leaving(Lock):
        def taken(self) -> None:
            scheduler.leave((one,), gone.set, free=True)
            assert not gone.is_set()

    scheduler._lock = Leaving()
    LOOKS[look](scheduler)
    assert gone.is_set() and not scheduler._waiting and not scheduler._left


def test_every_interleaving_of_a_caller_and_one_that_asks_for_statistics() -> None:
    n = 0
    for choose in every(3):
        world = World(choose)
        engine = FakeEngine(world)
        scheduler = Scheduler(partial(_same, engine), FakeSequence, lock=world.lock, event=world.event)
        reader = Reader(world, scheduler, [1, 2], 1)

        def ask(scheduler: Scheduler = scheduler) -> None:
            for _ in range(4):
                scheduler.stats()

        world.run([reader, ask])
        assert reader.got == reader.expected and not scheduler._left
        n += 1
    assert n > 100


def _same(engine: Any) -> Any:
    return engine


def test_what_arrives_while_the_driver_begins(scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread may have looked before, and wait."""
    woken: list[bool] = []

    def start(driver: Driver) -> None:
        scheduler.arrived()
        woken.append(driver.wake.is_set())

    monkeypatch.setattr(Driver, "start", start)
    scheduler.start_driver()
    assert woken == [True]


def test_a_driver_that_starts_while_its_scheduler_is_closed() -> None:
    """It was left running, since `close` did not know of it."""
    pool = Pool(1000)

    def open() -> Pool:
        closing.start()
        closing.join(0.2)  # returns at once where `close` does not wait
        return pool

    scheduler = Scheduler(open, pool.sequence)
    closing = threading.Thread(target=scheduler.close)
    scheduler.start_driver()
    closing.join(30)
    assert not closing.is_alive() and scheduler._permanent is None


def test_a_driver_that_has_the_lock_while_its_scheduler_is_closed(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ends in its last pass is not lost, and whoever closes waits until it has ended."""
    closing, last = threading.Thread(target=scheduler.close, daemon=True), []

    def next_deadline() -> None:
        if closing.ident is None:
            with scheduler._after, scheduler._lock:
                closing.start()
                while not scheduler._left:
                    time.sleep(0.001)

    def fail(error: Exception, owned: bool = False) -> None:
        closing.join(0.2)  # returns at once where `close` does not wait
        last.append((scheduler._permanent is not None, closing.is_alive()))

    monkeypatch.setattr(scheduler, "next_deadline", next_deadline)
    monkeypatch.setattr(scheduler, "fail", fail)
    scheduler.start_driver()
    while not last:
        time.sleep(0.001)
    closing.join(30)
    assert last == [(True, True)] and scheduler._permanent is None


def test_a_signal_handler_closes_while_a_driver_starts(scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Driver] = []

    def start(driver: Driver) -> None:
        scheduler.close()
        begin(driver)
        started.append(driver)

    begin = Driver.start
    monkeypatch.setattr(Driver, "start", start)
    starting = threading.Thread(target=scheduler.start_driver, daemon=True)
    starting.start()
    starting.join(30)
    assert not starting.is_alive() and scheduler._permanent is None
    assert started[0]._thread is not None
    started[0]._thread.join(30)
    assert not started[0]._thread.is_alive()


def test_a_driver_has_its_turn_beside_a_caller_that_always_asks_again(scheduler: Scheduler) -> None:
    """Which takes the free seat long before another thread has woken."""
    one, driver = work([1, 2], 3), Caller(None, 1 << 30)
    scheduler.submit(one)
    pool = scheduler._open()
    forward, taken = pool.forward, []

    def passing(*arguments: Any, **options: Any) -> None:
        taken.append(scheduler.take_seat(driver))
        forward(*arguments, **options)

    pool.forward = passing
    scheduler.wait(one.caller)
    assert taken == [False] and scheduler._driver is driver and driver.event.is_set()
    assert scheduler.take_seat(driver)
    one.caller.ready.clear()
    waiting = threading.Thread(target=scheduler.wait, args=(one.caller,))
    waiting.start()
    while not one.caller.ready:
        scheduler.one_pass(driver, None)
    waiting.join(30)
    assert not waiting.is_alive() and len(one.job.drawn) == 2
    scheduler.leave_seat(driver)
    assert scheduler._driver is None and not scheduler._turns and not scheduler._sleeping


def test_a_failure_that_comes_just_before_its_caller_waits(scheduler: Scheduler) -> None:
    one = work([1, 2])
    scheduler.submit(one)
    scheduler._driver = Caller(None, 1 << 30)  # another's pass, which is over

    class Failing(Lock):
        def taken(self) -> None:
            one.caller.failure = PellucidError("the pass failed")

    scheduler._lock = Failing()
    waiting = threading.Thread(target=scheduler.wait, args=(one.caller,), daemon=True)
    waiting.start()
    waiting.join(30)
    assert not waiting.is_alive()


def test_a_driver_whose_thread_ends_with_an_error(scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for its seat, and those that it delivered to hear of it."""
    one = Work(FakeJob([1, 2], 1), Caller(None, 1 << 30))
    told: list[Exception | None] = []

    class Owner:
        def deliver(self) -> None:
            told.append(one.caller.failure)

    owner = Owner()
    one.caller.owner = lambda: owner
    scheduler.submit(one)
    driver = scheduler._permanent = Driver(scheduler)

    def fail(*arguments: Any) -> bool:
        raise SystemError("a bug")

    monkeypatch.setattr(scheduler, "gives_way", fail)
    with pytest.raises(SystemError):
        driver.run()
    assert isinstance(told[-1], ClosedError) and not driver.alive()
    assert scheduler._driver is None
    other = work([3], 1)
    scheduler.submit(other)
    scheduler.wait(other.caller)
    assert [token for token, _, _ in other.job.drawn] == alone([3], 1)


def test_a_pass_of_a_driver_that_fails_ends_callers_without_owners_too(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = work([1, 2], 3)

    def gather(*arguments: object) -> None:
        if scheduler._waiting:
            raise SystemError("a bug")

    monkeypatch.setattr(scheduler, "_gather", gather)
    scheduler.start_driver()
    driver = scheduler._permanent
    assert driver is not None
    while scheduler._driver is not driver._caller:
        time.sleep(0.001)
    waiting = threading.Thread(target=scheduler.wait, args=(one.caller,), daemon=True)
    waiting.start()
    scheduler.submit(one)
    waiting.join(30)
    ended = not waiting.is_alive()
    driver.close()
    assert ended and isinstance(one.caller.failure, SystemError)


def test_an_owner_that_cannot_make_its_pieces(scheduler: Scheduler) -> None:
    """Ends with that error; the others get theirs."""
    failures: list[Exception | None] = []

    class Poor:
        def deliver(self) -> None:
            failures.append(caller.failure)
            if caller.failure is None:
                raise MemoryError

    class Rich:
        def deliver(self) -> None:
            failures.append(None)

    caller, other, poor, rich = Caller(None, 1), Caller(None, 1), Poor(), Rich()
    caller.owner, other.owner = lambda: poor, lambda: rich
    driver = Driver(scheduler)
    driver._news = [caller, other]
    driver._deliver()
    assert failures == [None, None] and driver._news == [caller]
    driver._deliver()
    assert isinstance(failures[-1], MemoryError) and not driver._news


def test_a_signal() -> None:
    one = Signal()
    assert not one.is_set()
    one.set()
    one.set()
    assert one.is_set()
    one.wait()
    assert not one.is_set()
    one.clear()
    one.wait(0.001)


def test_no_request_leaves_with_its_own_lock(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For who leaves ends others that have left, which takes their locks: two that did so would wait for each other."""
    requests: list[Request] = []
    note, sweep, left = Scheduler.note, Scheduler._sweep, []

    def noting(self: Scheduler, works: Any, then: Any = None, *, free: bool = False) -> None:
        left.append(then is not None)
        note(self, works, then, free=free)

    def sweeping(self: Scheduler) -> None:
        assert not any(one._lock._is_owned() for one in requests)  # type: ignore[attr-defined]
        sweep(self)

    monkeypatch.setattr(Scheduler, "note", noting)
    monkeypatch.setattr(Scheduler, "_sweep", sweeping)
    greedy: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "max_tokens": 6}
    with Model.load(smollm2, threads=2) as model:
        text = model.generate("Once upon a time", **greedy).text
        for options in ({}, {"stop": [text[-1]]}, {"n": 3}):
            requests.append(model.submit("Once upon a time", **greedy, **options))
            requests[-1].result()
        requests.append(model.submit("Once upon a time", **greedy))
        requests[-1].cancel()
        requests[-1].result()
    assert True in left and False in left
