"""Calls that are not generations, between the passes of those: whose turn it is, and who has the memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model, _engine
from pellucid.errors import CancelledError, OutOfMemoryError, PellucidError
from pellucid.look.experiments import occlusion, patching
from pellucid.schedule import run
from pellucid.schedule.caller import Caller
from pellucid.schedule.driver import Driver
from pellucid.schedule.memory import SOON, Freed
from pellucid.schedule.scheduler import Scheduler
from pellucid.schedule.turns import Turns
from tests.engine import models
from tests.families.case import load_golden, write_gguf
from tests.families.cases import BY_NAME
from tests.schedule.interleave import World, every, some
from tests.schedule.test_interleavings import FakeEngine, FakeSequence, Interrupt, Owned, Reader, alone
from tests.schedule.test_memory import Limit, Pool, read, work


class Visitor:
    """A call of some passes."""

    def __init__(
        self,
        scheduler: Scheduler,
        engine: Any,
        passes: int,
        *,
        event: Callable[[], Any] = threading.Event,
        cancel: Callable[[], bool] | None = None,
        rows: int = 1,
        most: int = 0,
    ) -> None:
        self.scheduler, self.engine, self.passes, self.rows, self.most = scheduler, engine, passes, rows, most
        self.caller = Caller(cancel, 1 << 30, event)
        self.short = self.sole = False
        self.sequence = engine.sequence() if isinstance(engine, Pool) else FakeSequence()
        self.error: BaseException | None = None

    def held(self) -> int:
        return self.sequence.length

    def __call__(self) -> None:
        while not self.scheduler.begin_call(self):
            time.sleep(SOON)
        try:
            while self.sequence.length < self.passes * self.rows:
                self.one_pass()
        except (Interrupt, _engine.Cancelled, OutOfMemoryError) as error:
            self.error = error
        finally:
            self.sequence.rewind(0)
            self.scheduler.end_call(self)

    def one_pass(self) -> None:
        try:
            self.scheduler.take_turn(self)
            parts = [(self.sequence, [1] * self.rows, self.rows)]
            self.engine.forward(parts, samplers=[], cancel=self.caller.cancel, failed={}, found=[])
            self.short = False
        except OutOfMemoryError:
            if self.scheduler.make_room(self) is Freed.NOTHING:
                raise
        finally:
            self.scheduler.leave_seat(self.caller, turn=True)


# ---- whose turn it is -----------------------------------------------------------------------------------------------

Make = Callable[[World, Scheduler, FakeEngine], "list[Reader | Visitor]"]


def engine_of(engine: FakeEngine) -> FakeEngine:
    return engine


def try_all(
    choosers: Any, make: Make, before: Callable[[int], None] = lambda number: None, driven: bool = False
) -> int:
    """Runs readers and visitors under each chooser -> how many interleavings there were."""
    n = 0
    for choose in choosers:
        world = World(choose)
        engine = FakeEngine(world, before)
        scheduler = Scheduler(
            partial(engine_of, engine), FakeSequence, lock=world.lock, event=world.event, signal=world.signal
        )
        made = make(world, scheduler, engine)
        works: list[Callable[[], None]] = list(made)
        if driven:
            driver = scheduler._permanent = Driver(scheduler)
            left = list(works)

            def ended(one: Callable[[], None], left: list[Callable[[], None]] = left, driver: Driver = driver) -> None:
                one()
                left.remove(one)
                if not left:
                    driver.close()

            works = [driver.run, *(partial(ended, one) for one in works)]
        world.run(works)
        for one in made:
            if isinstance(one, Reader) and one.error is None:
                assert one.got == one.expected
        assert scheduler._driver is None and scheduler._batch is None and not scheduler._left
        assert not (scheduler._running or scheduler._waiting or scheduler._sleeping or scheduler._turns)
        assert not scheduler._holders.calls
        n += 1
    return n


def test_every_interleaving_of_a_caller_and_a_call() -> None:
    n = try_all(every(4), lambda w, s, e: [Reader(w, s, [1, 2], 2), Visitor(s, e, 2, event=w.event)])
    assert n > 1000


def test_every_interleaving_of_two_calls() -> None:
    n = try_all(every(4), lambda w, s, e: [Visitor(s, e, 2, event=w.event), Visitor(s, e, 1, event=w.event)])
    assert n > 100


def test_every_interleaving_beside_a_driver() -> None:
    n = try_all(every(2), lambda w, s, e: [Owned(w, s, [1, 2], 2), Visitor(s, e, 2, event=w.event)], driven=True)
    assert n > 100
    n = try_all(every(3), lambda w, s, e: [Visitor(s, e, 2, event=w.event)], driven=True)
    assert n > 10


def test_a_call_that_is_interrupted_in_a_pass_or_cancelled() -> None:
    def before(number: int) -> None:
        if number == 2:
            raise Interrupt

    def make(w: World, s: Scheduler, e: FakeEngine) -> list[Reader | Visitor]:
        asked: list[int] = []

        def cancel() -> bool:
            asked.append(1)
            return len(asked) > 1

        visitors = [Visitor(s, e, 2, event=w.event), Visitor(s, e, 3, event=w.event, cancel=cancel)]
        return [Reader(w, s, [1, 2], 2), *visitors]

    assert try_all(every(2), make, before) > 100


def test_random_interleavings_of_many() -> None:
    def make(w: World, s: Scheduler, e: FakeEngine) -> list[Reader | Visitor]:
        readers = [Reader(w, s, [i] * (1 + 7 * (i % 3)), 1 + i % 4) for i in range(3)]
        return [*readers, *(Visitor(s, e, 1 + i, event=w.event) for i in range(3))]

    def driven(w: World, s: Scheduler, e: FakeEngine) -> list[Reader | Visitor]:
        readers = [(Owned if i % 2 else Reader)(w, s, [i] * (1 + 7 * (i % 3)), 1 + i % 4) for i in range(3)]
        return [*readers, *(Visitor(s, e, 1 + i, event=w.event) for i in range(2))]

    try_all(some(150), make)
    try_all(some(150), driven, driven=True)


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_a_request_is_given_up_for_a_call_and_begins_again_after_it() -> None:
    pool = Pool(12)
    scheduler = Scheduler(lambda: pool, pool.sequence)
    one = work([2] * 8, 3)
    scheduler.submit(one)
    scheduler.wait(one.caller)
    call = Visitor(scheduler, pool, 2, rows=5)
    call()
    assert call.error is None and one.preempted == 1 and scheduler.preemptions == 1
    assert read(scheduler, one) == alone([2] * 8, 3)


def test_a_request_waits_for_a_call_that_has_the_memory() -> None:
    """Which takes its turn between two tries of the request."""
    pool = Pool(12)
    scheduler = Scheduler(lambda: pool, pool.sequence)
    call = Visitor(scheduler, pool, 2, rows=5)
    assert scheduler.begin_call(call)
    call.one_pass()
    one = work([2] * 8)
    scheduler.submit(one)
    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(read, scheduler, one)
        while not pool.failed:
            time.sleep(SOON)
        assert not done.done()
        call.one_pass()
        call.sequence.rewind(0)
        scheduler.end_call(call)
        assert done.result(30) == alone([2] * 8, 1)
    assert one.preempted == 0


@pytest.mark.parametrize("at", [0, 1])
def test_a_request_waits_for_the_call_of_its_own_cancel_function(at: int) -> None:
    """It failed: its thread was taken to wait for it, and the call for the request, while another drives."""
    pool, asked = Pool(12), 0
    scheduler = Scheduler(lambda: pool, pool.sequence)
    one = work([2] * 8)

    def cancel() -> bool:
        nonlocal asked
        asked += 1
        if asked == at + 1:
            call = Visitor(scheduler, pool, 2, rows=5)
            assert scheduler.begin_call(call)
            call.one_pass()
            scheduler.submit(one)
            while not pool.failed:
                time.sleep(SOON)
            call.one_pass()
            call.sequence.rewind(0)
            scheduler.end_call(call)
        return False

    one.caller.cancel = cancel
    scheduler.start_driver()
    while scheduler._driver is None:
        time.sleep(SOON)
    assert read(scheduler, one) == alone([2] * 8, 1)
    scheduler.close()


def test_calls_that_fit_only_one_after_the_other() -> None:
    pool = Pool(12)
    scheduler = Scheduler(lambda: pool, pool.sequence, room=Limit(pool))
    calls = [Visitor(scheduler, pool, 5, rows=2, most=10) for _ in range(4)]
    threads = [threading.Thread(target=one) for one in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [one.error for one in calls] == [None] * 4 and pool.failed == 0


def test_of_calls_that_all_lack_memory_the_first_fails() -> None:
    """Where what they said that they need was wrong."""
    pool = Pool(12)
    scheduler = Scheduler(lambda: pool, pool.sequence)
    calls = [Visitor(scheduler, pool, 5, rows=2) for _ in range(2)]
    threads = [threading.Thread(target=one) for one in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(one.error is not None for one in calls) <= 1


def test_a_call_that_can_never_fit_fails_alone() -> None:
    pool = Pool(12)
    scheduler = Scheduler(lambda: pool, pool.sequence)
    one = work([2] * 8, 2)
    scheduler.submit(one)
    scheduler.wait(one.caller)
    call = Visitor(scheduler, pool, 1, rows=13)
    call()
    assert isinstance(call.error, OutOfMemoryError)
    assert read(scheduler, one) == alone([2] * 8, 2)


def test_requests_are_admitted_beside_what_calls_will_need() -> None:
    pool = Pool(20)
    scheduler = Scheduler(lambda: pool, pool.sequence, room=Limit(pool))
    call = Visitor(scheduler, pool, 2, rows=5, most=10)
    assert scheduler.begin_call(call)
    first, second = work([1] * 4, 3), work([2] * 8, 4)
    for one in (first, second):
        scheduler.submit(one)
    read(scheduler, first)
    assert second.started is None  # 6 + 11 + 10 > 20
    scheduler.end_call(call)
    scheduler.leave((first,), free=True)
    assert read(scheduler, second) == alone([2] * 8, 4)


# ---- models ---------------------------------------------------------------------------------------------------------

IDS = [1 + i % 40 for i in range(200)]
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "max_tokens": 12, "logprobs": 1}


@pytest.fixture(scope="module", params=["llama_gqa", "gemma3", "lfm2"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("turns")
    if request.param in BY_NAME:
        case = BY_NAME[request.param]
        return write_gguf(case, load_golden(case), folder / "model.gguf")
    return models.write(folder, request.param)


def context_append(model: Model) -> Any:
    with model.context() as context:
        context.append(IDS)
        return context.logits(), context.next(3), [one.total for one in context.score([[5, 6], [7]])]


def edited(model: Model) -> Any:
    with model.edit() as edit:
        edit.skip(0, "mlp")
        return edit.generate(IDS, **GREEDY).logprobs, edit.logits(IDS[:50])


CALLS: dict[str, Callable[[Model], Any]] = {
    "logits": lambda m: m.logits([IDS[:90], IDS[:3], IDS]),
    "score": lambda m: [(s.ids, s.tokens) for s in m.score([IDS, IDS[:20], IDS[50:]], top=2)],
    "windows": lambda m: m.score(IDS, window=64).tokens,
    "trace": lambda m: list(m.trace(IDS[:80]).attention),
    "head": lambda m: m.trace(IDS[:40], "hidden").entropy,
    "lens": lambda m: list(m.trace(IDS[:40], "attention").lens(20)),
    "table": lambda m: m.trace(IDS[:30], "hidden", layers=0).lens_table(k=2).ids,
    "attributions": lambda m: m.trace(IDS[:60], "hidden", layers=0).attributions().heads,
    "occlusion": lambda m: occlusion(m, IDS[:50], 5, positions=[1, 30]).values,
    "patching": lambda m: patching(m, IDS[:20], IDS[5:25], 5, layers=1).values,
    "embed": lambda m: m.embed([IDS, IDS[:5]], pooling="mean"),
    "context": context_append,
    "edit": edited,
    "generate": lambda m: m.generate(IDS, **GREEDY).logprobs,
    "several": lambda m: [one.ids for one in m.generate([IDS[:n] for n in (5, 70, 130)], **GREEDY)],
}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(np.array_equal(a, b))


@pytest.mark.parametrize("setting", ["free", "short gaps", "one fits", "one fits, driven"])
def test_every_call_gives_what_it_gives_alone(path: Path, setting: str) -> None:
    """Beside all others; with room for little more than one of them, none fails."""
    with Model.load(path, threads=2) as model:
        expected = {name: call(model) for name, call in CALLS.items()}
    options: dict[str, Any] = {"max_gap": 0.0} if setting != "free" else {}
    if setting.startswith("one fits"):
        with Model.load(path, threads=1) as model:
            room = run.of(model.core).room
            options["cache_bytes"] = 3 * room.most([len(IDS)] * 3, 512)
    with Model.load(path, threads=2, **options) as model:
        if "driven" in setting:
            model.drive()
        names = [*CALLS] * 3
        with ThreadPoolExecutor(len(names)) as threads:
            found = list(threads.map(lambda name: CALLS[name](model), names))
        for name, one in zip(names, found, strict=True):
            assert same(one, expected[name]), name
        assert model.stats().cache_bytes_used == 0
        assert not model.core.scheduler._holders.calls


def test_a_lone_generation_beside_a_score(path: Path) -> None:
    """Both fit alone, and not together."""
    with Model.load(path, threads=2) as model:
        ids = (IDS * 2)[:240]
        expected = model.generate(ids, **GREEDY).ids, model.score(ids).total
        limit = run.of(model.core).room.most([len(ids)], 512)
    with Model.load(path, threads=2, cache_bytes=limit) as model, ThreadPoolExecutor(2) as threads:
        for _ in range(5):
            score = threads.submit(lambda: model.score(ids).total)
            generated = threads.submit(lambda: model.generate(ids, **GREEDY).ids)
            assert (generated.result(), score.result()) == expected


def test_passes_of_calls_are_short_beside_one_that_decodes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also beside one that decodes in another view of the model."""
    rows: list[int] = []
    with Model.load(path, threads=2, max_gap=0.0) as model:
        forward = Turns._pass

        def noted(self: Turns, parts: Any, *rest: Any) -> Any:
            rows.append(sum(len(ids) for _, ids, _ in parts))
            return forward(self, parts, *rest)

        monkeypatch.setattr(Turns, "_pass", noted)
        for viewed in (False, True):
            with model.edit() as edit, (edit if viewed else model).stream([1, 2], **GREEDY) as stream:
                next(stream)
                rows.clear()
                model.score(IDS)
                trace = model.trace(IDS[:100], "hidden")
                assert trace.lens_table(k=2) and len(trace.entropy) == 100
                trace.attributions(neurons=2)
                occlusion(model, IDS[:40], 5, positions=[1, 30])
                model.logits(IDS[:100])
                model.embed([IDS], pooling="last")
                with model.context() as context:
                    context.append(IDS)
                assert rows and max(rows) <= 16
                if viewed:  # and so are those of prompts
                    before = model.stats().passes
                    model.generate(IDS, max_tokens=1)
                    assert model.stats().passes - before >= 200 // 16
        rows.clear()
        model.score(IDS)
        assert rows == [199]


def test_a_trace_is_cancelled_while_it_waits_for_its_turn(path: Path) -> None:
    with Model.load(path, threads=2) as model:
        scheduler = run.of(model.core)
        other = Caller(None, 1)
        assert scheduler.take_seat(other)
        for call in (
            lambda cancel: model.trace(IDS[:20], cancel=cancel),
            lambda cancel: occlusion(model, IDS[:20], 5, cancel=cancel),
            lambda cancel: patching(model, IDS[:20], IDS[5:25], 5, cancel=cancel),
        ):
            until = time.monotonic() + 0.05
            with pytest.raises(CancelledError):
                call(lambda until=until: time.monotonic() > until)
        scheduler.leave_seat(other)
        assert model.stats().cache_bytes_used == 0 and not scheduler._holders.calls


def test_what_a_callback_of_a_trace_may_compute(path: Path) -> None:
    """Also where there is room for one of them only."""
    with Model.load(path, threads=2) as model:
        ids = (IDS * 2)[:240]
        expected = model.generate(ids, **GREEDY).ids, model.score(ids).total
        limit = run.of(model.core).room.most([len(ids)], 512)
    with Model.load(path, threads=2, cache_bytes=limit) as model:
        found: list[Any] = []

        def each(*arguments: Any) -> None:
            if not found:
                found.append((model.generate(ids, **GREEDY).ids, model.score(ids).total))

        model.trace(ids, "hidden", each=each)
        assert found == [expected]
        found.clear()

        def progress(done: int, total: int) -> None:
            for call in (lambda: model.generate(ids, **GREEDY), lambda: model.score(ids)):
                try:
                    found.append(call())
                except OutOfMemoryError as error:  # the trace has the memory, and waits for this
                    found.append(error)

        model.trace(ids, "hidden", progress=progress)
        assert found and model.stats().cache_bytes_used == 0


def test_what_a_cancel_function_may_compute(path: Path) -> None:
    """It is asked in a pass: calls that are not generations, in passes of their own; and no generation."""
    with Model.load(path, threads=2) as model:
        expected = model.score(IDS[:20]).total
        found: list[Any] = []

        def cancel() -> bool:
            if not found:
                found.append(model.score(IDS[:20]).total)
                with pytest.raises(PellucidError, match="cancel"):
                    model.generate([1], max_tokens=1)
            return False

        request = model.submit(IDS, cancel=cancel, max_tokens=3)
        request.result()
        assert found == [expected]


def test_a_call_that_fails_leaves_nothing(path: Path) -> None:
    with Model.load(path, threads=1, cache_bytes=1) as model:
        for call in (lambda: model.score(IDS), lambda: model.logits(IDS), lambda: model.embed([IDS], pooling="last")):
            with pytest.raises(OutOfMemoryError) as error:
                call()
            assert model.stats().cache_bytes_used == 0 and not model.core.scheduler._holders.calls
            del error
