"""The prefix cache changes how much is computed, and no bit of what is returned."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from tests.engine import models
from tests.families.case import load_golden, write_gguf
from tests.families.cases import BY_NAME
from tests.schedule.test_same_bits import KINDS, content

NAMES = ["llama_gqa", "gemma3", "lfm2", "granitehybrid", "qwen3moe"]
SYSTEM = [[i % 50 for i in range(n)] for n in (70, 110)]


def talks(n: int, seed: int) -> list[list[tuple[list[int], dict[str, Any]]]]:
    """Conversations of some turns: each prompt goes on from the one before it, with tokens that no answer has; half of
    them begin with one of two system prompts, and some are asked twice."""
    rng = random.Random(seed)
    out: list[Any] = []
    for i in range(n):
        ids = list(rng.choice(SYSTEM)) if rng.random() < 0.7 else []
        turns: list[Any] = []
        for _ in range(rng.choice([1, 2, 3])):
            ids = ids + [rng.randrange(60) for _ in range(rng.choice([1, 3, 20, 40]))]
            options = {**KINDS[len(turns) % len(KINDS)], **KINDS[i % len(KINDS)]}
            options = {**options, "seed": i, "max_tokens": rng.choice([1, 3, 12]), "ignore_eos": True}
            turns.append((ids, options))
        out.append(turns)
        if rng.random() < 0.2:
            out.append(turns)
    rng.shuffle(out)
    return out


@pytest.fixture(scope="module", params=NAMES)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prefix")
    if request.param in BY_NAME:
        case = BY_NAME[request.param]
        return write_gguf(case, load_golden(case), folder / "model.gguf")
    return models.write(folder, request.param)


ASKED = talks(16, 5)


def run(model: Model, turns: list[tuple[list[int], dict[str, Any]]]) -> list[Any]:
    """A conversation: the answers are part of the next prompts."""
    out: list[Any] = []
    answers: list[int] = []
    for ids, options in turns:
        done = model.generate([*ids, *answers], **options)
        answers += done.ids
        out.append(content(done))
    return out


@pytest.fixture(scope="module")
def off(path: Path) -> list[Any]:
    with Model.load(path, threads=2) as model:
        return [run(model, turns) for turns in ASKED]


def used(model: Model) -> int:
    return int(model.core.engine.info()["cache_bytes_used"])


def sequence_bytes(path: Path, tokens: int) -> int:
    with Model.load(path, threads=1) as model, model.context() as context:
        context.append([1] * tokens)
        return used(model)


@pytest.mark.parametrize("limit", ["default", "tiny", "one sequence", "pool"])
@pytest.mark.parametrize("callers", [1, 6])
def test_same_bits(path: Path, off: list[Any], limit: str, callers: int) -> None:
    one = sequence_bytes(path, 250)
    settings: dict[str, dict[str, Any]] = {
        "default": {"prefix_cache": True},
        "tiny": {"prefix_cache": one // 8},
        "one sequence": {"prefix_cache": one},
        "pool": {"prefix_cache": True, "cache_bytes": 3 * one},  # shared with the requests, which evict
    }
    given = settings[limit]
    with Model.load(path, threads=2, **given) as model:
        with ThreadPoolExecutor(callers) as pool:
            assert list(pool.map(lambda turns: run(model, turns), ASKED)) == off
        stats = model.stats()
        if limit in ("default", "one sequence"):
            assert 0 < stats.prefix_hits < stats.prefix_queries
        held = used(model)
        assert held == model.core.scheduler.reuse.bytes
        assert held <= {"tiny": one // 8, "one sequence": one}.get(limit, 1 << 40)
        model.clear_cache()
        assert used(model) == 0
        assert run(model, ASKED[0]) == off[0]


def test_n_share_what_is_known(path: Path) -> None:
    prompt = SYSTEM[1]
    with Model.load(path, threads=1) as model:
        expected = [content(one) for one in model.generate(prompt, n=4, max_tokens=6, seed=3, ignore_eos=True)]
    with Model.load(path, threads=1, prefix_cache=True) as model:
        before = 0
        for _ in range(2):
            before = model.core.scheduler.rows if before else 1
            found = [content(one) for one in model.generate(prompt, n=4, max_tokens=6, seed=3, ignore_eos=True)]
            assert found == expected
        assert model.core.scheduler.rows - before <= 4 * 6
