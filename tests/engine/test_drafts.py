"""Several rows of one sequence in a pass draw what they would one after another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model, _engine
from tests.engine import models
from tests.families.case import load_golden, write_gguf
from tests.families.cases import BY_NAME

PROMPT = [3, 17, 5, 3, 17, 9, 4]
N = 12
SAMPLERS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy, likeliest": {"logprobs": 3},
    "all": {"temperature": 1.3},
    "top_k": {"temperature": 1.1, "top_k": 7, "logprobs": 0},
    "top_p, min_p": {"temperature": 1.5, "top_p": 0.9, "min_p": 0.02},
    "typical_p, top_n_sigma": {"temperature": 1.2, "typical_p": 0.9, "top_n_sigma": 2.0},
    "xtc": {"temperature": 1.0, "xtc_probability": 0.5, "xtc_threshold": 0.05},
    "dynatemp": {"temperature": 1.0, "dynatemp_range": 0.5},
    "penalties": {"temperature": 1.0, "repeat_penalty": 1.5, "presence_penalty": 0.7, "frequency_penalty": 0.4},
    "penalties of the last three": {"frequency_penalty": 3.0, "repeat_last": 3},
    "bias": {"temperature": 1.0, "bias": {3: 2.0, 5: -np.inf}},
}


@pytest.fixture(scope="module", params=["llama_gqa", "gemma3", "mixtral"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("drafts")
    if request.param in BY_NAME:
        path: Path = write_gguf(BY_NAME[request.param], load_golden(BY_NAME[request.param]), folder / "model.gguf")
    else:
        path = models.write(folder, request.param)
    with Model.load(path, threads=2) as model:
        yield model.core.engine


def sampler(chosen: dict[str, Any]) -> Any:
    made = _engine.Sampler(seed=11, **chosen)
    made.extend(PROMPT)
    return made


def one_by_one(engine: Any, chosen: dict[str, Any], n: int = N) -> list[Any]:
    sequence, one = models.sequence(engine, PROMPT[:-1]), sampler(chosen)
    out: list[Any] = []
    token = PROMPT[-1]
    for _ in range(n):
        (drawn,) = engine.forward([(sequence, [token], 0)], samplers=[one])
        out.append(drawn)
        token = drawn[0]
        one.extend([token])
    return out


@pytest.mark.parametrize("chosen", SAMPLERS.values(), ids=list(SAMPLERS))
@pytest.mark.parametrize("wrong", [None, 0, 1, 3])
def test_rows_draw_as_one_after_another(engine: Any, chosen: dict[str, Any], wrong: int | None) -> None:
    """Also after a guess that was wrong, when the sequence went back to what was right."""
    expected = one_by_one(engine, chosen)
    sequence, one = models.sequence(engine, PROMPT[:-1]), sampler(chosen)
    tokens, drawn = [PROMPT[-1]], list[Any]()
    while len(drawn) < N:
        right = [id for id, _, _ in expected[len(drawn) : len(drawn) + 4]]
        guesses = right[: N - len(drawn) - 1]
        if wrong is not None and wrong < len(guesses):
            guesses[wrong] = (guesses[wrong] + 1) % engine.vocab
        length = sequence.length
        one.draft(guesses)
        rows = [(one, i) for i in range(len(guesses) + 1)]
        found = engine.forward([(sequence, [tokens[-1], *guesses], 0)], samplers=rows)
        counted = 1
        while counted < len(found) and found[counted - 1][0] == guesses[counted - 1]:
            counted += 1
        assert counted == (len(guesses) if wrong is None or wrong >= len(guesses) else wrong) + 1
        drawn += found[:counted]
        assert one.step == len(drawn) - counted, "rows with offsets do not advance it"
        one.advance(counted)
        assert sequence.rewind(length + counted) == length + counted
        tokens += [id for id, _, _ in found[:counted]]
        one.extend([id for id, _, _ in found[:counted]])
    assert drawn == expected


def test_a_sampler_without_an_offset_is_advanced(engine: Any) -> None:
    one = sampler({"temperature": 1.0})
    engine.forward([(models.sequence(engine, PROMPT[:-1]), PROMPT[-1:], 0)], samplers=[(one, 0)])
    assert one.step == 0
    engine.forward([(models.sequence(engine, PROMPT[:-1]), PROMPT[-1:], 0)], samplers=[one])
    assert one.step == 1
    one.advance(-1)
    assert one.step == 0


def test_a_draw_that_is_lost_is_made_again_by_mirostat(engine: Any) -> None:
    """With the limit that it had: an interrupted request drew on with one that the lost draw had changed."""
    one = sampler({"temperature": 1.0, "mirostat": 2, "mirostat_tau": 2.0})
    limits, drawn = [], []
    for lost in (False, True, True, False):
        found = engine.forward([(models.sequence(engine, PROMPT[:-1]), PROMPT[-1:], 0)], samplers=[one])
        limits.append(one.mirostat_mu)
        drawn.append(found)
        if lost:
            one.advance(-1)
    assert one.step == 2 and limits[0] != limits[1] == limits[2] == limits[3]
    assert drawn[1] == drawn[2] == drawn[3]


def test_many_guesses_move_the_window(engine: Any) -> None:
    """More than the sampler had room for."""
    one = sampler({"frequency_penalty": 2.0})
    guesses = [7] * 300
    one.draft(guesses)
    sequence = models.sequence(engine, PROMPT[:-1])
    found = engine.forward([(sequence, [PROMPT[-1], *guesses], 0)], samplers=[(one, i) for i in range(301)])
    other = sampler({"frequency_penalty": 2.0})
    other.extend(guesses)
    sequence = models.sequence(engine, [*PROMPT, *guesses[:-1]])
    assert engine.forward([(sequence, [7], 0)], samplers=[other]) == found[-1:]
    one.extend(guesses[:5])  # what was guessed is forgotten
    with pytest.raises(ValueError, match="offset=1: expected at most 0"):
        engine.forward([(sequence, [7], 0)], samplers=[(one, 1)])


def test_what_depends_on_the_draws_before_is_refused(engine: Any) -> None:
    sequence = models.sequence(engine, PROMPT[:-1])
    for chosen in ({"temperature": 1.0, "mirostat": 2}, {"dry_multiplier": 0.8}):
        one = sampler(chosen)
        with pytest.raises(ValueError, match="one token after another"):
            one.draft([1])
        with pytest.raises(ValueError, match="one token after another"):
            engine.forward([(sequence, [1, 2], 0)], samplers=[(one, 0), (one, 1)])
    plain = _engine.Sampler()
    with pytest.raises(ValueError, match="offset=-1"):
        engine.forward([(sequence, [1], 0)], samplers=[(plain, -1)])
    with pytest.raises((TypeError, ValueError)):
        engine.forward([(sequence, [1], 0)], samplers=[(plain, 1, 2)])
    assert sequence.length == len(PROMPT) - 1
