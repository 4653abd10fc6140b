"""What each step of the sampler leaves, and what is drawn, against the sampler itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pellucid import Model, SamplingOptions, look
from pellucid.look import choice
from pellucid.look.filters import dry_lengths
from pellucid.sampling import SAMPLERS
from tests.engine.models import Load, ids_for
from tests.sampling import twin

EVERY: dict[str, Any] = {
    "temperature": 0.7, "top_k": 30, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.95, "top_n_sigma": 2.0,
    "xtc_probability": 1.0, "xtc_threshold": 0.05, "dynatemp_range": 0.3, "repeat_penalty": 1.2,
    "presence_penalty": 0.3, "frequency_penalty": 0.1, "dry_multiplier": 0.8,
}  # fmt: skip


def test_all_steps_in_random_orders_against_the_twin() -> None:
    rng = np.random.default_rng(8)
    for i in range(50):
        x = rng.normal(0, 3, 400).astype(np.float32)
        past = rng.integers(0, 12, 40).tolist() * 2
        order = [SAMPLERS[j] for j in rng.permutation(9)[: 9 - i % 3]]
        bias = {3: 2.0, 7: -np.inf} if i % 2 else {}
        found = choice.steps(x, before=past, samplers=order, logit_bias=bias, seed=i, number=i, **EVERY)
        chosen = {k: v for k, v in EVERY.items()}
        expected = twin.kept(
            x.astype(np.float64), order=order, recent=past[-64:], bias=bias or None, xtc_u=twin.uniform(i, i, 1),
            dry=twin.dry_lengths(past, 2), **chosen,
        )  # fmt: skip
        assert found[-1].ids.tolist() == expected.ids.tolist()
        assert found[-1].probabilities == pytest.approx(expected.probs, abs=1e-12)
        names = [step.name for step in found]
        assert names[0] == "model" and ("bias" in names) == bool(bias)
        for step in found:
            assert step.probabilities.sum() == pytest.approx(1) and len(step.ids) == len(np.unique(step.ids))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 1.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
        {**EVERY, "xtc_probability": 0.5},
        {"temperature": 0, "repeat_penalty": 1.3},
        {"samplers": ["temperature", "top_p", "dry"], "dry_multiplier": 2.0},
        {"logit_bias": {5: 3.0, 6: -np.inf}, "min_p": 0.0},
        {"mirostat": 2, "mirostat_tau": 3.0},
    ],
)
def test_draws_are_those_of_a_generation(load: Load, options: dict[str, Any]) -> None:
    model = load("narrow", "all")
    for seed in range(12):
        prompt = ids_for(model.core.engine, 9, seed=seed) * 2
        length = 1 if options.get("mirostat") else 6  # mu is that of the first token
        done = model.generate(prompt, seed=seed, max_tokens=length, ignore_eos=True, **options)
        ids = done.prompt_ids + done.ids
        logits = model.logits(ids)
        for number, id in enumerate(done.ids):
            before = ids[: len(prompt) + number]
            found = choice.steps(logits[len(before) - 1], before=before, number=number, options=done.options)
            assert found.draw().id == id, (seed, number)


@pytest.mark.parametrize(
    "options",
    [
        {"mirostat": 2, "mirostat_tau": 3.0},
        {"mirostat": 2, "mirostat_eta": 0.5, "repeat_penalty": 1.2},
        {**EVERY, "xtc_probability": 0.5},
        {"temperature": 0},
        {"max_tokens": 0},
        {"max_tokens": 1},
    ],
)
def test_every_token_of_a_completion_is_drawn_again(load: Load, options: dict[str, Any]) -> None:
    """Also by Mirostat, whose mu depends on the tokens before."""
    model = load("narrow", "all")
    for seed in range(4):
        prompt = ids_for(model.core.engine, 9, seed=seed) * 2
        done = model.generate(prompt, seed=seed, ignore_eos=True, **{"max_tokens": 40, **options})
        found = list(look.drawn(model, done))
        assert [steps.draw().id for steps in found] == done.ids
        assert all(steps.kept == len(steps[-1].ids) >= 1 for steps in found)
        assert len(done.timings.tokens) == len(done.ids) and "tokens" not in done.timings.to_dict()
        assert list(done.timings.tokens) == sorted(done.timings.tokens)
        if options.get("mirostat"):
            assert len({steps[-1].name for steps in found}) > 10  # mu moves
    with pytest.raises(TypeError, match="completion must be a Completion, not str"):
        look.drawn(model, "text")  # type: ignore[arg-type]
    bound = replace(done, options=done.options.replace(regex="a+"))
    with pytest.raises(ValueError, match="completion: a schema, expression or grammar constrained its text"):
        look.drawn(model, bound)


def test_tokens_that_the_files_forbid(load: Load) -> None:
    model = load("narrow", "all")
    logits = model.logits(ids_for(model.core.engine, 5))[-1]
    best = int(logits.argmax())
    found = choice.steps(logits, suppressed=[best], temperature=0)
    assert [step.name for step in found] == ["model", "bias", "greedy"] and best in found[0].ids
    assert best not in found[1].ids and found.draw(0).id == int(np.argsort(-logits, kind="stable")[1])
    named = choice.steps(logits, suppressed=[best], logit_bias={best: 0}, temperature=0)
    assert named.draw(0).id == best  # as for a generation
    with pytest.raises(ValueError, match="id=.*: expected a token that is left after the last step"):
        found.mu(best)


def test_breakers_end_a_repetition(smollm: Model) -> None:
    text = "one two\nthree one two\nthree one two"
    ids = smollm.tokenize(text)
    logits = smollm.logits(ids)[-1]
    assert smollm.tokenizer is not None
    piece = smollm.tokenizer.piece
    names = [s.name for s in choice.steps(logits, before=ids, piece=piece, dry_multiplier=1, dry_breakers=[" two"])]
    assert not any(name.startswith("dry") for name in names)
    free = choice.steps(logits, before=ids, piece=piece, dry_multiplier=1, dry_breakers=[])
    assert "dry 1" in [step.name for step in free]
    seeds = range(8)
    for breakers in ((), ("\n",)):
        o = SamplingOptions(dry_multiplier=3, dry_breakers=breakers, temperature=1.2, max_tokens=1, ignore_eos=True)
        drawn = [smollm.generate(text, options=o, seed=seed).ids[0] for seed in seeds]
        assert drawn == [choice.steps(logits, before=ids, piece=piece, options=o, seed=s).draw().id for s in seeds]


def test_repetitions_are_found_as_by_brute_force() -> None:
    rng = np.random.default_rng(3)
    for i in range(300):
        ids = rng.integers(0, 3, int(rng.integers(0, 40))).tolist()
        breaks = (rng.random(len(ids)) < 0.1).astype(int).tolist() if i % 2 else None
        least = int(rng.integers(0, 4))
        assert dry_lengths(ids, least, breaks) == twin.dry_lengths(ids, least, breaks)
    assert dry_lengths([7] * 5000, 2) == {7: 4999}


def test_refused() -> None:
    x = [1.0, 2.0, 3.0]
    for bad, message in (
        ({"before": [3]}, r"before\[0\]=3"),
        ({"before": 3}, "before must be a list"),
        ({"number": -1}, "number=-1"),
        ({"suppressed": [3]}, r"suppressed\[0\]=3"),
        ({"seed": [1, 2]}, "seed has several values"),
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"logit_bias": {0: -np.inf, 1: -np.inf, 2: -np.inf}}, "no token is left"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            choice.steps(x, **bad)
    for logits in ([np.nan, 1.0], [np.inf, 1.0], [-np.inf, -np.inf], []):
        with pytest.raises(ValueError, match="logits has"):
            choice.steps(logits)
    with pytest.raises(ValueError, match="seed is needed"):
        choice.steps(x).draw()
    assert choice.steps(x, temperature=0).draw(5).id == 2
