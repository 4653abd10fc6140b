"""Who uses a context, beside other requests of its model."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.errors import ContextBusyError
from pellucid.schedule import run
from tests.engine import models

OPTIONS: dict[str, Any] = {"max_tokens": 3, "ignore_eos": True, "temperature": 0}


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Model]:
    with Model.load(models.write(tmp_path, "llama_gqa"), threads=1) as loaded:
        yield loaded


def test_a_call_after_a_stream_that_another_thread_ends(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stream leaves to who holds the scheduler's lock is waited for; until the stream ends, it is an error."""
    context = model.context()
    expected = context.generate([1, 2], **OPTIONS).ids
    context.rewind(0)
    scheduler = run.of(model.core)
    stream = context.stream([1, 2], **OPTIONS)
    next(stream)
    with pytest.raises(ContextBusyError):
        context.logits()
    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "_sweep", lambda: None)
        assert stream.result().ids == expected
        calls = [threading.Thread(target=context.logits) for _ in range(2)]
        calls[0].start()
        calls[0].join(0.2)
        assert calls[0].is_alive()
    calls[0].join(20)
    assert not calls[0].is_alive()
    assert context.ids == [1, 2, *expected]


def test_threads_that_use_contexts_of_their_own(model: Model) -> None:
    errors: list[BaseException] = []

    def use(first: int) -> None:
        try:
            context = model.context()
            for i in range(60):
                context.generate([first], **OPTIONS)
                context.rewind(i % 3)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use, args=(first,)) for first in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == [] and not any(thread.is_alive() for thread in threads)


def test_closed_while_it_ends(model: Model) -> None:
    """Whoever is last drops its keys and values."""
    for _ in range(200):
        context = model.context()
        context.append([1, 2, 3])
        ready = threading.Barrier(2)

        def close(context: Any = context, ready: threading.Barrier = ready) -> None:
            ready.wait()
            context.close()

        closing = threading.Thread(target=close)
        closing.start()
        with context.in_use():
            ready.wait()
        closing.join()
        assert "_sequence" not in context.__dict__


@pytest.mark.parametrize("taken", [0, 1])
def test_a_stream_that_is_dropped(tmp_path: Path, taken: int) -> None:
    """Beside another one. Its results that were not taken, and what they are of, do not keep each other."""
    model = Model.load(models.write(tmp_path, "llama_gqa"), threads=1)
    core = weakref.ref(model.core)
    gc.collect()
    gc.disable()
    try:
        context = model.context()
        stream = context.stream([1, 2], **OPTIONS)
        other = model.stream([3], **OPTIONS)
        for _ in range(taken):
            next(stream)
        other.result()
        del stream
        assert len(context.generate([4], **OPTIONS).ids) == 3
        del context, other, model
        assert core() is None
    finally:
        gc.enable()
