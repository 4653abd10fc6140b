"""Guesses change how many passes an answer takes, and no bit of it."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from pellucid import Model
from pellucid.errors import OutOfMemoryError, TokenizerError
from pellucid.schedule import speculation
from pellucid.schedule.draft import Lookup
from tests.engine import models
from tests.families.case import load_golden, write_gguf
from tests.families.cases import BY_NAME
from tests.reference import tiny
from tests.schedule.test_same_bits import content

KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0, "logprobs": 2},
    "sampled": {"temperature": 1.3},
    "xtc": {"temperature": 1.0, "top_k": 0, "xtc_probability": 0.5, "logprobs": 1},
    "filters": {"temperature": 1.1, "top_k": 20, "top_p": 0.9, "typical_p": 0.95, "top_n_sigma": 3.0},
    "dynatemp": {"temperature": 0.9, "dynatemp_range": 0.4, "min_p": 0.0},
    "penalties": {"temperature": 0.5, "repeat_penalty": 1.1, "presence_penalty": 0.1, "frequency_penalty": 0.05},
    "penalties of few": {"temperature": 0, "frequency_penalty": 1.0, "repeat_last": 2},
    "bias": {"temperature": 0.7, "logit_bias": {1: 3.0, 2: -np.inf}},
    "stop ids": {"temperature": 1.0, "stop_ids": list(range(0, 60, 7))},
    "order": {"temperature": 1.0, "samplers": ["temperature", "top_k", "penalties"], "repeat_penalty": 1.2},
}
OFF: dict[str, dict[str, Any]] = {
    "dry": {"temperature": 0.9, "dry_multiplier": 0.8},
    "mirostat": {"temperature": 1.0, "mirostat": 2},
    "no cache": {"temperature": 0, "cache": False},
    "one row": {"temperature": 0, "chunk": 1},
}
NAMES = ["llama_gqa", "gemma3", "mixtral", "gpt_oss", "lfm2", "granitehybrid"]
PROMPT = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5]
MORE: dict[str, Any] = {"max_tokens": 60, "ignore_eos": True, "seed": 5}


def write(name: str, folder: Path) -> Path:
    if name in BY_NAME:
        return write_gguf(BY_NAME[name], load_golden(BY_NAME[name]), folder / f"{name}.gguf")
    return models.write(folder, name)


@pytest.fixture(scope="module", params=[name for name in NAMES if name in BY_NAME or name in models.BY_NAME])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(request.param, tmp_path_factory.mktemp("speculation"))


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guesses whatever they are worth, some of them wrong in the middle."""
    rng = random.Random(3)
    known = Lookup.guess

    def guess(self: Lookup, most: int) -> list[int]:
        found = known(self, most)
        if found and rng.random() < 0.3:
            found[rng.randrange(len(found))] = rng.randrange(60)
        return found

    monkeypatch.setattr(Lookup, "guess", guess)
    monkeypatch.setattr(speculation, "GAIN", -1.0)


@pytest.mark.parametrize("kind", [*KINDS, *OFF])
@pytest.mark.usefixtures("eager")
def test_same_bits(path: Path, kind: str) -> None:
    options = {**MORE, **KINDS.get(kind, OFF.get(kind, {}))}
    prompts = [PROMPT, [9], [i % 11 for i in range(130)]]
    with Model.load(path, threads=2) as model:
        plain = [content(model.generate(one, speculate=False, **options)) for one in prompts]
        assert model.stats().drafted_tokens == 0
        done = [model.generate(one, **options) for one in prompts]
        assert [content(one) for one in done] == plain
        stats = model.stats()
        assert 0 <= stats.accepted_tokens <= stats.drafted_tokens
        assert stats.drafted_tokens == sum(one.timings.drafted_tokens for one in done)
        assert stats.accepted_tokens == sum(one.timings.accepted_tokens for one in done)
        if kind in OFF:
            assert stats.drafted_tokens == 0
        told = model.generate(PROMPT, prediction=done[0].ids, **options)
        assert content(told) == plain[0]
        if kind in KINDS and len(told.ids) > 8:
            assert told.timings.accepted_tokens > 0
        assert content(model.generate(PROMPT, prediction=done[2].ids, **options)) == plain[0]
        for batch in (model.generate(prompts, **options), list(model.map(prompts, **options))):
            seeds = [one.seed for one in batch]
            again = [
                content(model.generate(p, **{**options, "seed": s}, speculate=False))
                for p, s in zip(prompts, seeds, strict=True)
            ]
            assert [content(one) for one in batch] == again
        request = model.submit(PROMPT, **options)
        one: Any = request.result()
        assert content(one) == plain[0]
        assert 0 <= request.stats.accepted <= request.stats.drafted
        assert kind == "no cache" or request.stats.prefilled == len(PROMPT)


@pytest.mark.usefixtures("eager")
def test_contexts_and_streams(path: Path) -> None:
    """They hold what was taken, wherever they are left; a window of it can be gone back to."""
    with Model.load(path, threads=2) as model:
        expected = model.generate(PROMPT, temperature=0, speculate=False, **MORE).ids
        for n in (1, 2, 7, 20, 45):
            with model.context() as context:
                with context.stream(PROMPT, temperature=0, **MORE) as stream:
                    for _ in range(n):
                        next(stream)
                assert context.ids == [*PROMPT, *expected[:n]]
                rest = context.generate(temperature=0, **{**MORE, "max_tokens": 60 - n})
                assert rest.ids == expected[n:]
                assert context.ids == [*PROMPT, *expected]
                context.rewind(len(PROMPT) + n)
                assert context.generate(temperature=0, **{**MORE, "max_tokens": 60 - n}).ids == expected[n:]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("most", [1, 2, 3, 5, 9, 10])
def test_lengths_and_a_full_context(path: Path, most: int) -> None:
    with Model.load(path, threads=1, context=40) as model:
        for on_full in ("stop", "error"):
            for n in (most, 100):
                options = {"temperature": 0, "max_tokens": n, "ignore_eos": True, "on_full": on_full, "seed": 1}
                found = []
                for speculate in ("auto", False):
                    prompt = PROMPT[: most + 1]
                    try:
                        found.append(content(model.generate(prompt, speculate=speculate, **options)))  # type: ignore[call-overload]
                    except Exception as error:
                        found.append(str(error))
                assert found[0] == found[1]


@pytest.mark.usefixtures("eager")
def test_a_reader_that_lags(path: Path) -> None:
    """It is never further ahead than without guesses."""
    with Model.load(path, threads=1) as model:
        expected = model.generate(PROMPT, temperature=0, speculate=False, **MORE).ids
        for ahead in (1, 2, 3, 8):
            request = model.submit(PROMPT, temperature=0, ahead=ahead, **MORE)
            model.drive()
            ids: list[int] = []
            for piece in request:
                threading.Event().wait(0.001)
                job = request._works[0].job
                assert len(job.drawn) - len(ids) - len(piece.ids) <= ahead
                ids += piece.ids
            assert ids == expected
            if ahead == 1:
                assert request.stats.drafted == 0


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("fit", [None, 2.5])
def test_beside_others(path: Path, prefix: bool, fit: float | None) -> None:
    """Neighbours, of whom some leave; too little memory for all; what the prefix cache keeps of each.

    Every third is told its answer, as the texts of some of these models never repeat themselves.
    """
    rng = random.Random(7)
    asked: list[tuple[list[int], dict[str, Any]]] = []
    for i in range(24):
        prompt = [rng.randrange(12) for _ in range(rng.choice([3, 20, 64, 100]))]
        options = {**KINDS[rng.choice(list(KINDS))], "seed": i, "max_tokens": rng.choice([3, 20, 40])}
        asked.append((prompt, {**options, "ignore_eos": True}))
    with Model.load(path, threads=2) as model:
        alone = [content(model.generate(prompt, speculate=False, **options)) for prompt, options in asked]
        with model.context() as context:
            context.append([1] * 160)
            size = int(model.core.engine.info()["cache_bytes_used"])
    given: dict[str, Any] = {} if fit is None else {"cache_bytes": int(fit * size)}
    with Model.load(path, threads=2, prefix_cache=prefix, **given) as model:

        def ask(i: int) -> Any:
            prompt, options = asked[i]
            if i % 3 == 0:
                options = {**options, "prediction": alone[i][0]}
            if i % 4 == 1:
                with model.stream(prompt, max_tokens=50, ignore_eos=True) as stream:
                    for _ in range(i % 5):
                        next(stream)
            if i % 4 == 2:

                async def awaited() -> Any:
                    return await model.submit(prompt, **options)

                return content(asyncio.run(awaited()))
            return content(model.generate(prompt, **options))

        for _ in range(2):
            with ThreadPoolExecutor(6) as pool:
                assert list(pool.map(ask, range(len(asked)))) == alone
        assert model.stats().drafted_tokens > 0
        if prefix and fit is None:  # what it keeps are the tokens that were drawn
            for root, ids in model.core.scheduler.kept():
                sequence = model.core.scheduler.copy(root, ids)
                assert sequence.length == len(ids)
                fresh = model.core.engine
                one = models.sequence(fresh, ids[:-1])
                got = [np.empty((1, fresh.vocab), np.float32) for _ in range(2)]
                if sequence.rewind(len(ids) - 1) != len(ids) - 1:
                    continue
                for out, each in zip(got, (sequence, one), strict=True):
                    fresh.forward([(each, ids[-1:], 0)], out=out)
                assert models.same(*got), root


@pytest.mark.usefixtures("eager")
def test_stop_strings(smollm2: Path) -> None:
    text = "One, two, three. One, two, three. One, two, three. One, two,"
    with Model.load(smollm2, threads=2, context=256) as model:
        for stop in (" two", ". O", ["three", " "], "e. One, t"):
            for prediction in (None, " three. One, two, three. One, two, three."):
                options: dict[str, Any] = {"stop": stop, "temperature": 0, "max_tokens": 24, "logprobs": 1, "seed": 2}
                plain = model.generate(text, speculate=False, **options)
                done = model.generate(text, prediction=prediction, **options)
                assert (done.text, content(done)) == (plain.text, content(plain))
                with model.context() as context:
                    assert context.generate(text, prediction=prediction, **options).text == plain.text
                    assert context.ids == [*plain.prompt_ids, *plain.ids]


@pytest.mark.gemma
@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("kind", ["greedy", "sampled", "penalties"])
def test_windows_of_a_real_model(gemma3: Path, kind: str) -> None:
    """Beyond its window of 512 tokens; a context goes back to where it was left."""
    ids = [200 + i % 37 for i in range(700)]
    options = {**MORE, **KINDS[kind], "max_tokens": 90}
    with Model.load(gemma3, threads=2, context=1024) as model:
        plain = model.generate(ids, speculate=False, **options)
        done = model.generate(ids, prediction=[*plain.ids[:30], 5, *plain.ids[30:]], **options)
        assert content(done) == content(plain) and done.timings.accepted_tokens > 10
        with model.context() as context:
            with context.stream(ids, prediction=plain.ids, **options) as stream:
                for _ in range(40):
                    next(stream)
            assert context.ids == [*ids, *stream.result().ids]
            rest = context.generate(temperature=0, speculate=False, max_tokens=8, ignore_eos=True)
        again = model.generate(rest.prompt_ids, temperature=0, speculate=False, max_tokens=8, ignore_eos=True)
        assert rest.ids == again.ids


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("requests", [7, 8])
def test_many_that_decode_have_none(tmp_path: Path, requests: int) -> None:
    """Their rows use a pass without guesses."""
    with Model.load(models.write(tmp_path, "llama_gqa"), threads=1) as model:
        expected = model.generate(PROMPT, temperature=0, speculate=False, **MORE).ids
        done = model.generate([PROMPT] * requests, temperature=0, prediction=expected, **MORE)
        assert all(one.ids == expected for one in done)
        assert (model.stats().drafted_tokens > 0) == (requests < 8)


def test_repeated_text_takes_fewer_passes(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that repeats itself is all guesses, whatever they cost here."""
    monkeypatch.setattr(speculation, "GAIN", -1.0)
    text = "red green blue yellow black white. " * 12
    with Model.load(smollm2, threads=2, context=512) as model:
        options: dict[str, Any] = {"temperature": 0, "max_tokens": 96, "ignore_eos": True}
        plain = model.generate(text, speculate=False, **options)
        before = model.stats().passes
        done = model.generate(text, **options)
        assert done.ids == plain.ids
        assert model.stats().passes - before < 80 and done.timings.accepted_tokens > 30


BAD = 5  # a token whose embedding is not finite


def test_a_guess_that_cannot_be_computed_harms_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(name: str, value: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], Any]:
        if name == "token_embd.weight":
            value = value.copy()
            value[BAD, 3] = np.nan
        return value, gguf.GGMLQuantizationType.F32

    path = tmp_path / "broken.gguf"
    tiny.write_gguf(models.NARROW, path, context=256, encode=encode)
    monkeypatch.setattr(speculation, "GAIN", -1.0)
    options: dict[str, Any] = {**MORE, "temperature": 0, "logit_bias": {BAD: -np.inf}, "max_tokens": 20}
    with Model.load(path, threads=1) as model:
        plain = model.generate([1, 2, 3], speculate=False, **options)
        wrong = [*plain.ids[:2], BAD, BAD, *plain.ids]
        beside = model.generate([4, 6], speculate=False, **options)
        done = model.generate([[1, 2, 3], [4, 6]], prediction=wrong, **{**options, "seed": None})
        assert [one.ids for one in done] == [plain.ids, beside.ids]
        assert model.generate([1, 2, 3], prediction=wrong, **options).ids == plain.ids


def test_guesses_for_which_there_is_no_memory_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request alone fills all that there is, as without guesses: the last page is used to its end."""
    monkeypatch.setattr(speculation, "GAIN", -1.0)
    path = models.write(tmp_path, "llama_gqa")
    with Model.load(path, threads=1) as model, model.context() as context:
        context.append([1] * 64)
        page = int(model.core.engine.info()["cache_bytes_used"])
    prompt = [1, 2, 3, 4] * 14
    with Model.load(path, threads=1, cache_bytes=page) as model:
        ends = []
        for speculate in ("auto", False):
            ids: list[int] = []
            with pytest.raises(OutOfMemoryError):
                for piece in model.stream(prompt, temperature=0, speculate=speculate, **MORE):
                    ids += piece.ids
            ends.append(ids)
        assert ends[0] == ends[1] and len(ends[0]) == 64 - len(prompt) + 1


def test_options_are_checked(tmp_path: Path) -> None:
    with Model.load(models.write(tmp_path, "llama_gqa"), threads=1) as model:
        for options, error, text in (
            ({"speculate": True}, ValueError, "speculate=True: expected 'auto' or False"),
            ({"speculate": "yes"}, ValueError, "speculate='yes': expected 'auto' or False"),
            ({"prediction": 3}, TypeError, "prediction=3: expected a text or a sequence of token ids"),
            ({"prediction": [10**6]}, ValueError, "prediction"),
            ({"prediction": [-1]}, ValueError, "prediction"),
            ({"prediction": "text"}, TokenizerError, "no tokenizer"),
            ({"prediction": "text", "mirostat": 2}, TokenizerError, "no tokenizer"),
        ):
            with pytest.raises(error, match=text):
                model.generate([1], **options)
        assert model.generate([1], prediction=[], max_tokens=1).options.speculate == "auto"
        assert model.generate([1], prediction="", max_tokens=1, speculate=None).ids


# ---- another model that guesses --------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["itself", "another", "of windows"])
def draft(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("draft")
    name, changes = {
        "itself": ("wide", {}),
        "another": ("wide", {"seed": 77, "layers": 1}),
        "of windows": ("wide_gemma", {}),
    }[request.param]
    yield models.write(folder, name, "F32", **changes)


@pytest.mark.parametrize("kind", [*KINDS, *OFF])
def test_a_draft_model_changes_no_bit(tmp_path: Path, draft: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(speculation, "GAIN", -1.0)
    options = {**MORE, **KINDS.get(kind, OFF.get(kind, {}))}
    prompts = [PROMPT, [9], [i * 7 % 300 for i in range(290)]]
    path = models.write(tmp_path, "wide")
    with Model.load(path, threads=1) as model:
        plain = [content(model.generate(one, **options)) for one in prompts]
    with Model.load(path, threads=2, draft=draft) as model:
        assert [content(model.generate(one, **options)) for one in prompts] == plain
        with ThreadPoolExecutor(3) as pool:
            assert list(pool.map(lambda one: content(model.generate(one, **options)), prompts)) == plain
        stats = model.stats()
        if kind in OFF:
            assert stats.drafted_tokens == 0
        else:
            assert stats.drafted_tokens > 0
        helper = model.core.draft
        assert helper is not None
    assert helper.closed


def test_a_model_guesses_all_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what is drawn at random: guesses use the random numbers of what they guess."""
    path = models.write(tmp_path, "wide")
    monkeypatch.setattr(Lookup, "__bool__", lambda self: False)
    monkeypatch.setattr(speculation, "GAIN", -1.0)
    with Model.load(path, threads=1) as helper, Model.load(path, threads=1, draft=helper) as model:
        for options in ({"temperature": 0}, {"temperature": 1.0, "top_k": 0}, {"frequency_penalty": 0.5}):
            done = model.generate(PROMPT, **MORE, **options)
            assert done.timings.accepted_tokens == done.timings.drafted_tokens > 30
    helper.close()


def test_a_draft_model_may_run_out_or_be_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = models.write(tmp_path, "wide")
    monkeypatch.setattr(speculation, "GAIN", -1.0)
    with Model.load(path, threads=1) as model:
        expected = model.generate(PROMPT, temperature=0, **MORE).ids
    limits: list[dict[str, Any]] = [{"cache_bytes": 1000}, {"context": 20}, {"context": 48}]
    for small in limits:
        helper = Model.load(path, threads=1, **small)
        with Model.load(path, threads=1, draft=helper) as model:
            assert model.generate(PROMPT, temperature=0, **MORE).ids == expected
            with model.stream(PROMPT, temperature=0, **MORE) as stream:
                next(stream)
                helper.close()
                assert stream.result().ids == expected
            assert model.generate(PROMPT, temperature=0, **MORE).ids == expected


def test_a_draft_model_may_lack_tokens_that_no_text_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of one vocabulary differ in how many rows are added to it."""
    monkeypatch.setattr(speculation, "GAIN", -1.0)
    path, small = models.write(tmp_path, "wide"), models.write(tmp_path, "wide", vocab=280)
    prompts = [PROMPT, [*PROMPT, 290]]
    with Model.load(path, threads=1) as model:
        plain = [model.generate(one, temperature=0, **MORE).ids for one in prompts]
    with Model.load(small, threads=1) as helper, Model.load(path, threads=1) as model:
        model.core.draft = helper.core  # as for models whose tokenizers are the same
        assert [model.generate(one, temperature=0, **MORE).ids for one in prompts] == plain
        assert model.stats().drafted_tokens > 0


def test_a_draft_model_must_fit(tmp_path: Path, smollm2: Path) -> None:
    path = models.write(tmp_path, "wide")
    recurrent = write("lfm2", tmp_path)
    for draft, error, text in (
        (models.write(tmp_path, "wide", vocab=301), ValueError, "draft: .*vocabulary; it has 301 tokens, not 300"),
        (smollm2, ValueError, "draft: .*vocabulary; this one has no tokenizer"),
        (recurrent, ValueError, "draft: .*recurrent"),
        (3, TypeError, "draft must be a model, its path or its name, not int"),
    ):
        with pytest.raises(error, match=text):
            Model.load(path, threads=1, draft=draft)  # type: ignore[arg-type]
