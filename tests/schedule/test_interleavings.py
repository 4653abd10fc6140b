"""Who drives: every interleaving of two callers over an engine that only counts, and random ones of more."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from pellucid import _engine
from pellucid.errors import NumericsError
from pellucid.schedule import speculation
from pellucid.schedule.caller import Caller, Work
from pellucid.schedule.draft import Drafts
from pellucid.schedule.driver import Driver
from pellucid.schedule.scheduler import Scheduler
from tests.schedule.interleave import Deadlock, World, every, some


class Interrupt(BaseException):
    """As KeyboardInterrupt, which a test must not raise."""


class FakeSequence:
    engine = SimpleNamespace(recurs=False)

    def __init__(self) -> None:
        self.ids: list[int] = []

    def rows(self, rows: int) -> int:
        return rows

    @property
    def length(self) -> int:
        return len(self.ids)

    def rewind(self, n: int) -> int:
        del self.ids[n:]
        return n


class FakeJob:
    """Draws a number of the whole sequence, `most` times."""

    sampler = bound = options = None
    root: Any = None
    cached = computed = opening = 0
    ends: frozenset[int] = frozenset()

    def __init__(self, prompt: list[int], most: int) -> None:
        self.sequence: Any = None
        self.tokens = list(prompt)
        self.begun, self.most = len(prompt), most
        self.drawn: list[Any] = []
        self.taken = 0

    def advance(self) -> bool:
        self.tokens += [one[0] for one in self.drawn[len(self.tokens) - self.begun :]]
        return len(self.drawn) < self.most

    def rows(self) -> int:
        return len(self.tokens) - self.sequence.length

    def passes(self, most: int) -> int:
        return min(most, self.most - len(self.drawn))

    def fresh(self, rows: int) -> bool:
        return rows == 1

    def soon(self) -> int:
        return self.begun + self.most - 1

    def before_pass(self) -> None:
        pass

    def verifiable(self, ids: list[int]) -> list[int]:
        return ids[: self.most - (len(self.tokens) - self.begun) - 1]

    def guesses(self, most: int) -> Any:
        raise AssertionError("nothing binds it")

    def guess(self, ids: list[int]) -> None:
        pass

    def verified(self, guesses: int, right: int) -> None:
        pass

    def free(self) -> None:
        self.sequence = None


class FakeEngine:
    """A pass at a time. before: called in each pass, with its number; after: when its sequences have grown."""

    max_rows = 8

    def __init__(
        self,
        world: World,
        before: Callable[[int], None] = lambda number: None,
        after: Callable[[int], None] = lambda number: None,
    ) -> None:
        self.world, self.before, self.after = world, before, after
        self.passes, self.inside = 0, False

    def forward(
        self, parts: Any, *, samplers: Any, cancel: Any, failed: Any, found: list[Any], meanwhile: Any = None
    ) -> None:
        assert not self.inside, "two passes at once"
        assert len({id(sequence) for sequence, _, _ in parts}) == len(parts)
        assert sum(len(ids) for _, ids, _ in parts) <= self.max_rows
        self.inside = True
        try:
            self.passes += 1
            self.world.point()
            if meanwhile is not None:
                meanwhile()
                self.world.point()
            self.before(self.passes)
            if cancel is not None and cancel():
                raise _engine.Cancelled
            results: list[Any] = []
            for i, (sequence, ids, first) in enumerate(parts):
                if -1 in ids:
                    failed[i] = NumericsError("NaN")
                    results += [None] * (len(ids) - first)
                    continue
                length = sequence.length
                sequence.ids += ids
                results += [(draw(sequence.ids[: length + n]), None, []) for n in range(first + 1, len(ids) + 1)]
            assert len(results) == len(samplers)
            self.after(self.passes)
            found += results
        finally:
            self.inside = False


def draw(ids: list[int]) -> int:
    total = 7
    for id in ids:
        total = (total * 31 + id) % 1009
    return total


def alone(prompt: list[int], most: int) -> list[int]:
    ids = list(prompt)
    for _ in range(most):
        ids.append(draw(ids))
    return ids[len(prompt) :]


class Reader:
    """A caller of one request."""

    def __init__(
        self, world: World, scheduler: Scheduler, prompt: list[int], most: int, cancel: Callable[[], bool] | None = None
    ) -> None:
        self.scheduler, self.job = scheduler, FakeJob(prompt, most)
        self.expected = alone(prompt, most)
        self.caller = Caller(cancel, 1 << 30, world.event)
        self.work = Work(self.job, self.caller, ahead=2)
        self.got: list[int] = []
        self.error: BaseException | None = None

    def __call__(self) -> None:
        scheduler, job, caller = self.scheduler, self.job, self.caller
        try:
            scheduler.submit(self.work)
            while len(self.got) < job.most:
                if not caller.ready and not (job.drawn and scheduler.step(self.work)):
                    scheduler.wait(caller)
                if caller.cancelled or caller.failure is not None:
                    self.error = caller.failure
                    break
                assert caller.ready, "returned without a result"
                caller.ready.popleft()
                if job.taken < len(job.drawn):
                    self.got.append(job.drawn[job.taken][0])
                    job.taken += 1
                elif self.work.failure is not None:
                    self.error = self.work.failure
                    break
        except (Interrupt, Deadlock) as error:
            self.error = error
            if isinstance(error, Deadlock):
                raise
        finally:
            scheduler.leave_and_wait([self.work])
            assert all(self.work is not one for one, _ in (scheduler._batch.entries if scheduler._batch else ()))


class Guessing(Reader):
    """With guesses, of which some are wrong."""

    def __init__(self, world: World, scheduler: Scheduler, prompt: list[int], most: int) -> None:
        super().__init__(world, scheduler, prompt, most)
        wrong = [id if i % 4 != 2 else -2 for i, id in enumerate(self.expected)]
        self.work = Work(self.job, self.caller, ahead=9, drafts=Drafts(len(prompt), wrong))


def _same(engine: FakeEngine) -> FakeEngine:
    return engine


def try_all(
    choosers: Any,
    make: Callable[[World, Scheduler], list[Reader]],
    before: Callable[[int], None] = lambda number: None,
    after: Callable[[int], None] = lambda number: None,
) -> int:
    """Runs readers under each chooser; checks their results -> how many interleavings there were."""
    n = 0
    for choose in choosers:
        world = World(choose)
        engine = FakeEngine(world, before, after)
        scheduler = Scheduler(partial(_same, engine), FakeSequence, lock=world.lock, event=world.event)
        readers = make(world, scheduler)
        world.run(list(readers))
        for reader in readers:
            if reader.error is None and not reader.caller.cancelled:
                assert reader.got == reader.expected
            else:
                assert reader.got == reader.expected[: len(reader.got)]
        assert scheduler._driver is None and scheduler._batch is None and not scheduler._left
        assert not scheduler._running and not scheduler._waiting and not scheduler._sleeping
        n += 1
    return n


def test_every_interleaving_of_two_callers() -> None:
    n = try_all(every(), lambda w, s: [Reader(w, s, [1, 2], 1), Reader(w, s, [3], 1)])
    assert n > 1000


@pytest.mark.parametrize("switches", [4])
def test_two_callers_of_several_tokens(switches: int) -> None:
    n = try_all(every(switches), lambda w, s: [Reader(w, s, list(range(10)), 3), Reader(w, s, [3], 2)])
    assert n > 1000


def test_a_caller_that_is_interrupted_in_a_pass() -> None:
    """Its pass is lost, and the other caller's results are right."""
    interrupted: list[int] = []

    def before(number: int) -> None:
        if number == 1:
            raise Interrupt

    def make(world: World, scheduler: Scheduler) -> list[Reader]:
        readers = [Reader(world, scheduler, [1, 2], 2), Reader(world, scheduler, [3], 2)]
        interrupted.append(0)
        return readers

    assert try_all(every(4), make, before) == len(interrupted) > 100


def test_a_caller_that_cancels() -> None:
    def make(world: World, scheduler: Scheduler) -> list[Reader]:
        asked: list[int] = []

        def cancel() -> bool:
            asked.append(1)
            return len(asked) > 2

        return [Reader(world, scheduler, [1, 2], 4, cancel), Reader(world, scheduler, [3], 2)]

    assert try_all(every(4), make) > 100


class Raising(Reader):
    """Its function `cancel` fails, in its own thread, wherever it waits or drives."""

    def __call__(self) -> None:
        try:
            super().__call__()
        except ZeroDivisionError as error:
            self.error = error


@pytest.mark.parametrize("when", [1, 2, 3])
def test_a_function_that_fails_harms_no_other_caller(when: int) -> None:
    """Though it was asked in a pass that both share."""
    both: list[list[Reader]] = []

    def make(world: World, scheduler: Scheduler) -> list[Reader]:
        asked: list[int] = []

        def cancel() -> bool:
            asked.append(1)
            return len(asked) >= when and bool(1 // 0)

        both.append([Raising(world, scheduler, [1, 2], 3, cancel), Reader(world, scheduler, [3], 2)])
        return both[-1]

    assert try_all(every(4), make) > 100
    for wrong, right in both:
        assert isinstance(wrong.error, ZeroDivisionError) or wrong.got == wrong.expected
        assert right.error is None and right.got == right.expected
    assert sum(isinstance(wrong.error, ZeroDivisionError) for wrong, _ in both) > len(both) // 2


def test_one_that_fails_beside_one_that_does_not() -> None:
    def make(world: World, scheduler: Scheduler) -> list[Reader]:
        return [Reader(world, scheduler, [1, -1], 2), Reader(world, scheduler, [3], 2)]

    assert try_all(every(4), make) > 100


def test_callers_with_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speculation, "GAIN", -1.0)
    schedulers: list[Scheduler] = []

    def make(world: World, scheduler: Scheduler) -> list[Reader]:
        schedulers.append(scheduler)
        return [Guessing(world, scheduler, [1, 2], 9), Guessing(world, scheduler, [3], 6)]

    assert try_all(every(2), make) > 100
    made = [one._speculation for one in schedulers]
    assert all(0 < one.accepted < one.drafted for one in made)
    try_all(some(60), lambda w, s: [Guessing(w, s, [i] * (1 + 7 * (i % 3)), 3 + 2 * i) for i in range(4)])


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", [2, 3, 4])
def test_a_pass_of_guesses_that_is_interrupted(monkeypatch: pytest.MonkeyPatch, when: str, number: int) -> None:
    """Also when the sequences have grown by guesses that nobody has compared with what was drawn."""
    monkeypatch.setattr(speculation, "GAIN", -1.0)

    def interrupt(n: int) -> None:
        if n == number:
            raise Interrupt

    def make(world: World, scheduler: Scheduler) -> list[Reader]:
        return [Guessing(world, scheduler, [1, 2], 9), Guessing(world, scheduler, [3], 7)]

    hooks: dict[str, Callable[[int], None]] = {when: interrupt}
    assert try_all(every(2), make, **hooks) > 20


class Owned(Reader):
    """A caller of one request whose results a permanent driver takes. Its thread stands for an event loop."""

    def __init__(self, world: World, scheduler: Scheduler, prompt: list[int], most: int) -> None:
        super().__init__(world, scheduler, prompt, most)
        self.news = world.event()
        self.caller.owner = lambda: self

    def deliver(self) -> None:
        while self.caller.ready:
            self.caller.ready.popleft()
            if self.job.taken < len(self.job.drawn):
                self.got.append(self.job.drawn[self.job.taken][0])
                self.job.taken += 1
                self.work.unread += 1
        self.news.set()

    def __call__(self) -> None:
        self.scheduler.submit(self.work)
        read = 0
        while read < self.job.most:
            self.news.wait()
            self.news.clear()
            read += self.work.unread
            self.work.unread = 0
            self.scheduler.arrived()
        self.scheduler.leave_and_wait([self.work])


def try_driven(choosers: Any, make: Callable[[World, Scheduler], list[Reader]]) -> int:
    """As `try_all`, beside a permanent driver that begins and ends at any time between."""
    n = 0
    for choose in choosers:
        world = World(choose)
        engine = FakeEngine(world)
        scheduler = Scheduler(
            partial(_same, engine), FakeSequence, lock=world.lock, event=world.event, signal=world.signal
        )
        readers = make(world, scheduler)
        driver = scheduler._permanent = Driver(scheduler)
        left = list(readers)

        def run(reader: Reader, left: list[Reader] = left, driver: Driver = driver) -> None:
            reader()
            left.remove(reader)
            if not left:
                driver.close()

        world.run([driver.run, *(partial(run, reader) for reader in readers)])
        for reader in readers:
            assert reader.error is None and reader.got == reader.expected
        assert scheduler._driver is None and scheduler._batch is None and not scheduler._left
        assert not scheduler._running and not scheduler._waiting and not scheduler._sleeping
        n += 1
    return n


def test_every_interleaving_of_two_that_a_driver_delivers_to() -> None:
    n = try_driven(every(2), lambda w, s: [Owned(w, s, [1, 2], 2), Owned(w, s, [3], 1)])
    assert n > 300


def test_every_interleaving_of_a_thread_and_one_that_a_driver_delivers_to() -> None:
    n = try_driven(every(2), lambda w, s: [Reader(w, s, [1, 2], 2), Owned(w, s, [3], 1)])
    assert n > 300


def test_random_interleavings_beside_a_driver() -> None:
    def make(world: World, scheduler: Scheduler) -> list[Reader]:
        return [(Owned if i % 2 else Reader)(world, scheduler, [i] * (1 + 7 * (i % 3)), 1 + 2 * i) for i in range(4)]

    try_driven(some(200), make)


@pytest.mark.parametrize("callers", [3, 5])
def test_random_interleavings(callers: int) -> None:
    try_all(some(150), lambda w, s: [Reader(w, s, [i] * (1 + 7 * (i % 3)), 1 + i % 4) for i in range(callers)])


def test_a_deadlock_is_seen() -> None:
    def run(choose: Callable[[int], int]) -> None:
        world = World(choose)
        a, b = world.lock(), world.lock()

        def work(first: Any, second: Any) -> None:
            with first, second:
                pass

        world.run([lambda: work(a, b), lambda: work(b, a)])

    with pytest.raises(Deadlock):
        for choose in every():
            run(choose)
