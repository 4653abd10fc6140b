"""Requests of ``Model.submit``: read by threads and event loops, with and without a permanent driver."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pellucid import Completion, Model, Request
from pellucid.errors import BatchError, ClosedError, ContextFullError, NumericsError, QueueFullError
from pellucid.schedule.caller import Caller
from pellucid.schedule.run import of
from tests.engine import models
from tests.engine.test_numerics import BAD, bad_token, spoilt

OPTIONS: dict[str, Any] = {"max_tokens": 20, "ignore_eos": True, "temperature": 1.0, "logprobs": 2}


def drivers() -> set[Any]:
    return {thread for thread in threading.enumerate() if thread.name == "pellucid driver"}


def content(done: Completion) -> Any:
    return done.ids, done.logprobs, done.end, done.finish_reason, done.seed, done.text


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.write(tmp_path_factory.mktemp("request"), "llama_gqa")


@pytest.fixture
def model(path: Path) -> Iterator[Model]:
    with Model.load(path, threads=2) as loaded:
        yield loaded
        until = time.monotonic() + 10  # what was cancelled leaves a pass later at most
        while loaded.stats().cache_bytes_used and time.monotonic() < until:
            time.sleep(0.01)
        stats = loaded.stats()
        assert stats.running == stats.waiting == stats.cache_bytes_used == 0


@pytest.mark.parametrize("driven", [False, True])
def test_a_thread_reads_what_generate_gives(model: Model, driven: bool) -> None:
    if driven:
        model.drive()
    for seed in range(3):
        expected = model.generate([1, 2, 3], seed=seed, **OPTIONS)
        request = model.submit([1, 2, 3], seed=seed, **OPTIONS)
        pieces = list(request)
        assert [id for piece in pieces for id in piece.ids] == expected.ids and pieces[-1].finish_reason == "length"
        done = request.result()
        assert isinstance(done, Completion) and content(done) == content(expected) and request.done
        assert request.stats.prefilled == 3 and request.stats.preempted == 0 and not request.stats.expired


def test_a_stream_beside_a_driver_that_had_nothing_to_run(model: Model) -> None:
    """Its reader comes back when it is as far ahead as it may be."""
    model.drive()
    options = {**OPTIONS, "max_tokens": 100, "seed": 1}
    with model.stream([1, 2, 3], **options) as stream:
        next(stream)
        until, passes = time.monotonic() + 10, -1
        while passes != model.stats().passes and time.monotonic() < until:
            passes = model.stats().passes
            time.sleep(0.05)
        assert passes < 60
        found = stream.result()
    assert found.ids == model.generate([1, 2, 3], **options).ids and len(found.ids) == 100


@pytest.mark.parametrize("driven", [False, True])
def test_n_completions(model: Model, driven: bool) -> None:
    if driven:
        model.drive()
    expected = model.generate([5, 6, 7, 8], n=3, seed=9, **OPTIONS)
    request = model.submit(prompt_ids=[5, 6, 7, 8], n=3, seed=9, **OPTIONS)
    found: list[list[int]] = [[], [], []]
    for piece in request:
        found[piece.index] += piece.ids
    assert found == [one.ids for one in expected]
    done = request.result()
    assert isinstance(done, list) and [content(one) for one in done] == [content(one) for one in expected]


def test_event_loops_read_what_generate_gives(model: Model) -> None:
    """Many at once, read piece by piece, as a whole, as several; in two loops; and threads beside them."""
    expected = [content(model.generate([i, 1], seed=i, **OPTIONS)) for i in range(24)]
    several = [content(one) for one in model.generate([3, 4, 5], n=3, seed=1, **OPTIONS)]

    async def pieces(i: int) -> Any:
        request = model.submit([i, 1], seed=i, **OPTIONS)
        ids = []
        async for piece in request:
            ids += piece.ids
        done = await request
        assert isinstance(done, Completion) and done.ids == ids
        return content(done)

    async def whole(i: int) -> Any:
        return content(await model.submit([i, 1], seed=i, **OPTIONS))  # type: ignore[arg-type]

    async def all_of_them() -> tuple[list[Any], Any]:
        one = model.submit([3, 4, 5], n=3, seed=1, **OPTIONS)
        found = await asyncio.gather(*(pieces(i) if i % 2 else whole(i) for i in range(24)))
        return found, [content(each) for each in await one]  # type: ignore[union-attr]

    with ThreadPoolExecutor(4) as pool:
        loops = [pool.submit(lambda: asyncio.run(all_of_them())) for _ in range(2)]
        threads = [pool.submit(lambda: model.generate([1, 1], seed=1, **OPTIONS)) for _ in range(2)]
        for loop in loops:
            assert loop.result() == (expected, several)
        assert [content(one.result()) for one in threads] == [expected[1]] * 2


@pytest.mark.parametrize("way", ["thread", "driven", "loop"])
@pytest.mark.parametrize("logprobs", [0, 1])
def test_stop_strings(smollm2: Path, way: str, logprobs: int) -> None:
    with Model.load(smollm2, threads=2) as model:
        given: dict[str, Any] = {
            "temperature": 0,
            "seed": 1,
            "max_tokens": 30,
            "stop": ["ris", "Fran"],
            "logprobs": logprobs,
        }
        expected = model.generate("The capital of France is", **given)
        assert expected.finish_reason == "stop"
        if way == "driven":
            model.drive()

        async def run() -> Any:
            return await model.submit("The capital of France is", **given)

        request = model.submit("The capital of France is", **given)
        done: Any = asyncio.run(run()) if way == "loop" else request.result()
        assert content(done) == content(expected)


def test_messages(smollm2: Path) -> None:
    with Model.load(smollm2, threads=2) as model:
        messages = [{"role": "user", "content": "Hello"}]
        expected = model.chat(messages, max_tokens=5, temperature=0, seed=1)
        done = model.submit(messages=messages, tools=None, max_tokens=5, temperature=0, seed=1).result()
        assert isinstance(done, Completion) and content(done) == content(expected)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({}, ValueError, "prompt is missing"),
        ({"prompt": [1], "messages": []}, ValueError, "prompt and messages are both given"),
        ({"prompt": [1], "tools": [{}]}, TypeError, "tools"),
        ({"prompt": [1], "temperature": -1}, ValueError, "temperature"),
        ({"prompt": [1], "bogus": 1}, TypeError, "bogus"),
        ({"prompt": [1], "n": 0}, ValueError, "n=0"),
        ({"prompt": [1], "ahead": 0}, ValueError, "ahead=0"),
        ({"prompt": [1], "priority": "high"}, TypeError, "priority"),
        ({"prompt": [1], "timeout": -1}, ValueError, "timeout"),
        ({"prompt": [1], "key": 1}, TypeError, "key"),
        ({"prompt": []}, ValueError, "prompt is empty"),
        ({"prompt_ids": [10**6]}, ValueError, "prompt_ids"),
        ({"prompt": [1] * 9999}, ContextFullError, "prompt is too long"),
    ],
)
def test_submit_raises_what_is_wrong(model: Model, given: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        model.submit(**given)


@pytest.mark.parametrize("driven", [False, True])
def test_a_request_that_nobody_reads_is_not_far_ahead(model: Model, driven: bool) -> None:
    """And goes on where its reader comes."""
    if driven:
        model.drive()
    request = model.submit([1], ahead=4, seed=1, **{**OPTIONS, "max_tokens": 100})
    short = model.submit([2], seed=2, **OPTIONS).result()
    time.sleep(0.05)
    assert isinstance(short, Completion) and model.stats().generated_tokens <= 20 + 5
    done = request.result()
    assert content(done) == content(model.generate([1], seed=1, **{**OPTIONS, "max_tokens": 100}))  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["unread", "thread", "loop", "driven"])
def test_cancel(model: Model, way: str) -> None:
    given = {**OPTIONS, "max_tokens": 400}
    if way == "driven":
        model.drive()
    request = model.submit([1], **given)
    done: Any

    async def read() -> Any:
        first = await anext(request)
        asyncio.get_running_loop().call_later(0.01, request.cancel)
        return first, await request

    if way == "loop":
        done = asyncio.run(read())[1]
    else:
        if way != "unread":
            next(request)
            threading.Timer(0.01, request.cancel).start()
        else:
            request.cancel()
        done = request.result()
    assert done.finish_reason == "cancelled" and len(done.ids) < 400
    request.cancel()
    assert request.result() == done


@pytest.mark.parametrize("loop", [False, True])
def test_the_option_cancel(model: Model, loop: bool) -> None:
    stop = threading.Event()
    request = model.submit([1], cancel=stop, **{**OPTIONS, "max_tokens": 400})
    threading.Timer(0.01, stop.set).start()

    async def read() -> Any:
        return await request

    done: Any = asyncio.run(read()) if loop else request.result()
    assert done.finish_reason == "cancelled"


@pytest.mark.parametrize("driven", [False, True])
def test_a_time_that_runs_out(model: Model, driven: bool) -> None:
    if driven:
        model.drive()
    request = model.submit([1], timeout=0.02, ahead=1, **{**OPTIONS, "max_tokens": 400})
    if driven:
        time.sleep(0.1)  # nobody reads it
    done = request.result()
    assert isinstance(done, Completion) and done.finish_reason == "cancelled" and request.stats.expired


@pytest.mark.parametrize("way", ["cancelled", "expired"])
def test_times_of_one_that_ends_before_its_first_pass(path: Path, way: str) -> None:
    with Model.load(path, threads=1, sequences=1) as model:
        first = model.submit([1], ahead=500, **{**OPTIONS, "max_tokens": 400})
        next(first)
        waiting = model.submit([2], timeout=0.01 if way == "expired" else None, **OPTIONS)
        time.sleep(0.02)
        waiting.cancel() if way == "cancelled" else next(waiting)
        queued = waiting.stats.queued
        time.sleep(0.02)
        assert waiting.done and 0 < waiting.stats.queued == queued
        first.cancel()
        nothing = model.submit([3], max_tokens=0)
        time.sleep(0.02)
        assert nothing.stats.queued == 0


@pytest.mark.parametrize("driven", [False, True])
def test_result_waits_so_long(model: Model, driven: bool) -> None:
    if driven:
        model.drive()
    request = model.submit([1], **{**OPTIONS, "max_tokens": 400})
    with pytest.raises(TimeoutError):
        request.result(timeout=0.01)
    done = request.result(timeout=1e11)
    assert isinstance(done, Completion) and len(done.ids) == 400
    for wrong, error in ((-1, ValueError), (float("inf"), ValueError), ("1", TypeError)):
        with pytest.raises(error, match="timeout="):
            request.result(timeout=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("driven", [False, True])
def test_one_that_nobody_refers_to_is_cancelled(model: Model, driven: bool) -> None:
    if driven:
        model.drive()
    request = model.submit([1], **{**OPTIONS, "max_tokens": 400})
    next(request)
    del request
    gc.collect()
    until = time.monotonic() + 10
    while model.stats().running and time.monotonic() < until:
        time.sleep(0.01)
    assert model.stats().running == 0


@pytest.mark.parametrize("loop", [False, True])
def test_one_that_fails_fails_alone(tmp_path: Path, loop: bool) -> None:
    model = Model.load(spoilt(tmp_path, "llama_gqa", bad_token), threads=2)
    given = {**OPTIONS, "logit_bias": {BAD: -math.inf}}
    expected = [content(model.generate([i], seed=i, **given)) for i in range(4)]
    good = [model.submit([i], seed=i, **given) for i in range(4)]
    bad = model.submit([1, BAD], **given)
    ruined = model.submit([1, BAD, 1], n=2, **given)

    async def read(request: Request) -> Any:
        return await request

    def result(request: Request) -> Any:
        return asyncio.run(read(request)) if loop else request.result()

    with pytest.raises(NumericsError):
        result(bad)
    with pytest.raises(BatchError) as raised:
        result(ruined)
    assert sorted(raised.value.errors) == [0, 1]
    assert [content(result(one)) for one in good] == expected


@contextmanager
def held(model: Model, **options: Any) -> Iterator[None]:
    """Inside, a request runs and no pass does. Where `sequences` is 1, all others wait."""
    running = model.submit([1], **{**OPTIONS, "max_tokens": 400, "ahead": 1, **options})
    next(running)
    scheduler, caller = of(model.core), Caller(None, 1)
    while not scheduler.take_seat(caller):
        caller.event.wait()
    try:
        yield
    finally:
        scheduler.leave_seat(caller)
        running.cancel()


def test_too_many_that_wait(path: Path) -> None:
    with Model.load(path, threads=1, sequences=1) as model:
        model.drive(max_waiting=2)
        with held(model):
            requests = [model.submit([1], **OPTIONS) for _ in range(2)]
            with pytest.raises(QueueFullError, match="too many requests wait") as raised:
                model.submit([1], **OPTIONS)
        assert raised.value.retry_after >= 1
        for one in requests:
            one.result()
        model.submit([1], **OPTIONS).result()
        model.drive(max_wait=0)
        with held(model):
            waits = model.submit([1] * 100, **OPTIONS)
            with pytest.raises(QueueFullError):
                model.submit([1] * 100, **OPTIONS)
        waits.result()
        model.drive()
        for one in [model.submit([1], **OPTIONS) for _ in range(5)]:
            one.result()


def test_too_many_tokens_that_wait(path: Path) -> None:
    with Model.load(path, threads=1, sequences=1) as model:
        model.drive(max_waiting_tokens=100)
        model.submit([1] * 200, **OPTIONS).result()  # nothing waits
        with held(model):
            requests = [model.submit([1] * 200, **OPTIONS)]
            with pytest.raises(QueueFullError):
                model.submit([1], **OPTIONS)
            requests.append(model.submit([1] * 200, key="other", **OPTIONS))
        for one in requests:
            one.result()
        with pytest.raises(ValueError, match="max_waiting_tokens=-1"):
            model.drive(max_waiting_tokens=-1)


def test_one_of_a_key_with_none_waiting_may_wait(path: Path) -> None:
    with Model.load(path, threads=1, sequences=1) as model:
        model.drive(max_waiting=2)
        with held(model, key="a"):
            many = [model.submit([1], key="a", **OPTIONS) for _ in range(2)]
            with pytest.raises(QueueFullError):
                model.submit([1], key="a", **OPTIONS)
            with pytest.raises(QueueFullError):
                model.submit([1], key="b", n=2, **OPTIONS)
            many.append(model.submit([1], key="b", **OPTIONS))
            with pytest.raises(QueueFullError):
                model.submit([1], key="b", **OPTIONS)
        for one in many:
            one.result()


def test_close_ends_the_driver_and_what_it_delivers_to(path: Path) -> None:
    before = drivers()
    model = Model.load(path, threads=1)

    async def run() -> None:
        request = model.submit([1], **{**OPTIONS, "max_tokens": 400})
        await anext(request)
        model.close()
        with pytest.raises(ClosedError):
            await request
        with pytest.raises(ClosedError):
            model.submit([1])

    asyncio.run(run())
    assert drivers() <= before


def test_a_model_that_nobody_refers_to_ends_its_driver(path: Path) -> None:
    before = drivers()
    model = Model.load(path, threads=1)
    model.drive()
    model.submit([1], **OPTIONS).result()
    mine = drivers() - before  # of which others may end meanwhile
    assert mine
    del model
    until = time.monotonic() + 10
    while mine & drivers() and time.monotonic() < until:
        gc.collect()
        time.sleep(0.01)
    assert not mine & drivers()


def test_a_closed_loop_ends_its_requests(model: Model) -> None:
    async def begin() -> Request:
        request = model.submit([1], ahead=256, **{**OPTIONS, "max_tokens": 200})
        await anext(request)
        return request

    request = asyncio.run(begin())
    done = request.result()
    assert isinstance(done, Completion) and len(done.ids) in range(1, 201)


def test_a_prompt_that_never_fits_the_cache(path: Path) -> None:
    with Model.load(path, cache_bytes=150_000) as model:
        with pytest.raises(ContextFullError, match="prompt exceeds cache_bytes=150000") as raised:
            model.submit([1] * 250)
        given = raised.value
        assert given.needed == 251 and 0 < given.available < 251 and given.available % 64 == 0
        for call in (model.generate, model.stream):
            with pytest.raises(ContextFullError, match=r"prompt\[1\] exceeds cache_bytes=150000"):
                call([[1], [1] * 250])
        assert model.stats().passes == 0
        assert model.generate([1] * 250, max_tokens=0).ids == []
        alone = model.generate([1] * given.available, max_tokens=1)  # whose token is not computed
        assert len(alone.ids) == 1
        with pytest.raises(ContextFullError):
            model.generate([1] * given.available, max_tokens=2)
