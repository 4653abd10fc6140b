"""agenerate, astream, achat and aappend: the same results and errors, and what a cancelled task leaves."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pellucid import Completion, Model, _engine
from pellucid.errors import BatchError, ClosedError, ContextBusyError, ContextFullError, TokenizerError
from tests.engine import models
from tests.engine.models import ids_for
from tests.generation.counting import Counting

USER = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}
T = TypeVar("T")


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """asyncio.run; no thread is left."""

    async def checked() -> T:
        before = set(threading.enumerate())
        found = await main()
        assert set(threading.enumerate()) == before
        return found

    return asyncio.run(checked())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    folder = tmp_path_factory.mktemp("async")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_engine, "Engine", Counting)
        with Model.load(models.write(folder, "wide", "K"), threads=2, context=4000) as loaded:
            yield loaded


@pytest.fixture(autouse=True)
def reset() -> Iterator[None]:
    Counting.reset()
    yield
    Counting.reset()


def ids(model: Model, n: int, seed: int = 0) -> list[int]:
    return ids_for(model.core.engine, n, seed=seed)


def same(a: Completion, b: Completion) -> bool:
    return (a.text, a.ids, a.finish_reason, a.prompt_ids) == (b.text, b.ids, b.finish_reason, b.prompt_ids)


# ---- results -----------------------------------------------------------------------------------------------------


def test_results_are_those_of_the_calls_without_async(smol: Model) -> None:
    options: dict[str, Any] = {"max_tokens": 6, "temperature": 0.9, "seed": 3}

    async def main() -> None:
        for one in (smol, smol.context(), smol.edit()):
            done = await one.agenerate("The sky is", **options)
            assert same(done, smol.generate("The sky is", **options))
        texts = ["The sky is", "My dog"]
        for a, b in zip(await smol.agenerate(texts, **options), smol.generate(texts, **options), strict=True):
            assert same(a, b)
        assert len(await smol.agenerate("My dog", n=3, **options)) == 3
        for one in (smol, smol.context()):
            assert same(await one.achat(USER, **options), smol.chat(USER, **options))

    run(main)


def test_streams(smol: Model) -> None:
    options: dict[str, Any] = {"max_tokens": 6, "temperature": 0.9, "seed": 3}
    expected, answer = list(smol.stream("The sky is", **options)), smol.chat(USER, **options)

    async def main() -> None:
        for one in (smol, smol.context()):
            stream = one.astream("The sky is", **options)
            assert stream.text == ""
            pieces = [piece async for piece in stream]
            assert [piece[:4] for piece in pieces] == [piece[:4] for piece in expected]
            assert stream.text == "".join(piece.text for piece in expected)
            assert (await stream.result()).text == stream.text
            assert [piece async for piece in stream] == []
        for chat in (smol.achat, smol.context().achat):
            assert "".join([piece.text async for piece in chat(USER, stream=True, **options)]) == answer.text
            stream = await chat(USER, stream=True, **options)
            await stream.__anext__()
            assert same(await stream.result(), answer)  # the rest at once

    run(main)


def test_streams_of_several(model: Model) -> None:
    prompts = [ids(model, 5), ids(model, 7, seed=1)]
    expected = model.generate(prompts, max_tokens=4, **GREEDY)

    async def main() -> None:
        async with model.astream(prompts, max_tokens=4, **GREEDY) as stream:
            found: list[list[int]] = [[], []]
            async for index, piece in stream:
                found[index] += piece.ids
        assert found == [done.ids for done in expected]
        assert [done.ids for done in await stream.result()] == found and stream.texts == ["", ""]

    run(main)


def test_append(model: Model) -> None:
    async def main() -> None:
        context = model.context()
        assert await context.aappend(ids(model, 30), chunk=8) == 30
        assert Counting.passes == [8, 8, 8, 6]
        assert (context.logits() == model.logits(ids(model, 30))[-1]).all()

    asyncio.run(main())


def test_the_loop_never_computes(model: Model) -> None:
    """Every pass is asked for in another thread."""

    async def main() -> None:
        context = model.context()
        await context.aappend(ids(model, 30))
        await context.agenerate(max_tokens=2, **GREEDY)
        async with context.astream(max_tokens=20, **GREEDY) as stream:
            async for _ in stream:
                break
        await model.agenerate([[1], [2]], n=2, max_tokens=2, **GREEDY)
        await model.astream([1], max_tokens=3, **GREEDY).result()

    run(main)
    assert len(Counting.passes) > 5 and threading.get_ident() not in Counting.threads


def test_several_tasks_at_the_same_time(model: Model) -> None:
    prompts = [ids(model, 20 + i, seed=i) for i in range(8)]
    expected = [model.generate(p, max_tokens=5, **GREEDY).ids for p in prompts]
    Counting.reset()

    async def text(prompt: list[int]) -> list[int]:
        return [id async for piece in model.astream(prompt, max_tokens=5, **GREEDY) for id in piece.ids]

    async def main() -> None:
        found = await asyncio.gather(
            *(model.agenerate(p, max_tokens=5, **GREEDY) for p in prompts), *(text(p) for p in prompts)
        )
        assert [done.ids for done in found[:8]] == expected and list(found[8:]) == expected

    run(main)


# ---- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"temprature": 1}, TypeError, "did you mean 'temperature'"),
        ({"top_p": 2}, ValueError, "top_p=2"),
        ({"cancel": 5}, TypeError, "cancel must be a threading.Event or a callable"),
    ],
)
def test_errors_are_those_of_the_calls_without_async(
    smol: Model, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    async def main() -> None:
        context = smol.context()
        for one in (smol, context):
            calls: list[Awaitable[Any]] = [
                one.agenerate("a", **options), one.achat(USER, **options), one.astream("a", **options).__anext__(),
                one.achat(USER, stream=True, **options).result(),
            ]  # fmt: skip
            for call in calls:
                with pytest.raises(error, match=words):
                    await call
        assert context.length == 0

    run(main)


def test_errors_of_the_state(model: Model, tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(ContextFullError, match="4001 tokens needed, 4000 available"):
            await model.agenerate(ids(model, 4001))
        context = model.context()
        with pytest.raises(ContextFullError):
            await context.aappend(ids(model, 4001))
        stream = context.astream(ids(model, 3), max_tokens=3, **GREEDY)
        await stream.__anext__()
        for call in (context.agenerate([1]), context.aappend([1]), context.astream([1]).result()):
            with pytest.raises(ContextBusyError):
                await call
        await stream.aclose()
        await context.aappend([1])
        context.close()
        with pytest.raises(ClosedError):
            await context.agenerate([1])
        with pytest.raises(TokenizerError):
            await model.achat(USER)
        with pytest.raises(BatchError) as caught:
            await model.agenerate([ids(model, 3990), [1]], on_full="error", max_tokens=50, **GREEDY)
        assert len(caught.value.errors) == 1 and len(caught.value.completions[1].ids) == 50

    run(main)


def test_a_cancel_option_of_the_caller(model: Model) -> None:
    async def main() -> None:
        stop = threading.Event()
        stop.set()
        for cancel in (stop, lambda: True):
            done = await model.agenerate(ids(model, 5), cancel=cancel)
            assert (done.finish_reason, done.ids) == ("cancelled", [])
            assert (await model.astream(ids(model, 5), cancel=cancel).result()).finish_reason == "cancelled"
        assert await model.context().aappend([1], cancel=stop) == 0
        context, asked = model.context(), itertools.count()
        context.append([1, 2])
        late = await context.aappend([3], cancel=lambda: next(asked) > 0)  # after the only pass
        assert (late, context.ids) == (0, [1, 2])

        def broken() -> bool:
            raise StopIteration("of the caller")

        with pytest.raises(RuntimeError, match="StopIteration"):
            await model.agenerate(ids(model, 5), cancel=broken)

    run(main)


# ---- cancelled tasks ---------------------------------------------------------------------------------------------


def cancelled_in_pass(work: Callable[[], Coroutine[Any, Any, Any]], number: int) -> None:
    """Runs work in a task, which is cancelled when its pass of this number begins; no other pass begins."""

    async def main() -> None:
        loop, reached = asyncio.get_running_loop(), asyncio.Event()

        def before() -> None:
            if len(Counting.passes) == number:
                loop.call_soon_threadsafe(reached.set)

        Counting.before = before
        task = asyncio.create_task(work())
        await reached.wait()
        begun = len(Counting.passes)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # The cancelled pass; or it had ended, and the next one had begun.
        assert number <= len(Counting.passes) <= begun + 1
        Counting.before = None

    run(main)


@pytest.mark.parametrize("number", [1, 3])
def test_cancelled_in_a_prefill(model: Model, number: int) -> None:
    context = model.context()
    prompt = ids(model, 3900)
    cancelled_in_pass(lambda: context.agenerate(prompt, max_tokens=5, **GREEDY), number)
    passes = len(Counting.passes)
    assert passes < 8
    # usable at once: it holds the prompt, which a call goes on computing
    assert context.ids == prompt
    done = context.generate(max_tokens=3, **GREEDY)
    assert done.ids == model.generate(prompt, max_tokens=3, **GREEDY).ids


def test_cancelled_in_an_append(model: Model) -> None:
    context = model.context()
    context.append(ids(model, 10))
    Counting.reset()
    cancelled_in_pass(lambda: context.aappend(ids(model, 3900)), 2)
    assert context.ids == ids(model, 10)
    assert context.append([1]) == 1


@pytest.mark.parametrize("streamed", [False, True])
def test_cancelled_while_it_decodes(model: Model, streamed: bool) -> None:
    context = model.context()
    prompt = ids(model, 20)

    async def read() -> None:
        async for _ in context.astream(prompt, max_tokens=3000, **GREEDY):
            pass

    whole = lambda: context.agenerate(prompt, max_tokens=3000, **GREEDY)  # noqa: E731
    cancelled_in_pass(read if streamed else whole, 10)
    n = context.length
    assert 20 + 9 <= n < 100 and context.ids[:20] == prompt
    assert context.ids[20:] == model.generate(prompt, max_tokens=n - 20, **GREEDY).ids
    assert context.generate(max_tokens=2, **GREEDY).ids == model.generate(context.ids[:n], max_tokens=2, **GREEDY).ids


def test_cancelled_in_a_batch(model: Model) -> None:
    prompts = [ids(model, 20), ids(model, 30)]
    cancelled_in_pass(lambda: model.agenerate(prompts, max_tokens=3000, **GREEDY), 5)


def test_a_context_right_after_a_timeout(model: Model) -> None:
    async def main() -> None:
        context = model.context()
        for prompt in (ids(model, 3900), []):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(context.agenerate(prompt or [1], max_tokens=4000, **GREEDY), 0.02)
            context.rewind(1)
            assert context.append([1]) == 1
            context.rewind(0)

    run(main)


def test_the_other_tasks_go_on(model: Model) -> None:
    expected = model.generate(ids(model, 9), max_tokens=20, **GREEDY).ids

    async def main() -> None:
        cut = asyncio.create_task(model.agenerate(ids(model, 3900), max_tokens=50, **GREEDY))
        other = asyncio.create_task(model.agenerate(ids(model, 9), max_tokens=20, **GREEDY))
        await asyncio.sleep(0)
        cut.cancel()
        assert (await other).ids == expected
        with pytest.raises(asyncio.CancelledError):
            await cut

    run(main)


def test_a_task_that_is_cancelled_again_and_again(model: Model) -> None:
    async def main() -> None:
        context = model.context()
        task = asyncio.create_task(context.agenerate(ids(model, 3900), max_tokens=50, **GREEDY))
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        context.rewind(0)

    run(main)


def test_tasks_that_the_loop_cancels_at_its_end(model: Model) -> None:
    context = model.context()

    async def main() -> None:
        task = asyncio.create_task(context.agenerate(ids(model, 3900), max_tokens=50, **GREEDY))
        await asyncio.sleep(0)
        assert not task.done()

    asyncio.run(main())
    assert not [thread for thread in threading.enumerate() if thread.name == "pellucid call"]
    context.rewind(0)


def test_a_loop_that_is_closed_before_its_tasks_end(model: Model) -> None:
    context = model.context()
    loop = asyncio.new_event_loop()

    async def begin() -> asyncio.Task[Any]:
        task = loop.create_task(context.agenerate(ids(model, 100), max_tokens=3800, **GREEDY))
        while not Counting.passes:
            await asyncio.sleep(0.001)
        return task

    task = loop.run_until_complete(begin())
    loop.close()
    for thread in threading.enumerate():
        if thread.name == "pellucid call":
            thread.join()
    assert 100 <= context.length < 3800
    context.rewind(0)  # usable
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio would complain of it


# ---- streams that are left ---------------------------------------------------------------------------------------


def test_leaving_early(model: Model) -> None:
    async def main() -> None:
        context = model.context()
        async for _ in context.astream(ids(model, 20), max_tokens=3000, **GREEDY):
            break
        assert (context.length, Counting.passes) == (21, [20])  # nothing is computed ahead
        assert context.append([1]) == 1
        async with context.astream(max_tokens=3000, **GREEDY) as stream:
            async for _ in stream:
                break
            with pytest.raises(ContextBusyError):
                context.append([1])
        assert context.append([1]) == 1
        assert (await stream.result()).finish_reason == "cancelled"
        await stream.aclose()
        assert [piece async for piece in stream] == []

    run(main)


def test_a_stream_that_never_began(model: Model) -> None:
    async def main() -> None:
        context = model.context()
        stream = context.astream(ids(model, 20), max_tokens=5)
        await stream.aclose()
        assert [piece async for piece in stream] == []
        with pytest.raises(ClosedError, match="before it began"):
            await stream.result()
        assert context.length == 0 and Counting.passes == []

    run(main)


def test_an_exception_in_the_consumer(model: Model) -> None:
    async def main() -> None:
        context = model.context()
        with pytest.raises(ZeroDivisionError):
            async for _ in context.astream(ids(model, 20), max_tokens=3000, **GREEDY):
                1 / 0  # noqa: B018
        assert context.append([1]) == 1 and Counting.passes == [20, 2]

    run(main)


def test_two_tasks_on_a_stream(model: Model) -> None:
    async def main() -> None:
        stream = model.astream(ids(model, 3000), max_tokens=3, **GREEDY)
        task = asyncio.create_task(stream.__anext__())
        await asyncio.sleep(0)
        for use in (stream.__anext__(), stream.result(), stream.aclose()):
            with pytest.raises(ContextBusyError, match="in use by another task"):
                await use
        await task
        assert len([piece async for piece in stream]) == 2

    run(main)


def test_asyncio_is_not_imported_before_it_is_needed() -> None:
    code = "import sys; from pellucid import Model, AsyncStream; print('asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("False", "")
