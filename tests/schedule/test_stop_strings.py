"""Log probabilities of a text's end before a stop string: they take another pass, in turn with others."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model, _engine
from pellucid.generation import Job
from pellucid.schedule import run
from pellucid.schedule.seat import SLICE
from tests.schedule.test_request import content

TEXT = "The capital of France is"


def within_a_word(model: Any) -> str:
    """A stop string that begins within a word of the model's own text, whichever that is: "swer" of " answer"."""
    text = model.generate(TEXT, temperature=0, max_tokens=30).text
    word = re.compile("[a-z]{6,}").search(text, 8)
    assert word, text
    stop = word.group()[2:]
    assert text.index(stop) == word.start() + 2
    return stop


@pytest.mark.parametrize("way", ["thread", "driven", "loop", "generate"])
def test_a_stop_string_where_others_have_the_memory(smollm2: Path, way: str) -> None:
    """What was given up is computed again, in turn with them, for the log probabilities of the text's end."""
    other = list(range(5, 300))
    given: dict[str, Any] = {"temperature": 0, "max_tokens": 30, "logprobs": 1, "seed": 1}
    more: dict[str, Any] = {"temperature": 0, "max_tokens": 20, "ignore_eos": True, "speculate": False}
    with Model.load(smollm2, threads=2) as model:
        given["stop"] = [within_a_word(model)]
        expected, long = model.generate(TEXT, **given), model.generate(other, **more)
        assert expected.finish_reason == "stop" and expected.logprobs
        limit = run.of(model.core).room.need(len(other) + 20)
    with Model.load(smollm2, threads=2, cache_bytes=limit) as model:
        if way == "driven":
            model.drive()
        first: Any = model.stream(TEXT, **given) if way == "generate" else model.submit(TEXT, **given)
        if way == "generate":
            next(first)
        beside = model.submit(other, **more)
        next(beside)  # the first has its answer, or waits for its reader

        async def read() -> Any:
            return await first

        done = asyncio.run(read()) if way == "loop" else first.result()
        assert content(done) == content(expected)
        rest: Any = beside.result()
        assert rest.ids == long.ids
        assert model.stats().preemptions > 0


@pytest.mark.parametrize("begun", [False, True])
def test_a_stop_string_whose_reader_comes_late(smollm2: Path, begun: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left to compute waits for the reader; another request has the memory meanwhile. begun: the reader is
    cancelled while it computes that."""
    other = list(range(5, 300))
    given: dict[str, Any] = {"temperature": 0, "max_tokens": 30, "logprobs": 1, "seed": 1}
    more: dict[str, Any] = {"temperature": 0, "max_tokens": 4, "ignore_eos": True, "speculate": False}
    with Model.load(smollm2, threads=2) as model:
        given["stop"] = [within_a_word(model)]
        expected, long = model.generate(TEXT, **given), model.generate(other, **more)
        limit = run.of(model.core).room.need(len(other) + 20)
    with Model.load(smollm2, threads=2, cache_bytes=limit) as model:
        first, reached, left, score = model.submit(TEXT, **given), threading.Event(), threading.Event(), Job.score

        def slow(job: Job, *arguments: Any) -> None:
            score(job, *arguments)
            if not left.is_set():
                reached.set()
                assert left.wait(60)
                job.scores.clear()
                raise _engine.Cancelled("the call was cancelled")

        async def come_and_go() -> None:
            reading = asyncio.ensure_future(first)
            while not reached.is_set():
                await asyncio.sleep(0.001)
            reading.cancel()
            left.set()
            with pytest.raises(asyncio.CancelledError):
                await reading

        async def read() -> tuple[Any, Any]:
            await anext(first)
            async with asyncio.timeout(60):
                while not first._unscored:
                    await asyncio.sleep(0.001)
                if begun:
                    await come_and_go()
                beside = await model.submit(other, **more)
            return beside, await first

        monkeypatch.setattr(Job, "score", slow if begun else score)
        beside, done = asyncio.run(read())
        assert beside.ids == long.ids and content(done) == content(expected)


@pytest.mark.parametrize("loop", [False, True])
def test_cancel_while_the_end_before_a_stop_string_waits_for_its_turn(smollm2: Path, loop: bool) -> None:
    with Model.load(smollm2, threads=2) as model:
        given: dict[str, Any] = {"temperature": 0, "stop": [within_a_word(model)], "logprobs": 1}
        expected = model.generate(TEXT, **given)
        scheduler, request = run.of(model.core), model.submit(TEXT, **given)
        found: list[Any] = []

        async def read() -> Any:
            return await request

        reading = threading.Thread(target=lambda: found.append(asyncio.run(read()) if loop else request.result()))
        with scheduler.scoring:
            reading.start()
            until = time.monotonic() + 30
            while request._scoring is None and time.monotonic() < until:
                time.sleep(0.001)
            request.cancel()
            reading.join(30)
        assert not reading.is_alive()
        (done,) = found
        assert (done.finish_reason, done.ids) == ("cancelled", expected.ids[: len(done.ids)])
        assert len(expected.ids) > len(done.ids) == len(done.logprobs) > 3
        holders = scheduler._holders
        assert model.stats().cache_bytes_used == 0 and not (holders.leaving or holders.resting or holders.calls)


def test_ends_before_stop_strings_that_wait_for_each_other(smollm2: Path) -> None:
    """The lock was never released where it had been waited for longer than a moment."""
    with Model.load(smollm2, threads=2) as model:
        given: dict[str, Any] = {"temperature": 0, "stop": [within_a_word(model)], "logprobs": 1, "seed": 1}
        expected: Any = model.generate(TEXT, **given)
        scheduler, request = run.of(model.core), model.submit(TEXT, **given)
        found: list[Any] = []
        reading = threading.Thread(target=lambda: found.append(request.result()))
        with scheduler.scoring:
            reading.start()
            until = time.monotonic() + 30
            while request._scoring is None and time.monotonic() < until:
                time.sleep(0.001)
            time.sleep(3 * SLICE)
        reading.join(30)
        assert content(found[0]) == content(expected) and not scheduler.scoring.locked()
        again: Any = model.submit(TEXT, **given).result(timeout=30)
        assert content(again) == content(expected)


def test_a_stop_string_in_what_is_decided_before_it_begins(smollm2: Path) -> None:
    with Model.load(smollm2, threads=2) as model:
        given: dict[str, Any] = {"choice": ["one two three four"], "stop": ["three"]}
        expected = model.generate("Count:", **given)
        done: Any = model.submit("Count:", timeout=0, **given).result()
        assert (done.text, done.ids, done.finish_reason) == (expected.text, expected.ids, "stop")
