"""``Model.map`` and ``Model.score_map``: any number of items, each with the result that it has alone."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model, SamplingOptions, _engine
from pellucid.errors import BatchError, ContextFullError, OutOfMemoryError, PellucidError
from pellucid.look import score
from pellucid.schedule.run import of
from pellucid.text.base import NoTokenizerError
from tests.engine import models
from tests.schedule.test_request import content

OPTIONS: dict[str, Any] = {"max_tokens": 6, "ignore_eos": True, "temperature": 1.0, "logprobs": 1}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.write(tmp_path_factory.mktemp("map"), "llama_gqa")


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[Model]:
    with Model.load(path, threads=2) as loaded:
        yield loaded
        assert loaded.stats().cache_bytes_used == 0


def prompts(n: int) -> list[list[int]]:
    return [[i % 50 + 1] * (1 + i * 7 % 90) for i in range(n)]


@pytest.mark.parametrize("at_once", [1, 3, 64])
def test_results_are_those_of_one_by_one(model: Model, at_once: int) -> None:
    asked = [{"prompt_ids": ids, "max_tokens": 1 + i % 9} if i % 3 else ids for i, ids in enumerate(prompts(20))]
    expected = [
        content(model.generate(ids, **{**OPTIONS, "max_tokens": 1 + i % 9 if i % 3 else 6}, seed=i))
        for i, ids in enumerate(prompts(20))
    ]
    found = list(model.map(asked, at_once=at_once, seeds=itertools.count(), **OPTIONS))
    assert [content(one) for one in found] == expected
    pairs = list(model.map(iter(asked), at_once=at_once, order="done", seeds=range(20), **OPTIONS))
    assert {number: content(one) for number, one in pairs} == dict(enumerate(expected))


@pytest.mark.parametrize("order", ["input", "done"])
def test_endless_items_and_what_is_in_memory(model: Model, order: Any) -> None:
    taken = 0

    def items() -> Iterator[Any]:
        nonlocal taken
        for i in itertools.count():
            taken += 1
            yield {"prompt": [1 + i % 9], "max_tokens": 40 if i % 10 == 0 else 1}

    running: Any = model.map(items(), at_once=5, order=order, **{**OPTIONS, "max_tokens": None})
    for given, _ in enumerate(itertools.islice(running, 40)):
        assert taken <= given + 5
    running.close()
    assert model.stats().running == 0


@pytest.mark.parametrize("n", [400, pytest.param(20_000, marks=pytest.mark.nightly)])
def test_a_column_takes_the_cache_of_what_runs_at_once(path: Path, n: int) -> None:
    at_once, drawn = 8, {**OPTIONS, "max_tokens": 12}
    column = np.random.default_rng(n).integers(1, 50, (n, 90)).tolist()
    with Model.load(path, threads=2) as model:
        expected = [content(model.generate(ids, seed=i, **drawn)) for i, ids in enumerate(column)]
        context = model.context()
        context.generate(column[0], **drawn)
        alone = model.stats().cache_bytes_used
        context.close()
        used, found = [], {}
        for i, done in model.map(column, at_once=at_once, order="done", seeds=itertools.count(), **drawn):
            found[i] = content(done)
            used.append(model.stats().cache_bytes_used)
        assert found == dict(enumerate(expected))
        assert alone < max(used) <= (at_once + 1) * alone


def test_errors(model: Model) -> None:
    asked: list[Any] = [[1], [1] * 9999, {"messages": 1, "prompt": 2}, {"prompt": [2], "temperature": -1}, [3], "text"]
    found = list(model.map(asked, on_error="return", **OPTIONS))
    assert [type(one).__name__ for one in found[:3]] == ["Completion", "ContextFullError", "WrongValue"]
    assert "items[2]: expected one of the keys" in str(found[2]) and "temperature" in str(found[3])
    assert type(found[4]).__name__ == "Completion" and isinstance(found[5], NoTokenizerError)
    running = model.map(asked, **OPTIONS)
    next(running)
    with pytest.raises(ContextFullError):
        next(running)
    assert list(running) == []
    for wrong in ({"items": "text"}, {"items": [[1]], "order": "any"}, {"items": [[1]], "at_once": 0}):
        with pytest.raises((TypeError, ValueError)):
            model.map(**wrong)
    with pytest.raises(ValueError, match="seeds has 1 value: expected one for each"):
        list(model.map([[1], [2]], seeds=[5], **OPTIONS))
    with pytest.raises(TypeError, match=r"seeds\[1\]"):
        list(model.map([[1], [2]], seeds=[5, None], **OPTIONS))  # type: ignore[list-item]
    with pytest.raises(TypeError, match="seeds"):
        model.map([[1]], seeds=1.5, **OPTIONS)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="seeds=-1"):
        model.map([[1]], seeds=-1, **OPTIONS)


def test_an_error_says_which_item_is_wrong(smollm2: Path) -> None:
    """In the order in which they are done, nothing else would."""
    user: Any = {"role": "user", "content": "a"}
    with Model.load(smollm2, context=64, threads=2) as model:
        for wrong, message in (
            ("\ud800", "items[1]: prompt: the text has a lone surrogate"),
            ("word " * 99, "items[1]: prompt is too long: 100 tokens needed, 64 available"),
            ([{"role": "user"}], 'items[1]: messages[0]: no "content"'),
            ([user, {"role": "user", "content": "\ud800"}], "items[1]: messages[1]['content']: lone surrogate"),
            ({"messages": [user], "template": "{{"}, "items[1]: the chat template is broken"),
            ({"prompt": "a", "schema": {"not": {}}}, "items[1].schema"),
            ({"prompt": "a", "top_p": 2}, "items[1]: top_p=2: expected 0 to 1"),
        ):
            alone = dict(model.map(["a", wrong], order="done", on_error="return", max_tokens=1))[1]
            with pytest.raises(type(alone) if isinstance(alone, PellucidError) else (ValueError, TypeError)) as raised:
                list(model.map(["a", wrong], order="done", max_tokens=1))
            assert str(raised.value).startswith(message), raised.value
            assert getattr(raised.value, "needed", None) == getattr(alone, "needed", None)


@pytest.mark.parametrize("at_once", [1, 8])
def test_items_that_do_not_fit_the_cache_fail_alone(model: Model, path: Path, at_once: int) -> None:
    """One whose prompt could never fit, and one that is found too long when it is computed."""
    given: dict[str, Any] = {"max_tokens": 3, "temperature": 0, "ignore_eos": True, "speculate": False}
    asked: list[Any] = [[1], [1] * 250, {"prompt": [1] * 120, "max_tokens": 20}, [2], [3]]
    expected = [content(model.generate(ids, seed=1, **given)) for ids in ([1], [2], [3])]
    with Model.load(path, threads=1, cache_bytes=of(model.core).room.need(128)) as small:
        found = list(small.map(asked, at_once=at_once, on_error="return", seeds=[1] * 5, **given))
        assert [content(found[i]) for i in (0, 3, 4)] == expected
        assert [type(found[i]) for i in (1, 2)] == [ContextFullError, OutOfMemoryError]
        with pytest.raises(BatchError) as raised:
            small.generate([[1], [1] * 120, [1] * 3], **{**given, "max_tokens": 20})
        scored = list(small.score_map([[1, 2], [1] * 250], on_error="return"))
        assert isinstance(scored[1], OutOfMemoryError) and scored[0] == model.score([1, 2])
        assert [*raised.value.errors] == [1] and raised.value.completions[0].ids[:3] == expected[0][0]
        assert small.stats().cache_bytes_used == 0


def test_one_seed_gives_each_item_its_own(model: Model) -> None:
    drawn: Any = {"max_tokens": 6, "temperature": 2.0, "ignore_eos": True}
    first, again, other = ([done.seed for done in model.map([[1]] * 9, seeds=s, **drawn)] for s in (5, 5, 6))
    assert first == again and len({*first, *other}) == 18
    asked = [[1]] * 9
    expected = [content(model.generate([1], seed=seed, **drawn)) for seed in first]
    assert [content(done) for done in model.map(asked, seeds=5, at_once=2, **drawn)] == expected


def test_an_error_of_the_iterable_is_raised(model: Model) -> None:
    def items() -> Iterator[Any]:
        yield [1]
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(model.map(items(), **OPTIONS))


def test_cancel_ends_it_though_items_are_endless(model: Model) -> None:
    stop = threading.Event()
    running = model.map(itertools.repeat([1]), at_once=3, cancel=stop, speculate=False, **OPTIONS)
    next(running)
    stop.set()
    left = list(running)
    assert len(left) <= 6 and left[-1].finish_reason == "cancelled"


def test_cancel_that_is_true_once_ends_it_for_good(model: Model) -> None:
    answers = iter([False] * 5 + [True])
    running = model.map(itertools.repeat([1]), at_once=3, cancel=lambda: next(answers, False), **OPTIONS)
    assert len(list(itertools.islice(running, 20))) <= 6


def test_options_of_an_item_win(model: Model) -> None:
    """Keywords of its own over its object, that over keywords of the call, and these over the call's object."""
    mine = SamplingOptions(max_tokens=2, seed=7)
    asked: list[Any] = [
        [1],
        {"prompt": [1], "options": mine},
        {"prompt": [1], "options": mine, "max_tokens": 4},
        {"prompt": [1], "options": SamplingOptions(seed=8)},
        {"prompt": [1], "options": SamplingOptions(cancel=threading.Event())},
        {"prompt": [1], "options": 5},
    ]
    base = SamplingOptions(max_tokens=9, temperature=0.0, ignore_eos=True)
    found: list[Any] = list(model.map(asked, options=base, max_tokens=5, on_error="return"))
    assert [len(one.ids) for one in found[:4]] == [5, 2, 4, 5] and [one.seed for one in found[1:4]] == [7, 7, 8]
    assert all(one.options.temperature == 0 for one in found[:4])
    assert "cancel belongs to the whole call" in str(found[4]) and isinstance(found[5], TypeError)


def test_messages_and_texts(smollm2: Path) -> None:
    with Model.load(smollm2, threads=2) as model:
        messages = [{"role": "user", "content": "Hello"}]
        asked: list[Any] = ["The sky", messages, {"messages": messages, "max_tokens": 2}]
        found = list(model.map(asked, max_tokens=3, temperature=0, seeds=[1, 1, 1]))
        assert content(found[0]) == content(model.generate("The sky", max_tokens=3, temperature=0, seed=1))
        assert content(found[1]) == content(model.chat(messages, max_tokens=3, temperature=0, seed=1))
        assert content(found[2]) == content(model.chat(messages, max_tokens=2, temperature=0, seed=1))


def test_scores(model: Model) -> None:
    asked = prompts(10)
    expected = [model.score(ids, top=2) for ids in asked]
    assert list(model.score_map(asked, at_once=3, top=2)) == expected
    assert list(model.score_map(asked, at_once=3, top=2, order="done")) == list(enumerate(expected))
    bad: list[Any] = [asked[0], [10**6], asked[1]]
    found = list(model.score_map(bad, on_error="return", top=2))
    assert [found[0], found[2]] == expected[:2] and isinstance(found[1], ValueError)
    with pytest.raises(ValueError, match="1000000"):
        list(model.score_map(bad))


@pytest.mark.parametrize("fails", ["an item", "all together"])
def test_scores_of_items_that_can_be_read_once(model: Model, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    expected = [model.score([1, 2, 3]), model.score([4, 5])]
    scores = score._scores

    def alone(core: Any, many: Any, *rest: Any) -> Any:
        if fails == "all together" and len(many) > 1:
            raise OutOfMemoryError("no memory for all")
        return scores(core, many, *rest)

    monkeypatch.setattr(score, "_scores", alone)
    found = list(model.score_map([iter([1, 2, 3]), iter([10**6]), (i for i in (4, 5))], on_error="return"))
    assert [found[0], found[2]] == expected and isinstance(found[1], ValueError)


def test_numbers_are_no_texts_to_score(model: Model) -> None:
    """Several of them are not the ids of one text, either; and what belongs to the call is refused at once."""
    for items in ([5], [5, 7], [[1, 2], 5]):
        with pytest.raises(TypeError, match=rf"^items\[{len(items) - 1 if items[0] != 5 else 0}\]: text must be text"):
            list(model.score_map(items))  # type: ignore[arg-type]
    found = list(model.score_map([5, [1, 2]], on_error="return"))  # type: ignore[call-overload]
    assert isinstance(found[0], TypeError) and found[1] == model.score([1, 2])
    for options in ({"top": -1}, {"window": 1}):
        with pytest.raises(ValueError, match=f"^{next(iter(options))}="):
            model.score_map([[1, 2]], **options)  # type: ignore[call-overload]


def test_a_task_that_is_cancelled_ends_scores(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the items in flight, too."""
    found: list[BaseException] = []
    gate, begun, ended = threading.Event(), threading.Event(), threading.Event()

    def noted(*arguments: Any) -> Any:
        begun.set()
        assert gate.wait(30)
        try:
            return scores(*arguments)
        except BaseException as error:
            found.append(error)
            raise
        finally:
            ended.set()

    scores = score._scores
    monkeypatch.setattr(score, "_scores", noted)

    async def first() -> Any:
        return await anext(model.ascore_map(prompts(64)))

    async def run() -> None:
        task = asyncio.ensure_future(first())
        await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        await asyncio.sleep(0.01)
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert ended.wait(30)
    assert [type(one) for one in found] == [_engine.Cancelled]
    with pytest.raises(TypeError, match="cancel: not an option"):
        model.ascore_map([[1]], cancel=threading.Event())  # type: ignore[call-overload]


def test_for_asyncio(model: Model) -> None:
    async def run() -> None:
        found = [one async for one in model.amap(prompts(6), seeds=range(6), at_once=2, **OPTIONS)]
        expected = list(model.map(prompts(6), seeds=range(6), **OPTIONS))
        assert [content(one) for one in found] == [content(one) for one in expected]
        scores = [one async for one in model.ascore_map(prompts(6), at_once=4)]
        assert scores == list(model.score_map(prompts(6)))

        async def endless() -> None:
            async for _ in model.amap(itertools.repeat([1]), **{**OPTIONS, "max_tokens": 100}):
                pass

        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(endless(), 0.05)

    asyncio.run(run())
