"""What a request gets is what it would get alone, whatever runs beside it and whenever."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pellucid import Completion, Model, Request
from pellucid.schedule import run, speculation
from tests.engine import models
from tests.families.case import load_golden, write_gguf
from tests.families.cases import BY_NAME

KINDS: list[dict[str, Any]] = [
    {"temperature": 0, "logprobs": 2},
    {"temperature": 1.3},
    {"temperature": 1.0, "top_k": 0, "xtc_probability": 0.5, "logprobs": 1},
    {"temperature": 0.9, "repeat_penalty": 1.3, "presence_penalty": 0.5, "dry_multiplier": 0.8},
    {"temperature": 1.0, "mirostat": 2},
    {"temperature": 0, "cache": False},
    {"temperature": 0.7, "chunk": 5},
    {"temperature": 1.5, "stop_ids": list(range(40))},
]
SETTINGS: dict[str, dict[str, Any]] = {
    "one thread": {"threads": 1},
    "two threads, short gaps": {"threads": 2, "max_gap": 0.0},
    "three threads, two at once": {"threads": 3, "sequences": 2, "max_gap": 1.0},
    "two sequences fit": {"threads": 2, "fit": 2.5},
    "two sequences fit, all are admitted": {"threads": 2, "fit": 2.5, "room": False},
    "driven, short gaps": {"threads": 2, "max_gap": 0.0, "driven": True},
    "guesses at any price": {"threads": 2, "guess": True},
    "guesses, driven, two sequences fit": {"threads": 2, "fit": 2.5, "guess": True, "driven": True},
    "driven, two sequences fit, all are admitted": {"threads": 2, "fit": 2.5, "room": False, "driven": True},
}


def requests(n: int, seed: int) -> list[tuple[list[int], dict[str, Any]]]:
    rng = random.Random(seed)
    out = []
    for i in range(n):
        length = rng.choice([1, 2, 5, 20, 63, 64, 65, 120])
        options = {**KINDS[i % len(KINDS)], "seed": i, "max_tokens": rng.choice([1, 3, 8, 20]), "ignore_eos": True}
        out.append(([rng.randrange(60) for _ in range(length)], options))
    rng.shuffle(out)
    return out


async def awaited(request: Request) -> Any:
    return await request


def content(done: Completion) -> Any:
    return done.ids, done.logprobs, done.end, done.finish_reason, done.seed


@pytest.fixture(scope="module", params=["llama_gqa", "gemma3", "lfm2", "mixtral"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("schedule")
    if request.param in BY_NAME:
        case = BY_NAME[request.param]
        yield write_gguf(case, load_golden(case), folder / "model.gguf")
    else:
        yield models.write(folder, request.param)


ASKED = requests(200, 1)


@pytest.fixture(scope="module")
def alone(path: Path) -> list[Any]:
    with Model.load(path, threads=2) as model:
        return [content(model.generate(prompt, speculate=False, **options)) for prompt, options in ASKED]


@pytest.mark.parametrize("setting", SETTINGS)
def test_many_callers(path: Path, alone: list[Any], setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads call generate, stream, and contexts; some of their neighbours leave early."""
    given = dict(SETTINGS[setting])
    if given.pop("guess", False):
        monkeypatch.setattr(speculation, "GAIN", -1.0)
        monkeypatch.setattr(speculation, "BUSY", 1000)
    fit, room, driven = given.pop("fit", None), given.pop("room", True), given.pop("driven", False)
    if fit is not None:
        with Model.load(path, threads=1) as model:
            context = model.context()
            context.append([1] * 140)
            given["cache_bytes"] = int(model.core.engine.info()["cache_bytes_used"] * fit)
    with Model.load(path, **given) as model:
        if not room:  # who does not fit is given up
            run.of(model.core).room.limit = None
        if driven:
            model.drive()

        def ask(i: int) -> Any:
            prompt, options = ASKED[i]
            rng = random.Random(i)
            options = {**options, "speculate": rng.choice(["auto", "auto", False])}
            if rng.random() < 0.3:
                options["prediction"] = [rng.randrange(60) for _ in range(rng.choice([1, 10, 50]))]
            if i % 5 == 1 and fit is None:  # a context keeps its memory between calls
                with model.context() as context:
                    return content(context.generate(prompt, **options))
            if i % 5 == 2:
                stream = model.stream(prompt, **options)
                for _ in stream:
                    if rng.random() < 0.1:
                        threading.Event().wait(0.002)
                return content(stream.result())
            if i % 5 == 4:
                request = model.submit(prompt, n=1 + i % 3, priority=i % 2, key=str(i % 4), **options)
                if i % 2:
                    asked = asyncio.run(awaited(request))
                else:
                    asked = request.result()
                return content(asked[0] if isinstance(asked, list) else asked)
            if i % 5 == 3:  # a neighbour that leaves
                with model.stream(prompt[::-1], max_tokens=50, ignore_eos=True) as stream:
                    for _ in range(rng.randrange(3)):
                        next(stream)
                model.submit(prompt[::-1], max_tokens=50, ignore_eos=True).cancel()
            return content(model.generate(prompt, **options))

        with ThreadPoolExecutor(12) as pool:
            found = list(pool.map(ask, range(len(ASKED))))
        assert found == alone
        scheduler = model.core.scheduler
        until = time.monotonic() + 10  # what was cancelled leaves a pass later at most
        while model.stats().cache_bytes_used and time.monotonic() < until:
            time.sleep(0.01)
        assert scheduler.stats().running == scheduler.stats().waiting == 0
        assert model.core.engine.info()["cache_bytes_used"] == 0
        if not room:
            assert scheduler.preemptions > 0


def test_callers_share_passes(path: Path) -> None:
    with Model.load(path, threads=2) as model:
        begin = threading.Barrier(6)

        def ask(i: int) -> None:
            begin.wait()
            model.generate([i, 1], max_tokens=40, ignore_eos=True, seed=i, speculate=False)  # guesses are rows, too

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(ask, range(6)))
        counts = model.core.scheduler.stats()
        assert counts.rows == 6 * 41 and counts.passes < 6 * 40


def test_a_context_that_is_closed_early_holds_what_was_taken(path: Path) -> None:
    """Though passes that others drove went on for it."""
    with Model.load(path, threads=2) as model:
        expected = model.generate([1, 2], max_tokens=30, temperature=0, ignore_eos=True).ids
        context = model.context()
        stream = context.stream([1, 2], max_tokens=30, temperature=0, ignore_eos=True)
        next(stream)
        model.generate([3], max_tokens=20, ignore_eos=True)  # drives
        assert stream._items.gi_frame is not None and len(context.ids) == 3
        next(stream)
        stream.close()
        assert context.ids == [1, 2, *expected[:2]] and stream.result().ids == expected[:2]
        rest = context.generate(max_tokens=28, temperature=0, ignore_eos=True)
        assert rest.ids == expected[2:]
