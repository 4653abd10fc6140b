"""Functions of callers, `cancel` and `progress`, that compute something while their call waits."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.errors import OutOfMemoryError, PellucidError
from pellucid.schedule import run
from pellucid.schedule.scheduler import Scheduler
from tests.engine import models
from tests.schedule.interleave import World, some
from tests.schedule.test_interleavings import FakeEngine, Reader
from tests.schedule.test_turns import GREEDY, IDS, Visitor, try_all

NEVER: dict[str, Any] = {"cancel": lambda: False, "ignore_eos": True}


@pytest.mark.parametrize("what", ["reads", "computes"])
@pytest.mark.parametrize("kind", ["caller", "call"])
@pytest.mark.parametrize("driven", [False, True])
def test_a_function_that_computes_while_its_caller_waits(kind: str, what: str, driven: bool) -> None:
    """The seat is not given to a caller whose thread waits for it within its function."""
    inner: list[Reader | Visitor] = []

    def make(w: World, s: Scheduler, e: FakeEngine) -> list[Reader | Visitor]:
        asked: list[int] = []

        def cancel() -> bool:
            if not s.computes_here() and len(asked) < 2:  # else it is asked in a pass
                asked.append(1)
                inner.append(Reader(w, s, [5], 2) if what == "reads" else Visitor(s, e, 2, event=w.event))
                inner[-1]()
            return False

        outer = Visitor(s, e, 2, event=w.event, cancel=cancel) if kind == "call" else Reader(w, s, [1], 2, cancel)
        return [outer, Reader(w, s, [3], 3)]

    try_all(some(150), make, driven=driven)
    assert len(inner) > 20
    assert all(one.error is None for one in inner)


@pytest.mark.parametrize("driven", [False, True])
def test_a_callback_generates_where_a_request_was_given_up_for_its_trace(tmp_path: Path, driven: bool) -> None:
    """Or what does not fit beside it, which fails: the trace has the memory, and waits for this."""
    with Model.load(models.write(tmp_path, "llama_gqa"), threads=1) as model:
        expected = model.generate([1], **GREEDY).ids
        limit = run.of(model.core).room.need(330)
    with Model.load(tmp_path / "llama_gqa-F32.gguf", threads=1, cache_bytes=limit) as model:
        if driven:
            model.drive()
        held = model.submit(IDS, ahead=1, **{**GREEDY, "max_tokens": 100})
        next(held)
        found: list[Any] = []

        def progress(done: int, total: int) -> None:
            if held.stats.preempted and not found:
                found.append(model.generate([1], **GREEDY).ids)
                with pytest.raises(OutOfMemoryError):
                    model.generate(IDS, **GREEDY)
                found.append(model.submit([1], **GREEDY).result().ids)  # type: ignore[union-attr]

        tracing = threading.Thread(target=lambda: model.trace(IDS, "hidden", chunk=40, progress=progress), daemon=True)
        tracing.start()
        tracing.join(30)
        assert not tracing.is_alive() and found == [expected] * 2
        held.cancel()


@pytest.mark.parametrize("driven", [False, True])
def test_an_older_request_gives_way_to_what_a_trace_waits_for(tmp_path: Path, driven: bool) -> None:
    """It lacks the memory of the trace, which ends after its callback, which generates."""
    path = models.write(tmp_path, "llama_gqa")
    long, short = {**GREEDY, "max_tokens": 230}, {**GREEDY, "max_tokens": 70}
    with Model.load(path, threads=1) as model:
        expected = [model.generate([1], **short).ids, model.generate(IDS[:90], **long).ids]
        need = run.of(model.core).room.need
        limit = need(320) + need(64)
    with Model.load(path, threads=1, cache_bytes=limit) as model:
        if driven:
            model.drive()
        older = model.submit(IDS[:90], ahead=1, **long)
        next(older)
        found: list[Any] = []
        inside = threading.Event()

        def progress(done: int, total: int) -> None:
            if not found and done > 64:
                inside.set()
                until = time.monotonic() + 30
                while model.stats().cache_bytes_used < limit and time.monotonic() < until:
                    time.sleep(0.001)
                found.append(model.generate([1], **short).ids)

        def read() -> None:
            inside.wait(30)
            found.append(older.result().ids)  # type: ignore[union-attr]

        tracing = threading.Thread(target=lambda: model.trace(IDS[:120], "hidden", chunk=40, progress=progress))
        threads = [tracing, threading.Thread(target=read)]
        for thread in threads:
            thread.daemon = True
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads) and found == expected


class Asking:
    """An engine that asks `cancel` in each pass, however short."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def forward(self, parts: Any, *, cancel: Any = None, **options: Any) -> Any:
        if cancel is not None:
            cancel()
        return self.engine.forward(parts, cancel=cancel, **options)


@pytest.mark.parametrize("what", ["closes", "reads"])
def test_another_stream_of_the_pass_that_asks(tmp_path: Path, what: str) -> None:
    """It has results already. It may be closed; to read it could need the end of the pass."""
    with Model.load(models.write(tmp_path, "llama_gqa"), threads=1) as model:
        scheduler, engine = run.of(model.core), Asking(model.core.engine)
        scheduler._open = lambda: engine
        options = {**GREEDY, "max_tokens": 40, "speculate": False}
        other = model.stream([1, 2], **options)
        first = next(other)
        found: list[Any] = []

        def cancel() -> bool:
            job = next((one.job for one in scheduler._running if one.job.drawn), None)
            if scheduler._batch is not None and job is not None and len(job.drawn) > job.taken and not found:
                found.append(job)
                if what == "closes":
                    other.close()
                else:
                    with pytest.raises(PellucidError, match="cancel"):
                        next(other)
            return False

        reading = threading.Thread(target=lambda: model.generate([3], cancel=cancel, **options), daemon=True)
        reading.start()
        reading.join(30)
        assert not reading.is_alive() and found
        if what == "closes":
            done = other.result()
            assert done.ids == first.ids and done.finish_reason == "cancelled"
        assert model.stats().cache_bytes_used == 0


def test_a_request_that_the_function_of_a_pass_reads_goes_on(tmp_path: Path) -> None:
    """Not there, where it could need the end of the pass."""
    with Model.load(models.write(tmp_path, "llama_gqa"), threads=1) as model:
        expected = model.generate([5], **GREEDY).ids
        engine = Asking(model.core.engine)
        run.of(model.core)._open = lambda: engine
        other, asked = model.submit([5], **GREEDY), list[int]()

        def cancel() -> bool:
            if not asked:
                asked.append(1)
                with pytest.raises(PellucidError, match="cancel"):
                    other.result()
            return False

        model.generate([1, 2, 3], cancel=cancel, **GREEDY)
        assert asked and other.result().ids == expected  # type: ignore[union-attr]


def test_a_stream_closes_at_once_beside_a_driver(tmp_path: Path) -> None:
    """Though results come sooner than its caller would ask again."""
    with Model.load(models.write(tmp_path, "llama_gqa"), threads=1) as model:
        model.drive()
        for _ in range(5):
            with model.stream([1, 2], **{**GREEDY, "max_tokens": 5, "speculate": False}) as stream:
                next(stream)
            done = stream.result()
            assert len(done.ids) < 5 and done.finish_reason == "cancelled"


def test_a_request_with_a_function_keeps_its_turn(tmp_path: Path) -> None:
    """Beside calls that never stop: asking its function when it is offered the seat would lose it, each time."""
    over = threading.Event()
    with Model.load(models.write(tmp_path, "llama_gqa"), threads=1) as model:

        def calls() -> None:
            while not over.is_set():
                model.logits([1, 2, 3, 4] * 10)

        threads = [threading.Thread(target=calls) for _ in range(2)]
        reader = threading.Thread(target=model.generate, args=([1, 2, 3],), kwargs={"max_tokens": 20, **NEVER})
        for thread in (*threads, reader):
            thread.start()
        reader.join(60)
        ended = not reader.is_alive()
        over.set()
        for thread in (*threads, reader):
            thread.join()
        assert ended
