"""What calls leave behind that end at a bad moment: in the pass of another thread, in a collection, in an interrupt."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from pellucid import Model
from pellucid.core import Core
from pellucid.errors import ClosedError, ContextBusyError
from pellucid.schedule.caller import Caller
from pellucid.schedule.departures import Leaving
from pellucid.schedule.driver import Driver
from pellucid.schedule.run import of
from pellucid.schedule.scheduler import Scheduler
from tests.engine import models

OPTIONS: dict[str, Any] = {"max_tokens": 40, "ignore_eos": True, "seed": 1}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.write(tmp_path_factory.mktemp("left"), "llama_gqa")


@pytest.fixture
def model(path: Path) -> Iterator[Model]:
    with Model.load(path, threads=1) as loaded:
        yield loaded


@pytest.fixture
def uncollected() -> Iterator[None]:
    """What goes by itself, not in a collection."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def goes(core: weakref.ref[Core]) -> bool:
    """Whether nothing keeps it, but for a driver's turn that has begun."""
    end = time.monotonic() + 10
    while core() is not None and time.monotonic() < end:
        time.sleep(0.01)
    return core() is None


READERS: dict[str, Callable[[Model], Any]] = {
    "stream": lambda m: m.stream([1, 2, 3], **OPTIONS),
    "streams": lambda m: m.stream([[1, 2, 3], [4]], **OPTIONS),
    "request": lambda m: m.submit([1, 2, 3], **OPTIONS),
    "copies": lambda m: m.submit([1, 2, 3], n=2, **OPTIONS),
    "context": lambda m: m.context().stream([1, 2, 3], **OPTIONS),
}


def ends_beside_another(path: Path, read: Callable[[Model], Any], cancels: bool) -> Any:
    """What reads ends while another thread computes its next tokens -> the model, which nobody uses any more."""
    model = Model.load(path, threads=1)
    reader = read(model)
    next(reader)
    scheduler, other = of(model.core), Caller(None, 1 << 30)
    assert scheduler.take_seat(other)
    batch = scheduler._gather(other)
    assert batch is not None
    scheduler._run(batch, other)
    if cancels:
        reader.cancel()
        reader.result()
    del reader
    scheduler._settle(batch)
    scheduler.leave_seat(other)
    stats = model.stats()
    assert stats.running == stats.waiting == stats.cache_bytes_used == 0
    return weakref.ref(model.core)


@pytest.mark.parametrize(
    ("read", "cancels"), [*((name, False) for name in READERS), ("request", True), ("copies", True)]
)
def test_ended_in_the_pass_of_another(path: Path, read: str, cancels: bool, uncollected: None) -> None:
    """Whose results come after its reader has gone: nothing of it keeps the model alive."""
    assert goes(ends_beside_another(path, READERS[read], cancels))


def test_nothing_is_noted_for_a_driver_that_does_not_exist(model: Model) -> None:
    for n in (1, 2):
        for _ in range(5):
            model.submit([1, 2, 3], **{**OPTIONS, "max_tokens": 2}, n=n).result()
    assert len(of(model.core)._news) == 0


CLOSED: dict[str, Callable[[Model, Any], Any]] = {
    "generate": lambda m, close: m.generate([1, 2, 3], cancel=close, **OPTIONS),
    "copies": lambda m, close: m.generate([1, 2, 3], n=2, cancel=close, **OPTIONS),
    "submit": lambda m, close: m.submit([1, 2, 3], cancel=close, **OPTIONS).result(),
    "map": lambda m, close: [*m.map(close.items(), at_once=1, **OPTIONS)],
    "score_map": lambda m, close: [*m.score_map(close.items(), at_once=1)],
}


class Close:
    """Closes a model after some passes or items."""

    def __init__(self, model: Model) -> None:
        self.model, self.asked = weakref.proxy(model), 0

    def __call__(self) -> bool:
        self.asked += 1
        if self.asked == 4:
            self.model.close()
        return False

    def items(self) -> Iterator[list[int]]:
        yield [1, 2, 3]
        self.model.close()
        yield [1, 2, 3]


@pytest.mark.parametrize("name", CLOSED)
def test_closed_while_it_computes(path: Path, name: str, uncollected: None) -> None:
    """The error keeps nothing of the model."""
    model = Model.load(path, threads=1)
    with pytest.raises(ClosedError):
        CLOSED[name](model, Close(model))
    core = weakref.ref(model.core)
    del model
    assert goes(core)


class Raises:
    """Raises an error after some passes."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error, self.asked = error, 0

    def __call__(self) -> bool:
        self.asked += 1
        if self.asked == 4:
            raise self.error
        return False


USERS: dict[str, Callable[[Model, Raises], Any]] = {
    "generate": lambda m, raises: m.generate([1, 2, 3], cancel=raises, **OPTIONS),
    "several": lambda m, raises: m.generate([[1, 2, 3], [4]], cancel=raises, **OPTIONS),
    "stream": lambda m, raises: [*m.stream([1, 2, 3], cancel=raises, **OPTIONS)],
    "streams": lambda m, raises: [*m.stream([[1, 2, 3], [4]], cancel=raises, **OPTIONS)],
    "result": lambda m, raises: m.stream([1, 2, 3], cancel=raises, **OPTIONS).result(),
    "submit": lambda m, raises: m.submit([1, 2, 3], cancel=raises, **OPTIONS).result(),
    "map": lambda m, raises: [*m.map([[1, 2, 3], [4]], cancel=raises, **OPTIONS)],
    "context": lambda m, raises: m.context().generate([1, 2, 3], cancel=raises, **OPTIONS),
}


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, ClosedError, StopIteration])
@pytest.mark.parametrize("name", USERS)
def test_what_a_users_function_raises(path: Path, name: str, error: type[BaseException], uncollected: None) -> None:
    """Its traceback keeps neither the model nor pages, once nobody refers to it."""
    model = Model.load(path, threads=1)
    with pytest.raises(RuntimeError if error is StopIteration and name != "submit" else error):
        USERS[name](model, Raises(error))
    assert model.stats().cache_bytes_used == 0
    core = weakref.ref(model.core)
    del model
    assert goes(core)


def test_a_closed_context_that_is_in_use(model: Model) -> None:
    context = model.context()
    stream = context.stream([1, 2, 3], **OPTIONS)
    next(stream)
    with pytest.raises(ContextBusyError):
        context.append([1])
    context.close()
    uses: list[Callable[[], Any]] = [lambda: context.append([1]), lambda: context.generate([1]), context.logits]
    for use in (*uses, context.fork):
        with pytest.raises(ClosedError):
            use()


def test_freed_while_it_is_settled(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another thread, between two steps."""
    stream = model.stream([1, 2, 3], **OPTIONS)
    next(stream)
    (work,) = of(model.core)._running
    job: Any = work.job

    def queue() -> Any:
        job.free()
        return SimpleQueue()

    with monkeypatch.context() as patch:
        patch.setattr("pellucid.generation.SimpleQueue", queue)
        job.settle()
    stream.close()


class Growing(deque[Leaving]):
    """To which something is added while it is copied, as by a finalizer in a collection that the copy sets off."""

    grows = True

    def __iter__(self) -> Iterator[Leaving]:
        for one in super().__iter__():
            if self.grows:
                self.grows = False
                self.append(Leaving([], None, False, False))
            yield one


def test_one_that_leaves_while_those_that_leave_are_copied(model: Model) -> None:
    model.generate([1], max_tokens=1)
    scheduler = of(model.core)
    scheduler._left = Growing()
    told: list[bool] = []
    scheduler.leave((), lambda: told.append(True))
    assert told == [True] and not scheduler._left


def test_a_view_that_is_made_while_its_edit_is_closed(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is closed with it."""
    edit = model.edit()
    edit.logits([1])
    edit.skip(0, "mlp")
    view, made = Core.view, []

    def late(core: Core, *plan: Any) -> Core:
        made.append(view(core, *plan))
        edit.close()
        return made[0]

    monkeypatch.setattr(Core, "view", late)
    with pytest.raises(ClosedError):
        _ = edit.model
    with pytest.raises(ClosedError):
        made[0].open()


def test_one_that_expires_while_the_driver_is_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever awaits it is told."""
    with Model.load(path, threads=1, sequences=1) as model:
        model.drive()
        scheduler = of(model.core)
        close, run = Driver.close, scheduler._run

        def late(driver: Driver) -> None:
            time.sleep(0.5)
            close(driver)

        def slowly(*batch: Any) -> None:
            time.sleep(0.05)
            run(*batch)

        monkeypatch.setattr(scheduler, "_run", slowly)

        async def read() -> str:
            first = model.submit([1, 2, 3], **{**OPTIONS, "max_tokens": 60})
            await first.__anext__()  # it has the only place
            waits = asyncio.ensure_future(asyncio.wait_for(model.submit([4], timeout=0.5, **OPTIONS)._aresult(), 20))
            await asyncio.sleep(0.35)
            monkeypatch.setattr(Driver, "close", late)
            closing = threading.Thread(target=scheduler.close)
            closing.start()
            done: Any = await waits
            closing.join()
            return str(done.finish_reason)

        assert asyncio.run(read()) == "cancelled"


def test_an_error_that_the_caller_handles(model: Model) -> None:
    """Keeps its traceback, whatever fails meanwhile."""
    try:
        raise KeyError
    except KeyError as mine:
        with pytest.raises(ClosedError):
            model.generate([1, 2, 3], cancel=Close(model), **OPTIONS)
        assert mine.__traceback__ is not None


# ---- interrupts ---------------------------------------------------------------------------------------------------


class Interrupted(KeyboardInterrupt):
    pass


def once(function: Callable[..., Any], when: Callable[..., bool] = lambda *_: True) -> Any:
    """The function, that is interrupted at its beginning, once."""
    left = [True]

    def begin(*args: Any, **more: Any) -> Any:
        if left and when(*args):
            left.clear()
            raise Interrupted
        return function(*args, **more)

    return begin


def ends(call: Callable[[], Any]) -> bool:
    """Whether it does, in a thread."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(20)
    return not thread.is_alive()


def test_before_a_caller_that_slept_leaves_its_seat(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Later calls do not wait for it."""
    scheduler = of(model.core)
    over, hit = threading.Event(), threading.Event()
    victim: list[threading.Thread] = []

    def when(_: Scheduler, caller: Any, *more: Any) -> bool:
        found = threading.current_thread() in victim and caller in scheduler._sleeping
        if found:
            hit.set()
        return found

    monkeypatch.setattr(Scheduler, "leave_seat", once(Scheduler.leave_seat, when))

    def waits() -> None:
        with pytest.raises(Interrupted):
            while not over.is_set():
                model.generate([1, 2, 3], **OPTIONS)

    def others() -> None:
        while not over.is_set():
            model.generate([5] * 30, **OPTIONS)

    beside = threading.Thread(target=others)
    victim.append(threading.Thread(target=waits))
    beside.start()
    victim[0].start()
    came = hit.wait(60)
    over.set()
    assert came
    beside.join()
    victim[0].join()
    assert not scheduler._sleeping
    assert ends(lambda: model.score([1, 2, 3]))


def turns(scheduler: Scheduler) -> list[Caller]:
    """The calls that wait for their turn, as soon as there is one."""
    until = time.monotonic() + 20
    while not scheduler._turns and time.monotonic() < until:
        time.sleep(0.001)
    return list(scheduler._turns)


def test_while_the_seat_is_handed_on(model: Model) -> None:
    """To a call that waits for its turn, which ends all the same."""
    scheduler = of(model.core)
    stream = model.stream([1, 2, 3], **{**OPTIONS, "max_tokens": 400})
    next(stream)
    driver = scheduler._running[0].caller
    scheduler._driver = driver  # as in a pass
    call = threading.Thread(target=lambda: model.score([1, 2, 3]), daemon=True)
    call.start()
    (waits,) = turns(scheduler)
    event = waits.event

    class Event:
        set = staticmethod(once(lambda: event.set()))
        wait, clear = event.wait, event.clear

    waits.event = Event()
    with pytest.raises(Interrupted):
        scheduler.leave_seat(driver)
    stream.close()  # as what was interrupted does at its end
    call.join(20)
    assert not call.is_alive()


def test_before_one_that_was_woken_hands_the_seat_on(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its result already, and does not take the seat that it was woken for; a call waits for its turn."""
    scheduler = of(model.core)
    stream = model.stream([1, 2, 3], **{**OPTIONS, "max_tokens": 400})
    next(stream)
    mine, other = scheduler._running[0].caller, Caller(None, 1)
    scheduler._driver = other  # as in a pass
    call = threading.Thread(target=lambda: model.score([1, 2, 3]), daemon=True)
    call.start()
    assert turns(scheduler)
    scheduler._sleeping[mine] = None
    scheduler.leave_seat(other, turn=True)
    assert scheduler._driver is None and mine.event.is_set()
    with monkeypatch.context() as patch:
        patch.setattr(Scheduler, "_hand_on", once(Scheduler._hand_on))
        with pytest.raises(Interrupted):
            scheduler.leave_seat(mine)
    del stream
    call.join(20)
    assert not call.is_alive()


def test_before_one_that_ended_is_noted(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is dropped then."""
    request = model.submit([1, 2, 3], **{**OPTIONS, "max_tokens": 2})
    with monkeypatch.context() as patch:
        patch.setattr(Scheduler, "note", once(Scheduler.note))
        with pytest.raises(Interrupted):
            request.result()
    del request
    gc.collect()
    stats = model.stats()
    assert stats.running == stats.waiting == stats.cache_bytes_used == 0
