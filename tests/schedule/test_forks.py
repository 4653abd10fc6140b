"""Forks of a process whose requests run."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.errors import PellucidError
from pellucid.schedule import run
from tests.engine import models

OPTIONS: dict[str, Any] = {"max_tokens": 200, "ignore_eos": True, "temperature": 1.0, "seed": 3}
IDS = [1 + i % 40 for i in range(60)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.write(tmp_path_factory.mktemp("forks"), "llama_gqa")


def submitted(model: Model) -> Any:
    return model.submit(IDS, **OPTIONS).result()


def in_child(work: Callable[[], bool]) -> None:
    """Runs `work` in a forked child, which must end, and say that all was right."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            assert status == 0
            return
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    raise AssertionError("the child hangs")


def test_of_a_request_that_another_thread_reads(path: Path) -> None:
    """The child has no such thread, which would have its turn for ever."""
    with Model.load(path, threads=1) as model:
        request = model.submit(IDS, ahead=1, **OPTIONS)
        request._turn.acquire()
        reader = threading.Thread(target=request.result)
        reader.start()

        def child() -> bool:
            for read in (request.result, lambda: next(request)):
                with pytest.raises(PellucidError, match="forked"):
                    read()
            return True

        in_child(child)
        request._turn.release()
        reader.join(60)
        assert request.done


def test_while_another_thread_makes_a_scheduler(path: Path) -> None:
    with Model.load(path, threads=1) as model:
        with run._making:
            in_child(lambda: len(model.generate(IDS, **OPTIONS).ids) == 200)


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("driven", [False, True])
def test_with_requests_running(path: Path, driven: bool, cache: bool) -> None:
    """In threads, in a driver, half read, and calls beside them: the parent's go on, the child's begin anew."""
    with Model.load(path, threads=2, prefix_cache=cache) as model:
        expected = model.generate(IDS, **OPTIONS).ids
        score = model.score(IDS).total
        if driven:
            model.drive()
        stop = threading.Event()
        wrong: list[Any] = []

        def busy(call: Callable[[], Any], right: Any) -> None:
            try:
                while not stop.is_set():
                    if call() != right:
                        wrong.append(right)
            except Exception as error:
                wrong.append(error)

        threads = [
            threading.Thread(target=busy, args=(lambda: model.generate(IDS, **OPTIONS).ids, expected)),
            threading.Thread(target=busy, args=(lambda: submitted(model).ids, expected)),
            threading.Thread(target=busy, args=(lambda: model.score(IDS).total, score)),
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in range(6):
                request = model.submit(IDS, ahead=256, **OPTIONS)
                first = next(request)
                stream = model.stream(IDS, **OPTIONS)
                next(stream)

                def child(request: Any = request) -> bool:
                    with pytest.raises(PellucidError, match="forked"):
                        request.result()
                    stats = model.stats()
                    good = (stats.running, stats.waiting) == (0, 0)
                    good = good and model.generate(IDS, **OPTIONS).ids == expected
                    good = good and model.score(IDS).total == score
                    if driven:
                        model.drive()
                    again: Any = model.submit(IDS, **OPTIONS).result()
                    return good and again.ids == expected

                in_child(child)
                assert [*first.ids, *(id for piece in request for id in piece.ids)] == expected
                assert stream.result().ids == expected
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)
        assert not wrong and not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("beside", ["stream", "request", "batch"])
def test_of_streams_that_advanced_beside_each_other(path: Path, beside: str) -> None:
    """The child goes on with tokens that were drawn for one while another was read, and not taken yet."""
    options = {**OPTIONS, "max_tokens": 12}
    with Model.load(path, threads=1) as model:
        expected = model.generate(IDS, **options).ids
        stream = model.stream(IDS, **options)
        next(stream)
        other: Any
        if beside == "batch":
            other = model.stream([IDS, IDS[:9]], **options)
        else:
            other = model.submit(IDS, **options) if beside == "request" else model.stream(IDS, **options)
        for _ in range(3):
            next(other)
        in_child(lambda: stream.result().ids == expected)
        if beside == "stream":
            in_child(lambda: other.result().ids == expected)
        if beside == "batch":
            in_child(lambda: other.result()[0].ids == expected)
        assert stream.result().ids == expected
        other.result()


def test_of_a_stream_whose_next_tokens_are_decided(smollm2: Path) -> None:
    """By a grammar: they have passes only for their log probabilities."""
    regex = "(yes|no), the quick brown fox jumps over the lazy dog and runs away into the dark green forest"
    options: dict[str, Any] = {"regex": regex, "logprobs": 2, "chunk": 4, "max_tokens": 40, "temperature": 0}
    with Model.load(smollm2, threads=1) as model:
        expected = [one.text for one in model.generate(["Is it so?", "Or so?"], **options)]
        for pieces in (2, 5, 7, 9):
            stream: Any = model.stream(["Is it so?", "Or so?"], **options)
            for _ in range(pieces):
                next(stream)

            def texts(stream: Any = stream) -> list[str]:
                return [one.text for one in stream.result()]

            in_child(lambda texts=texts: texts() == expected)  # type: ignore[misc]
            assert texts() == expected
