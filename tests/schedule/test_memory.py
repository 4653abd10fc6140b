"""Where memory is short, neighbours delay a request and never make it fail."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.errors import OutOfMemoryError
from pellucid.schedule import run
from pellucid.schedule.caller import Caller, Shared, Work
from pellucid.schedule.memory import Freed
from pellucid.schedule.scheduler import Scheduler
from pellucid.schedule.turns import Turns
from tests.engine import models
from tests.schedule.test_interleavings import FakeJob, FakeSequence, alone, draw


class Pool:
    """An engine with room for so many tokens of all its sequences. late: called when a pass has failed for room, and
    before the scheduler hears of it."""

    max_rows = 64

    def __init__(self, room: int) -> None:
        self.room = room
        self.sequences: weakref.WeakSet[FakeSequence] = weakref.WeakSet()
        self.late: Callable[[], None] = lambda: None
        self.failed = 0

    def sequence(self) -> FakeSequence:
        made = Sequence(self)
        self.sequences.add(made)
        return made

    def forward(self, parts: Any, *, found: list[Any], **options: Any) -> None:
        if sum(one.length for one in self.sequences) + sum(len(ids) for _, ids, _ in parts) > self.room:
            self.failed += 1
            self.late()
            raise OutOfMemoryError("the cache is full")
        for sequence, ids, first in parts:
            sequence.ids += ids
            if first < len(ids):
                found.append((draw(sequence.ids), None, []))


class Sequence(FakeSequence):
    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.pool = pool

    def fork(self) -> FakeSequence:
        made = self.pool.sequence()
        made.ids = list(self.ids)
        return made


class Job(FakeJob):
    def free(self) -> None:
        if self.sequence is not None:
            self.sequence.rewind(0)
        super().free()


def work(prompt: list[int], most: int = 1, **options: Any) -> Work:
    return Work(Job(prompt, most), Caller(None, 1 << 30), **options)


def start(room: int) -> tuple[Pool, Scheduler]:
    pool = Pool(room)
    return pool, Scheduler(lambda: pool, pool.sequence)


def read(scheduler: Scheduler, one: Work) -> list[int]:
    """The tokens of a request."""
    job = one.job
    assert isinstance(job, Job)
    while len(job.drawn) < job.most:
        one.caller.ready.clear()
        scheduler.wait(one.caller)
        if one.failure is not None:
            raise one.failure
    return [token for token, _, _ in job.drawn]


def finished(scheduler: Scheduler) -> Work:
    """A request that is done and holds 6 tokens until its reader leaves."""
    one = work([1] * 6)
    scheduler.submit(one)
    read(scheduler, one)
    return one


def test_memory_that_is_freed_while_a_pass_fails() -> None:
    """The neighbour leaves between the pass and the look for somebody to give up."""
    pool, scheduler = start(10)
    neighbour, one = finished(scheduler), work([2] * 8)
    scheduler.submit(one)
    pool.late = lambda: scheduler.leave((neighbour,), free=True)
    assert read(scheduler, one) == alone([2] * 8, 1)
    assert pool.failed == 1 and scheduler.preemptions == 0


def test_memory_of_one_that_left_and_whose_reader_still_works_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a stop string is being settled."""
    pool, scheduler = start(10)
    neighbour, one = finished(scheduler), work([2] * 8)
    scheduler.leave((neighbour,))
    assert neighbour.job.sequence.length == 6
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            scheduler.leave((neighbour,), free=True)

    monkeypatch.setattr(time, "sleep", sleep)
    scheduler.submit(one)
    assert read(scheduler, one) == alone([2] * 8, 1)
    assert len(slept) == 3


def test_memory_of_one_whose_deadline_passed_and_that_nobody_reads() -> None:
    pool, scheduler = start(10)
    neighbour, one = work([1] * 6, 3, deadline=time.monotonic() + 3600), work([2] * 8)
    scheduler.submit(neighbour)
    scheduler.wait(neighbour.caller)
    neighbour.deadline = time.monotonic() - 1
    scheduler.submit(one)
    assert read(scheduler, one) == alone([2] * 8, 1)
    assert neighbour.expired


def test_a_prompt_that_requests_share_is_given_up() -> None:
    pool, scheduler = start(10)
    shared = Shared(5)
    shared.sequence = pool.sequence()
    shared.sequence.ids = [1] * 5
    scheduler._holders.shared.add(shared)
    one = work([2] * 8)
    scheduler.submit(one)
    assert read(scheduler, one) == alone([2] * 8, 1)
    assert shared.sequence is None and shared.by is None and pool.failed == 1


def test_one_that_can_never_fit_fails_at_once() -> None:
    pool, scheduler = start(10)
    one = work([2] * 11)
    scheduler.submit(one)
    with pytest.raises(OutOfMemoryError):
        read(scheduler, one)
    assert pool.failed == 1


def test_one_of_a_call_that_can_never_fit_fails_alone() -> None:
    pool, scheduler = start(10)
    good, bad = work([1] * 3), work([2] * 11)
    bad.caller = good.caller
    for one in (bad, good):
        scheduler.submit(one)
    for _ in range(2):
        scheduler.wait(good.caller)
        assert good.caller.ready.popleft() in (good, bad)
    assert good.caller.failure is None and isinstance(bad.failure, OutOfMemoryError)
    assert [token for token, _, _ in good.job.drawn] == alone([1] * 3, 1)


def test_one_that_can_never_fit_fails_when_its_neighbours_were_given_up() -> None:
    pool, scheduler = start(10)
    neighbour, one = work([1] * 6, 2), work([2] * 11, priority=-1)
    scheduler.submit(neighbour)
    scheduler.wait(neighbour.caller)
    scheduler.submit(one)
    with pytest.raises(OutOfMemoryError):
        read(scheduler, one)
    scheduler.leave((one,), free=True)
    assert neighbour.caller.failure is None and read(scheduler, neighbour) == alone([1] * 6, 2)


@pytest.mark.parametrize("way", ["expires", "lacks memory"])
def test_one_that_ends_before_its_first_pass_with_results(way: str) -> None:
    """Those that were decided without a draw: its caller hears of each, and of the end."""
    pool, scheduler = start(10)
    one = work([1, 2], 9, deadline=time.monotonic() - 1 if way == "expires" else None)
    one.job.drawn = [(5, None, []), (6, None, [])]
    if way == "lacks memory":

        def fail() -> FakeSequence:
            raise OutOfMemoryError("no memory for a sequence")

        scheduler._new_sequence = fail
    scheduler.submit(one)
    scheduler.wait(one.caller)
    assert list(one.caller.ready) == [one] * 3 and one.told == 2
    assert one.expired if way == "expires" else isinstance(one.failure, OutOfMemoryError)


@pytest.mark.parametrize("way", ["step", "wait"])
def test_one_that_leaves_during_its_pass(way: str) -> None:
    """Its sequence is dropped when the pass is over."""
    pool, scheduler = start(100)
    one = work([1, 2], 9)
    one.caller.owner = lambda: None  # a Request, which any thread may cancel
    scheduler.submit(one)
    scheduler.wait(one.caller)
    one.caller.ready.clear()
    forward, lengths = pool.forward, []

    def passing(parts: Any, **options: Any) -> None:
        scheduler.leave((one,), free=True)
        lengths.append(parts[0][0].length)
        forward(parts, **options)

    pool.forward = passing  # type: ignore[method-assign]
    scheduler.step(one) if way == "step" else scheduler.wait(one.caller)
    assert lengths == [2] and one.job.sequence is None and not one.holds
    assert not scheduler._running and not scheduler._left and scheduler._stepping is None


def test_a_failure_keeps_nothing_of_who_ran_the_pass() -> None:
    """Such as a request, which is cancelled once nobody refers to it any more."""

    class Local:
        pass

    def drive() -> weakref.ref[Local]:
        local = Local()
        scheduler.wait(good.caller)
        good.caller.ready.clear()
        return weakref.ref(local)

    pool, scheduler = start(10)
    bad, good = work([2] * 11), work([1] * 3, 3)
    for one in (bad, good):
        scheduler.submit(one)
    gc.disable()
    try:
        assert [drive()() for _ in range(2)] == [None, None]
    finally:
        gc.enable()
    assert isinstance(bad.failure, OutOfMemoryError)


class Waiting:
    """A call."""

    def __init__(self) -> None:
        self.caller = Caller(None, 1)


def test_a_call_ends_just_after_its_memory_kept_a_request_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look for a pass, which finds none, and what is done about that."""
    pool, scheduler = start(10)
    gather, found = Scheduler._gather, []

    def gather_and_end(self: Scheduler, *given: Any) -> Any:
        found.append(gather(self, *given))
        self._short_of = False
        return found[-1]

    monkeypatch.setattr(Scheduler, "_gather", gather_and_end)
    call: Any = Waiting()
    scheduler._short_of = True
    scheduler._holders.begin(call)
    one = work([2] * 8)
    scheduler.submit(one)
    assert read(scheduler, one) == alone([2] * 8, 1)
    assert found[0] is None and len(found) == 2


class Limit:
    """A limit of tokens, as Room is one of bytes."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.limit = pool, pool.room

    def need(self, tokens: int) -> int:
        return tokens

    def beside(self, tokens: int, shared: int) -> int:
        return tokens - shared

    def free(self) -> int:
        return self.pool.room - sum(one.length for one in self.pool.sequences)


def test_one_begins_when_it_fits_beside_what_others_will_need() -> None:
    """So that nothing is computed twice; and no later one passes it."""
    pool = Pool(20)
    scheduler = Scheduler(lambda: pool, pool.sequence, room=Limit(pool))
    works = [work([1] * 6, 6), work([2] * 8, 4), work([3], 1)]
    for one in works:
        scheduler.submit(one)
    read(scheduler, works[0])
    assert works[1].started is None and works[2].started is None and pool.failed == 0
    scheduler.leave(works[:1], free=True)
    assert read(scheduler, works[1]) == alone([2] * 8, 4) and read(scheduler, works[2]) == alone([3], 1)
    assert pool.failed == scheduler.preemptions == 0


def test_one_that_was_given_up_often_keeps_its_place() -> None:
    pool, scheduler = start(20)
    works = [work([i] * 6, 4) for i in (1, 2, 3)]
    works[2].preempted = 3
    for one in works:
        scheduler.submit(one)
    for one, i in zip(works, (1, 2, 3), strict=True):
        assert read(scheduler, one) == alone([i] * 6, 4)
        scheduler.leave((one,), free=True)
    assert works[1].preempted > 0 and works[2].preempted == 3 and works[0].preempted == 0


# ---- a call's own function ------------------------------------------------------------------------------------------

IDS = [1 + i % 40 for i in range(200)]
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "max_tokens": 12}


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Model]:
    with Model.load(models.write(tmp_path, "llama_gqa"), threads=1) as loaded:
        yield loaded


class Asking:
    """An engine whose passes ask whether to end when they are over."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def forward(self, parts: Any, *, cancel: Callable[[], bool], **options: Any) -> Any:
        found = self._engine.forward(parts, **options)
        cancel()
        return found


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("own", [False, True])
def test_a_cancel_function_that_lacks_memory(model: Model, at: int, own: bool) -> None:
    """Its error was taken to be the pass's, which was tried again, with a sequence that had its rows. own: the function
    is given to the pass, too."""
    expected = model.generate(IDS, **GREEDY)
    asked = 0

    def cancel() -> bool:
        nonlocal asked
        asked += 1
        if asked == at:
            raise OutOfMemoryError("the function's")
        return False

    request: Any = model.submit(IDS, **GREEDY)
    next(request)  # it has memory, which could be given up
    with pytest.raises(OutOfMemoryError, match="the function's"), Turns(model.core, "prompt", (), cancel) as turns:
        sequence, engine = turns.sequence(), turns.engine
        turns.engine = Asking(engine)  # type: ignore[assignment]
        turns.forward([(sequence, IDS[:3], 3)], **({"cancel": cancel} if own else {}))
    assert asked == at and model.stats().preemptions == 0
    assert request.result().ids == expected.ids


def test_a_cancel_function_that_lacks_memory_while_its_call_waits(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room was made for it, by a thread that did not have the seat, at the cost of what another's pass used."""
    asked, scheduler = 0, run.of(model.core)

    def cancel() -> bool:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise OutOfMemoryError("the function's")
        return False

    def make_room(call: Any) -> Freed:
        raise AssertionError

    monkeypatch.setattr(scheduler, "make_room", make_room)
    driver = scheduler._driver = Caller(None, 1)
    with pytest.raises(OutOfMemoryError, match="the function's"), Turns(model.core, "prompt", (), cancel) as turns:
        turns.forward([(turns.sequence(), IDS[:3], 3)])
    assert scheduler._driver is driver and not scheduler._turns
    scheduler.leave_seat(driver)
