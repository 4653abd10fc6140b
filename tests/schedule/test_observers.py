"""Who is told of generations: of each one's end, once, however it ends."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model, observers
from pellucid.errors import ContextFullError
from tests.engine import models

OPTIONS: dict[str, Any] = {"max_tokens": 5, "ignore_eos": True, "seed": 1}
Told = list[tuple[str, Any]]


class Teller:
    def __init__(self, told: Told) -> None:
        self.told = told

    def ended(self, job: Any) -> None:
        self.told.append((job.finish, len(job.ids) - job.begun))

    def failed(self, error: Exception | None) -> None:
        self.told.append(("failed", None if error is None else type(error)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = models.write(tmp_path_factory.mktemp("observers"), "llama_gqa")
    with Model.load(path, threads=1, context=64) as loaded:
        yield loaded


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    found: Told = []
    monkeypatch.setattr(observers, "begun", lambda job: Teller(found))
    return found


def taken(told: Told) -> Told:
    found = told[:]
    told.clear()
    return found


def test_as_many_begin_as_end(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told of generations that only check options."""
    begun: list[Any] = []
    found: Told = []
    monkeypatch.setattr(observers, "begun", lambda job: begun.append(job) or Teller(found))  # type: ignore[func-returns-value]
    model.generate([[1], [2]], **OPTIONS)
    list(model.stream([[1], [2]], **OPTIONS))
    assert len(begun) == len(found) == 4


def test_each_end_is_told_once(model: Model, told: Told) -> None:
    model.generate([1, 2], **OPTIONS)
    assert taken(told) == [("length", 5)]
    model.generate([1, 2], **{**OPTIONS, "max_tokens": 0})
    assert taken(told) == [("length", 0)]
    model.generate([[1], [2]], n=2, **OPTIONS)
    list(model.map([[1], [2], [3]], **OPTIONS))
    model.submit([1], n=2, **OPTIONS).result()
    assert taken(told) == [("length", 5)] * 9
    with model.context() as context:
        context.generate([1, 2], **OPTIONS)
        context.generate([3], **OPTIONS)
    assert taken(told) == [("length", 5)] * 2

    async def ready(request: Any) -> Any:
        return await request

    async def together() -> None:
        await asyncio.gather(model.agenerate([1], **OPTIONS), ready(model.submit([2], **OPTIONS)))

    asyncio.run(together())
    assert taken(told) == [("length", 5)] * 2


def test_what_ends_early(model: Model, told: Told) -> None:
    with pytest.raises(ContextFullError):
        model.generate([1, 2], max_tokens=100, ignore_eos=True, on_full="error")
    assert taken(told) == [("failed", ContextFullError)]
    with pytest.raises(ContextFullError):
        model.submit([1, 2], max_tokens=100, ignore_eos=True, on_full="error").result()
    assert taken(told) == [("failed", ContextFullError)]
    with model.stream([1, 2], **OPTIONS) as stream:
        next(stream)
    assert taken(told)[0][0] == "cancelled"
    more = {**OPTIONS, "max_tokens": 50}
    request = model.submit([1, 2], ahead=1, **more)  # else the driver of earlier calls may compute it to its end
    next(request)
    request.cancel()
    assert taken(told)[0][0] == "cancelled"
    left: Any = model.stream([1, 2], **more)
    next(left)
    left = model.submit([1, 2], ahead=1, **more)
    next(left)
    del left
    gc.collect()
    with pytest.raises(ValueError, match="stop_ids"):
        model.generate([1], stop_ids=[10**6])
    assert taken(told) == [("failed", None)] * 2
    model.map([[1]], **OPTIONS).close()  # type: ignore[attr-defined]
    assert taken(told) == []


def test_nobody_is_told_unless_asked(model: Model) -> None:
    assert observers.begun is None
    code = "import sys, pellucid; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent).returncode == 0
