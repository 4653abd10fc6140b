"""The pool's memory ends at each page: what fits is right, what does not is an error, and nothing is left behind."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.errors import BatchError, ContextFullError, OutOfMemoryError, PellucidError
from pellucid.schedule.caller import Work
from pellucid.schedule.turns import Turns
from tests.engine import models
from tests.families.case import load_golden, write_gguf
from tests.families.cases import BY_NAME

IDS = [1 + i % 40 for i in range(150)]
OPTIONS: dict[str, Any] = {"temperature": 1.0, "seed": 5, "ignore_eos": True, "max_tokens": 4, "logprobs": 1}
LACKS = OutOfMemoryError, ContextFullError


@pytest.fixture(scope="module", params=["llama_gqa", "gemma3", "lfm2"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("allocation")
    if request.param in BY_NAME:
        case = BY_NAME[request.param]
        return write_gguf(case, load_golden(case), folder / "model.gguf")
    return models.write(folder, request.param)


def contexts(model: Model) -> Any:
    with model.context() as context:
        before = context.length
        try:
            context.append(IDS[:70])
        except OutOfMemoryError:
            assert context.length == before  # all or none
            raise
        with context.fork() as fork:
            found = fork.generate(IDS[70:90], **OPTIONS).ids
            return found, context.next(2), context.score([[3, 4], [5]])[0].total


def several(model: Model, prompts: Any, **options: Any) -> Any:
    """Those that fit one after the other are all right, however little there is."""
    try:
        return [one.ids for one in model.generate(prompts, **OPTIONS, **options)]
    except BatchError as error:
        assert all(isinstance(one, LACKS) for one in error.errors.values())
        raise OutOfMemoryError(str(error)) from None


def submitted(model: Model) -> Any:
    return model.submit(IDS, **OPTIONS).result()


CALLS: dict[str, Callable[[Model], Any]] = {
    "generate": lambda m: m.generate(IDS, **OPTIONS).logprobs,
    "copies": lambda m: several(m, IDS[:65], n=3),
    "several": lambda m: several(m, [IDS[:n] for n in (3, 70, 20)]),
    "submit": lambda m: submitted(m).ids,
    "contexts": contexts,
    "score": lambda m: [one.total for one in m.score([IDS, IDS[:30]])],
    "logits": lambda m: m.logits(IDS[:100])[-1].tolist(),
    "embed": lambda m: m.embed([IDS, IDS[:10]], pooling="mean").tolist(),
}


def page(path: Path) -> int:
    """Bytes of the smallest page."""
    with Model.load(path, threads=1) as model, model.context() as context:
        context.append(IDS[:2])
        return min(size for _, size in context._sequence.pages())


@pytest.mark.parametrize("cache", [False, True])
def test_every_limit(path: Path, cache: bool) -> None:
    with Model.load(path, threads=2) as model:
        expected = {name: call(model) for name, call in CALLS.items()}
    step, pages, whole = page(path), 0, False
    while not whole:
        pages += 1
        assert pages < 200
        with Model.load(path, threads=2, cache_bytes=pages * step, prefix_cache=cache) as model:
            whole = True
            for _ in range(2):  # the second time, some is in the prefix cache
                for name, call in CALLS.items():
                    try:
                        found = call(model)
                    except LACKS:
                        whole = False
                    else:
                        assert found == expected[name], (pages, name)
                    if not cache:
                        assert model.stats().cache_bytes_used == 0, (pages, name)
            model.clear_cache()
            stats = model.stats()
            assert (stats.cache_bytes_used, stats.running, stats.waiting) == (0, 0, 0)


def test_what_fits_does_not_depend_on_the_rows_of_a_pass(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside others, or after what was computed before, a pass has fewer rows, for which a window keeps less."""
    step, rows, asked = page(path), Turns.rows, Work.__init__

    def row_by_row(work: Work, *given: Any, **options: Any) -> None:
        asked(work, *given, **options)
        work.most = 1

    names = "generate", "several", "submit", "score", "logits", "embed"
    fits: list[list[set[str]]] = []
    while not fits or fits[-1] != [{*names}, {*names}]:
        assert len(fits) < 200
        fits.append([])
        for few in (False, True):
            with monkeypatch.context() as patch:
                if few:
                    patch.setattr(Turns, "rows", lambda *given, **options: min(rows(*given, **options), 1))
                    patch.setattr(Work, "__init__", row_by_row)
                found = set()
                for name in names:
                    with Model.load(path, threads=1, cache_bytes=len(fits) * step) as model, suppress(*LACKS):
                        CALLS[name](model)
                        found.add(name)
            fits[-1].append(found)
    assert all(one == other for one, other in fits), fits


def test_together_under_every_limit(path: Path) -> None:
    """What fits alone fits beside the others."""
    step = page(path)
    for pages in (*range(1, 12), 16, 24, 40):
        limit = pages * step
        alone: dict[str, Any] = {}
        with Model.load(path, threads=2, cache_bytes=limit) as model:
            for name, call in CALLS.items():
                if name != "contexts":  # which keep their memory between their calls
                    try:
                        alone[name] = call(model)
                    except LACKS:
                        alone[name] = None
        with Model.load(path, threads=2, cache_bytes=limit) as model, ThreadPoolExecutor(len(alone)) as threads:

            def ask(name: str, model: Model = model) -> Any:
                try:
                    return CALLS[name](model)
                except LACKS:
                    return None

            for _ in range(2):
                found = dict(zip(alone, threads.map(ask, alone), strict=True))
                wrong = {name: (alone[name], found[name]) for name in alone if found[name] != alone[name]}
                assert not wrong, (pages, wrong)
            assert model.stats().cache_bytes_used == 0


@pytest.mark.parametrize("submits", [False, True])
def test_an_error_keeps_no_pages(path: Path, submits: bool) -> None:
    """Not even until Python looks for cycles: its traceback refers to what it was raised in."""
    options: dict[str, Any] = {**OPTIONS, "max_tokens": 100, "on_full": "error", "n": 3}
    gc.disable()
    try:
        with Model.load(path, threads=1, context=80, prefix_cache=False) as model:
            with pytest.raises(BatchError) as raised:
                _ = model.submit(IDS[:65], **options).result() if submits else model.generate(IDS[:65], **options)
            assert len(raised.value.errors) == 3 and model.stats().cache_bytes_used == 0
            request = model.submit(IDS[:65], **OPTIONS, n=3)
            next(request)
            request.cancel()
            done: Any = request.result()
            assert [one.finish_reason for one in done] == ["cancelled"] * 3
            assert model.stats().cache_bytes_used == 0
    finally:
        gc.enable()


ERRORS: dict[str, Callable[[Model], Any]] = {
    "generate": lambda m: m.generate(IDS[:60], **OPTIONS, on_full="error"),
    "copies": lambda m: m.generate(IDS[:60], **OPTIONS, n=2, on_full="error"),
    "stream": lambda m: [*m.stream(IDS[:60], **OPTIONS, on_full="error")],
    "submit": lambda m: m.submit(IDS[:60], **OPTIONS, on_full="error").result(),
    "context": lambda m: m.context().generate(IDS[:60], **OPTIONS, on_full="error"),
    "score": lambda m: m.score([IDS]),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_keeps_no_model(path: Path, name: str) -> None:
    """The last reference frees it at once, also after an error, and though it was not closed."""

    def fail() -> weakref.ref[Model]:
        model = Model.load(path, threads=1, context=62)
        with pytest.raises(PellucidError):
            ERRORS[name](model)
        return weakref.ref(model)

    gc.collect()
    gc.disable()
    try:
        assert fail()() is None
    finally:
        gc.enable()
