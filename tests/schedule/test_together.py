"""Passes whose results are taken together, where a call gives its whole completions alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pellucid import Completion, Model
from pellucid.errors import BatchError, ContextBusyError, NumericsError, OutOfMemoryError
from pellucid.schedule import run, scheduler
from pellucid.schedule.batch import Batch
from tests.engine import models

PROMPTS = [[i * 7 % 50 + 1] * (1 + i * 5 % 9) for i in range(9)]
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "drawn": {"temperature": 1.2, "seed": 5},
    "log probabilities": {"temperature": 1.0, "seed": 6, "logprobs": 2},
    "penalties": {"temperature": 0.8, "seed": 7, "repeat_penalty": 1.4},
    "mirostat": {"temperature": 1.0, "seed": 8, "mirostat": 2},
    "ends by token": {"temperature": 1.5, "seed": 9, "stop_ids": list(range(20))},
    "without a cache": {"temperature": 0, "cache": False},
}


def content(done: Completion) -> Any:
    return done.ids, done.logprobs, done.end, done.finish_reason


@pytest.fixture(scope="module", params=["llama_gqa", "gemma3", "lfm2"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "lfm2":
        from tests.families.case import load_golden, write_gguf
        from tests.families.cases import BY_NAME

        case = BY_NAME["lfm2"]
        return write_gguf(case, load_golden(case), tmp_path_factory.mktemp("together") / "model.gguf")
    return models.write(tmp_path_factory.mktemp("together"), request.param)


@pytest.fixture
def model(path: Path) -> Iterator[Model]:
    with Model.load(path, threads=1, context=64) as loaded:
        yield loaded


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many passes each batch had."""
    found: list[int] = []
    real = Batch.run

    def noting(self: Batch, *arguments: Any, **options: Any) -> None:
        try:
            real(self, *arguments, **options)
        finally:
            found.append(self.done)

    monkeypatch.setattr(Batch, "run", noting)
    monkeypatch.setattr(scheduler, "LONG", 1e9)  # a busy machine may take its time
    return found


def in_a_row(monkeypatch: pytest.MonkeyPatch, forward: Callable[..., Any]) -> None:
    """Passes that follow one another at once call `forward`, with the engine's own before its arguments."""
    real = Batch.run

    def run_it(self: Batch, engine: Any, busy: Any, **given: Any) -> None:
        changed = SimpleNamespace(forward=partial(forward, engine.forward)) if self.passes > 1 else engine
        real(self, changed, busy, **given)

    monkeypatch.setattr(Batch, "run", run_it)


@pytest.mark.parametrize("speculate", [False, "auto"])
@pytest.mark.parametrize("n", [1, 3, len(PROMPTS)])
@pytest.mark.parametrize("way", WAYS)
def test_the_same_as_piece_by_piece_in_as_many_passes(model: Model, way: str, n: int, speculate: Any) -> None:
    options: dict[str, Any] = {"max_tokens": 21, "ignore_eos": True, "speculate": speculate, **WAYS[way]}
    prompts: Any = PROMPTS[0] if n == 1 else PROMPTS[:n]
    model.generate(prompts, **options)  # its pages are in the prefix cache now
    counted = []
    for read in ("pieces", "whole"):
        before = model.stats()
        with model.stream(prompts, **options) as stream:
            pieces = list(stream) if read == "pieces" else []
            done: Any = stream.result()
        after = model.stats()
        found = [content(one) for one in ([done] if n == 1 else done)]
        counted.append((found, after.rows - before.rows, after.generated_tokens - before.generated_tokens))
        assert bool(pieces) == (read == "pieces")
    if speculate:  # guesses depend on how long passes took
        assert counted[0][0] == counted[1][0]
    else:
        assert counted[0] == counted[1]


def test_many_passes_where_nothing_is_to_be_done_between(model: Model, sizes: list[int]) -> None:
    options: dict[str, Any] = {"max_tokens": 25, "temperature": 0, "ignore_eos": True}
    model.generate(PROMPTS, **options)
    assert sizes.count(run.TOGETHER) == 2 and sum(sizes) <= 26  # prompts and the first tokens by themselves
    for change in ({"repeat_penalty": 1.3}, {"cancel": lambda: False}):
        sizes.clear()
        model.generate(PROMPTS, **{**options, **change})
        assert set(sizes) == {1}, change
    sizes.clear()
    with model.stream(PROMPTS, **options) as stream:
        for _ in stream:
            pass
    assert set(sizes) == {1}


@pytest.mark.parametrize("n", [1, len(PROMPTS)])
def test_long_passes_come_one_by_one(model: Model, sizes: list[int], n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it saves nothing, results are taken, and passes counted, one after the other."""
    monkeypatch.setattr(scheduler, "LONG", 0.0)
    options: dict[str, Any] = {"max_tokens": 12, "temperature": 0, "ignore_eos": True, "speculate": False}
    with model.stream(PROMPTS[0] if n == 1 else PROMPTS, **options) as stream:
        next(stream)
        done: Any = stream.result()
    assert set(sizes) == {1}
    times = (done if n == 1 else done[0]).timings.tokens
    assert len(set(times)) == 12


def test_nobody_waits_for_more_than_a_pass(model: Model, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that comes meanwhile is in the next pass."""
    options: dict[str, Any] = {"max_tokens": 40, "temperature": 0, "ignore_eos": True}
    expected, alone = model.generate(PROMPTS, **options), model.generate(PROMPTS[1], **options)
    entered, come = threading.Event(), threading.Event()
    passes: list[int] = []
    real = Batch.run

    def slow(self: Batch, engine: Any, busy: Any, **given: Any) -> None:
        if self.passes > 1 and not entered.is_set():
            entered.set()
            come.wait(10)
        real(self, engine, busy, **given)
        if come.is_set():
            passes.append(self.done)

    monkeypatch.setattr(Batch, "run", slow)
    found: list[Any] = []
    caller = threading.Thread(target=lambda: found.append(model.generate(PROMPTS, **options)))
    caller.start()
    assert entered.wait(10)
    request = model.submit(prompt_ids=PROMPTS[1], **options)
    assert run.of(model.core)._waiting
    come.set()
    other: Any = request.result()
    caller.join()
    assert passes[0] == 1
    assert content(other) == content(alone)
    assert [content(one) for one in found[0]] == [content(one) for one in expected]


def test_a_call_has_its_turn_meanwhile(model: Model) -> None:
    options: dict[str, Any] = {"max_tokens": 50, "temperature": 0, "ignore_eos": True}
    expected, score = model.generate(PROMPTS, **options), model.score(PROMPTS[2])
    found: list[Any] = []
    caller = threading.Thread(target=lambda: found.extend(model.generate(PROMPTS, **options) for _ in range(20)))
    caller.start()
    until = time.monotonic() + 60
    while caller.is_alive():
        assert model.score(PROMPTS[2]).total == score.total
        assert time.monotonic() < until
    caller.join()
    assert all([content(one) for one in done] == [content(one) for one in expected] for done in found)


@pytest.mark.parametrize("at", [1, 2, 5])
@pytest.mark.parametrize("error", [OutOfMemoryError("no memory"), KeyboardInterrupt(), RuntimeError("broken")])
def test_a_later_pass_fails(model: Model, at: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the passes before gave counts; for lack of memory alone the others go on."""
    options: dict[str, Any] = {"max_tokens": 30, "temperature": 0, "ignore_eos": True}
    expected = [content(one) for one in model.generate(PROMPTS, **options)]
    left = [at]

    def forward(real: Any, *arguments: Any, **given: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise error
        return real(*arguments, **given)

    in_a_row(monkeypatch, forward)
    if isinstance(error, OutOfMemoryError):
        assert [content(one) for one in model.generate(PROMPTS, **options)] == expected
    else:
        with pytest.raises(type(error)):
            model.generate(PROMPTS, **options)
    assert left[0] <= 0
    assert [content(one) for one in model.generate(PROMPTS, **options)] == expected


def test_one_that_fails_takes_nothing_from_the_others(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"max_tokens": 30, "temperature": 0, "ignore_eos": True}
    expected = [content(one) for one in model.generate(PROMPTS, **options)]
    left = [4]

    def forward(real: Any, *arguments: Any, failed: Any, found: Any, **given: Any) -> Any:
        left[0] -= 1
        out = real(*arguments, failed=failed, found=found, **given)
        if left[0] == 0:
            failed[2] = NumericsError("not a number")
            found[len(found) - len(PROMPTS) + 2] = None
        return out

    in_a_row(monkeypatch, forward)
    with pytest.raises(BatchError) as raised:
        model.generate(PROMPTS, **options)
    assert list(raised.value.errors) == [2]
    done = [None if one is None else content(one) for one in raised.value.completions]
    assert [one for i, one in enumerate(done) if i != 2] == [one for i, one in enumerate(expected) if i != 2]


def test_the_first_token_is_taken_at_once(model: Model) -> None:
    done = model.generate([[1], [2], [3]], max_tokens=17, temperature=0, ignore_eos=True)
    for one in done:
        assert one.timings is not None
        assert one.timings.tokens[0] == pytest.approx(one.timings.first_token)
        assert one.timings.tokens[0] < one.timings.tokens[1]


@pytest.mark.parametrize("read", ["pieces", "whole"])
def test_the_prefix_cache_keeps_all_of_them(path: Path, read: str) -> None:
    """What the next turn of a conversation finds, after whole completions as after pieces."""
    options: dict[str, Any] = {"max_tokens": 41, "temperature": 0, "ignore_eos": True, "speculate": False}
    with Model.load(path, threads=1, context=256, prefix_cache=True) as model:
        prompts = [[i, *range(29)] for i in range(3)]
        with model.stream(prompts, **options) as stream:
            for _ in stream if read == "pieces" else ():
                pass
            done = stream.result()
        for prompt, one in zip(prompts, done, strict=True):
            again = model.generate([*prompt, *one.ids, 3, 4], max_tokens=1)
            assert again.timings is not None and again.timings.cached_tokens == 70


def test_map_takes_them_together_unless_it_may_be_cancelled(model: Model, sizes: list[int]) -> None:
    options: dict[str, Any] = {"max_tokens": 25, "temperature": 0, "ignore_eos": True}
    expected = [content(one) for one in model.generate(PROMPTS, **options)]
    sizes.clear()
    assert [content(one) for one in model.map(PROMPTS, **options)] == expected
    assert run.TOGETHER in sizes
    sizes.clear()
    assert [content(one) for one in model.map(PROMPTS, cancel=lambda: False, **options)] == expected
    assert set(sizes) == {1}


def test_a_result_that_is_refused_changes_nothing(
    model: Model, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[ContextBusyError] = []
    real = Batch.run

    def ask() -> None:
        try:
            stream.result()
        except ContextBusyError as error:
            refused.append(error)

    def asked(self: Batch, *arguments: Any, **given: Any) -> None:
        if not refused:
            other = threading.Thread(target=ask)
            other.start()
            other.join()
        real(self, *arguments, **given)

    monkeypatch.setattr(Batch, "run", asked)
    with model.stream(PROMPTS, max_tokens=30, temperature=0, ignore_eos=True) as stream:
        for _ in stream:
            pass
    assert refused and set(sizes) == {1}


def test_what_came_before_an_error_is_kept_and_counted(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = [0]

    def forward(real: Any, *arguments: Any, **given: Any) -> Any:
        if passes[0] == 5:
            raise RuntimeError("broken")
        passes[0] += 1
        return real(*arguments, **given)

    in_a_row(monkeypatch, forward)
    monkeypatch.setattr(scheduler, "LONG", 1e9)
    before = model.stats()
    stream = model.stream(PROMPTS, max_tokens=30, temperature=0, ignore_eos=True, logprobs=0)
    with pytest.raises(RuntimeError, match="broken"):
        stream.result()
    after = model.stats()
    taken = sum(len(one.ids) for one in stream._gathered)
    assert taken == after.generated_tokens - before.generated_tokens >= 5 * len(PROMPTS)
    assert after.rows - before.rows >= taken


def test_one_that_nobody_reads_slows_no_other(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes are gathered in few steps, though its first token is not taken."""
    whole: list[int] = []
    real = scheduler.Scheduler._together

    def together(self: Any) -> Any:
        whole.append(1)
        return real(self)

    monkeypatch.setattr(scheduler.Scheduler, "_together", together)
    requests = [
        model.submit(prompt_ids=[i + 1], max_tokens=40, temperature=0, ignore_eos=True, ahead=1000) for i in range(9)
    ]
    requests[0].result()
    assert len(whole) < 10
