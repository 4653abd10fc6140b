"""Guesses where a grammar binds the text change how many passes it takes, and no bit of it: those of the request's own
tokens, and those of a draft model."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.schedule import speculation
from pellucid.schedule.assistant import attach
from pellucid.schedule.draft import Lookup
from tests.engine import models
from tests.schedule.test_speculation import write
from tests.structure.test_structured import TINY, content, lettered


@pytest.fixture(scope="module", params=["llama_gqa", "gemma3", "lfm2"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(request.param, tmp_path_factory.mktemp("guesses"))


GUESSED: list[dict[str, Any]] = [
    *[one for one in TINY if one and "mirostat" not in one],
    {"regex": "(ab|cab|00)+", "temperature": 1.4, "logprobs": 1},
    {"schema": {"type": "array", "items": {"enum": ["abc", "ab", 0]}}, "temperature": 0},
    {"schema": {"type": "array", "items": {"enum": ["abc", 0]}}, "frequency_penalty": 0.2, "repeat_last": 8},
    {"regex": "(ab|cab|00)+", "ignore_eos": True, "stop_ids": [5], "logit_bias": {3: 1.0}},
    {"grammar": 'start: ("a" "bcd"? | "c")~2..30', "stop": ["caa"]},
]


@pytest.mark.parametrize("company", [False, True], ids=["alone", "beside others"])
def test_guesses_change_no_bit(path: Path, monkeypatch: pytest.MonkeyPatch, company: bool) -> None:
    """Right ones, wrong ones, and those that the grammar does not allow, each with the tokens that must follow it."""
    rng, known = random.Random(3), Lookup.guess

    def guess(self: Lookup, most: int) -> list[int]:
        found = known(self, most)
        if found and rng.random() < 0.4:
            found[rng.randrange(len(found))] = rng.randrange(40)
        return found

    monkeypatch.setattr(Lookup, "guess", guess)
    monkeypatch.setattr(speculation, "GAIN", -1.0)
    requests = [
        ([rng.randrange(20) for _ in range(rng.choice([1, 3, 40]))], {"max_tokens": 40, "seed": i, **options})
        for i, options in enumerate(GUESSED * 2)
    ]
    with lettered(Model.load(path, threads=2)) as model:
        plain = [model.generate(prompt, speculate=False, **options) for prompt, options in requests]
        assert model.stats().drafted_tokens == 0
        others = plain[len(GUESSED) :] + plain[: len(GUESSED)]  # with the same options, and another seed
        told = [
            ({}, {"prediction": own.ids}, {"prediction": other.ids})[i % 3]
            for i, (own, other) in enumerate(zip(plain, others, strict=True))
        ]

        def ask(i: int) -> Any:
            prompt, options = requests[i]
            return model.generate(prompt, **{**options, **told[i]})

        if company:
            with ThreadPoolExecutor(5) as pool:
                done = list(pool.map(ask, range(len(requests))))
        else:
            done = [ask(i) for i in range(len(requests))]
        assert [content(one) for one in done] == [content(one) for one in plain]
        stats = model.stats()
        assert 0 < stats.accepted_tokens < stats.drafted_tokens


# ---- a draft model -------------------------------------------------------------------------------------------------


def with_draft(path: Path, helper: Path, **given: Any) -> tuple[Model, Model]:
    """-> a model, and the one that guesses for it."""
    model, draft = lettered(Model.load(path, threads=2, **given)), lettered(Model.load(helper, threads=1))
    attach(model.core, draft)
    return model, draft


DRAFTS: dict[str, dict[str, Any]] = {
    "itself": {},
    "another": {"seed": 77, "layers": 1},
    "of more tokens": {"seed": 78, "vocab": 340},
    "of fewer": {"seed": 79, "vocab": 280},
}


@pytest.mark.parametrize("company", [False, True], ids=["alone", "beside others"])
@pytest.mark.parametrize("which", DRAFTS)
def test_a_draft_model_changes_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str, company: bool
) -> None:
    rng = random.Random(5)
    monkeypatch.setattr(speculation, "GAIN", -1.0)
    monkeypatch.setattr(Lookup, "__bool__", lambda self: False)
    requests = [
        ([rng.randrange(20) for _ in range(rng.choice([1, 3, 40]))], {"max_tokens": 40, "seed": i, **options})
        for i, options in enumerate([*GUESSED, *[one for one in TINY if "mirostat" in one]])
    ]
    path = models.write(tmp_path, "wide")
    helper = path if which == "itself" else models.write(tmp_path, "wide", **DRAFTS[which])
    model, draft = with_draft(path, helper)
    with draft, model:
        plain = [content(model.generate(prompt, speculate=False, **options)) for prompt, options in requests]
        assert model.stats().drafted_tokens == 0

        def ask(request: tuple[list[int], dict[str, Any]]) -> Any:
            return content(model.generate(request[0], **request[1]))

        if company:
            with ThreadPoolExecutor(5) as pool:
                assert list(pool.map(ask, requests)) == plain
        else:
            assert list(map(ask, requests)) == plain
        stats = model.stats()
        assert stats.drafted_tokens > 40
        if which == "itself":  # it has the mask, the penalties and the random number of each draw
            assert stats.accepted_tokens == stats.drafted_tokens
        else:
            assert stats.accepted_tokens < stats.drafted_tokens


def test_a_draft_model_saves_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of draws between tokens that must follow."""
    monkeypatch.setattr(Lookup, "__bool__", lambda self: False)
    path = models.write(tmp_path, "wide")
    options: dict[str, Any] = {"regex": "((a|b)cdefgh){20}", "max_tokens": 200, "temperature": 1.0, "seed": 3}
    monkeypatch.setattr(speculation, "GAIN", -1.0)
    passes: list[int] = []
    model, draft = with_draft(path, path)
    with draft, model:
        for speculate in ("auto", False):
            before = model.stats().passes
            done = model.generate([1], speculate=speculate, **options)
            assert done.finish_reason == "stop"
            passes.append(model.stats().passes - before)
        assert passes[0] < 10 and passes[1] >= 20
