"""What a request gets is what it would get alone: models of every kind, and real ones, under settings drawn at random.

test_same_bits.py has more of the settings, for fewer models.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.schedule import run, speculation
from tests.families.case import Case, load_golden, write_folder
from tests.families.cases import CASES
from tests.schedule.mixed import OPTIONS, Asked, alone, ids_requests, talks, together

KINDS = [case for case in CASES if case.auto == "AutoModelForCausalLM"]
GAPS = (0.0, 0.02, 0.1, 1.0)
WORDS = "The capital of France is Paris , and a river runs through it . Once upon a time there was".split()


def settings(seed: str, longest: int, path: Path) -> dict[str, Any]:
    """What a model is loaded with, and whether it is driven. longest: tokens of a sequence."""
    r = random.Random(seed)
    out: dict[str, Any] = {"threads": r.choice([1, 2, 3]), "max_gap": r.choice(GAPS)}
    out["prefix_cache"] = r.choice([False, True, 100_000])
    out["sequences"] = r.choice([2, 8, 32])
    out["driven"] = r.random() < 0.5
    if r.random() < 0.5:
        out |= fit(path, 2.5, longest)
    return out


def fit(path: Path, sequences: float, longest: int) -> dict[str, Any]:
    """Room for so many of the longest requests."""
    with Model.load(path, threads=1) as model, model.context() as context:
        context.append([1] * longest)
        return {"cache_bytes": int(model.stats().cache_bytes_used * sequences), "admit": True}


def check(path: Path, asked: list[Asked], expected: list[Any], given: dict[str, Any], seed: int, others: Any) -> None:
    driven, admit = given.pop("driven", False), given.pop("admit", False)
    with Model.load(path, **given) as model:
        if admit:  # who does not fit is given up
            run.of(model.core).room.limit = None
        if driven:
            model.drive()
        found = together(model, asked, seed, others=others)
        wrong = [i for i, (one, alone) in enumerate(zip(found, expected, strict=True)) if one != alone]
        assert not wrong, [asked[i] for i in wrong[:3]]
        model.clear_cache()
        until = time.monotonic() + 10  # what was cancelled leaves a pass later at most
        while model.stats().cache_bytes_used and time.monotonic() < until:
            time.sleep(0.01)
        stats = model.stats()
        assert (stats.running, stats.waiting, stats.cache_bytes_used) == (0, 0, 0)


@pytest.mark.long
@pytest.mark.parametrize("case", KINDS, ids=lambda case: case.name)
def test_every_family(case: Case, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = write_folder(case, load_golden(case), tmp_path / "model")
    n = 33 if request.config.getoption("nightly") else 11  # of each kind of options one
    asked = ids_requests(n, 3, (1, 2, 5, 20, 63, 64, 65, 110))
    with Model.load(path, threads=2) as model:
        expected = alone(model, asked)
    given = settings(case.name, 220, path)
    check(path, asked, expected, given, seed=7, others=[1 + i % 50 for i in range(30)])


# ---- real models ----------------------------------------------------------------------------------------------------

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "note", "description": "", "parameters": PERSON}}]
CALLING: dict[str, Any] = {"tools": TOOLS, "parallel_tool_calls": False}
BOUND: tuple[dict[str, Any], ...] = (
    {"schema": PERSON},
    {**CALLING, "tool_choice": "required"},
    {"regex": "([a-z]{1,9} ){2,9}"},
    {**CALLING, "schema": PERSON},
    {"choice": ["The river", "The town", "Neither of them"]},
    CALLING,
)


def text_requests(n: int, seed: int) -> list[Asked]:
    """Of each three, the last is bound to a structure, or is a conversation with tools."""
    r = random.Random(seed)
    out: list[Asked] = []
    for i in range(n):
        words = [r.choice(WORDS) for _ in range(r.choice((1, 3, 8, 30, 90)))]
        if r.random() < 0.3:
            words[:0] = WORDS * 5
        options: dict[str, Any] = {**OPTIONS[i % len(OPTIONS)], "seed": i, "max_tokens": r.choice([1, 3, 6, 12])}
        options.pop("stop_ids", None)
        if r.random() < 0.3:
            options["stop"] = r.choice([[".", "\n"], ["the"], ["is "], ["e"]])
        prompt: Any = " ".join(words)
        if i % 3 == 2:
            options |= {**BOUND[i // 3 % len(BOUND)], "max_tokens": r.choice([6, 30])}
            if "tools" in options:
                prompt = [{"role": "user", "content": prompt}]
        out.append((prompt, options))
    r.shuffle(out)
    return out


REAL: dict[str, dict[str, Any]] = {
    "one thread, driven": {"threads": 1, "driven": True, "max_gap": 0.02},
    "two threads, prefix cache": {"threads": 2, "prefix_cache": True},
    "three threads, two sequences fit": {"threads": 3, "max_gap": 1.0, "prefix_cache": True, "fit": 2.5},
    "two sequences fit, driven": {"threads": 2, "driven": True, "fit": 2.5, "requests": 100},
    "guesses at any price": {"threads": 2, "prefix_cache": True, "guess": True},
    "a draft model at any price, driven": {"threads": 2, "driven": True, "guess": True, "draft": True},
}


@pytest.fixture(scope="module")
def requests(request: pytest.FixtureRequest) -> list[Asked]:
    return text_requests(200 if request.config.getoption("nightly") else 30, 1)


@pytest.fixture(scope="module")
def smollm2_alone(smollm2: Path, requests: list[Asked]) -> list[Any]:
    with Model.load(smollm2, threads=2) as model:
        return alone(model, requests)


@pytest.mark.parametrize("setting", REAL)
def test_smollm2(
    smollm2: Path, requests: list[Asked], smollm2_alone: list[Any], setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_real(smollm2, requests, smollm2_alone, setting, monkeypatch)


@pytest.fixture(scope="module")
def texts(requests: list[Asked]) -> list[Asked]:
    """Without conversations, for which a base model has no template."""
    return [one for one in requests if not talks(one[0])]


@pytest.fixture(scope="module")
def gemma3_alone(gemma3: Path, texts: list[Asked]) -> list[Any]:
    with Model.load(gemma3, threads=2) as model:
        return alone(model, texts)


@pytest.mark.gemma
@pytest.mark.parametrize("setting", REAL)
def test_gemma3(
    gemma3: Path, texts: list[Asked], gemma3_alone: list[Any], setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_real(gemma3, texts, gemma3_alone, setting, monkeypatch)


def check_real(
    path: Path, asked: list[Asked], expected: list[Any], setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = dict(REAL[setting])
    if given.pop("guess", False):
        monkeypatch.setattr(speculation, "GAIN", -1.0)
        monkeypatch.setattr(speculation, "BUSY", 1000)
    if given.pop("draft", False):
        given["draft"] = path
    sequences, n = given.pop("fit", None), given.pop("requests", len(asked))
    if sequences is not None:
        given |= fit(path, sequences, 300)
    check(path, asked[:n], expected[:n], given, seed=11, others="The river runs through the town and")
