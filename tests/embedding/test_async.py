"""aembed and arerank: the results and errors of embed and rerank, and what a cancelled task leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model, _engine
from pellucid.errors import ContextFullError
from tests.embedding.cases import BY_NAME
from tests.embedding.files import DOCUMENTS, QUERY, TEXTS, load_golden, write_folder
from tests.engine.models import same
from tests.generation.counting import Counting
from tests.generation.test_async import run

NAMES = ("qwen3_reranker", "bert_reranker")


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    monkeypatch.setattr(_engine, "Engine", Counting)
    case = BY_NAME[request.param]
    with Model.load(write_folder(case, load_golden(case), tmp_path / "m"), threads=2) as model:
        Counting.reset()
        yield model
    Counting.reset()


def test_results_and_errors(model: Model) -> None:
    expected = model.embed(TEXTS, pooling="mean", dimensions=20), model.rerank(QUERY, DOCUMENTS)

    async def main() -> None:
        tasks = [model.aembed(TEXTS, pooling="mean", dimensions=20) for _ in range(3)]
        ranked = [model.arerank(QUERY, DOCUMENTS) for _ in range(3)]
        for found in await asyncio.gather(*tasks):
            assert same(found, expected[0])
        assert await asyncio.gather(*ranked) == [expected[1]] * 3
        with pytest.raises(ValueError, match="pooling"):
            await model.aembed(TEXTS)
        with pytest.raises(TypeError, match="query"):
            await model.arerank(5, DOCUMENTS)  # type: ignore[arg-type]
        with pytest.raises(ContextFullError, match=r"documents\[1\]"):
            await model.arerank(QUERY, ["a", "words " * 900])

    run(main)


@pytest.mark.parametrize("reranks", [False, True])
def test_cancelled(model: Model, reranks: bool) -> None:
    """The pass that runs ends the work; the model goes on."""

    async def main() -> None:
        loop, begun = asyncio.get_running_loop(), asyncio.Event()
        many: Any = [text[:60] for text in TEXTS] * 200
        Counting.before = lambda: loop.call_soon_threadsafe(begun.set)
        work = model.arerank(QUERY, many) if reranks else model.aembed(many, pooling="last")
        task = asyncio.ensure_future(work)
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(Counting.passes) < 10
        Counting.before = None
        assert np.isfinite(await model.aembed(TEXTS, pooling="last")).all()

    run(main)
