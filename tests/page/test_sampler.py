"""The page's sampler, in a browser, against the library's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pellucid import Model
from pellucid.look import choice
from pellucid.look.collect import candidates
from pellucid.page.html import joined
from pellucid.sampling import SAMPLERS, SamplingOptions
from tests.page import browsers

pytestmark = pytest.mark.page

BRIDGE = """
globalThis.run = (cases) => cases.map(({ p, o, where }) => {
  const found = sample(p, o, { ...where, seed: where.seed === null ? null : BigInt(where.seed) });
  return { sure: found.sure, drawn: found.drawn && found.drawn.id, u: found.drawn && found.drawn.u,
    steps: found.steps.map((step) => ({ name: step.name, kept: step.kept, sure: step.sure, ahead: step.ahead,
      ids: step.ids.slice(0, 300), p: step.p.slice(0, 300) })) };
});
"""


@pytest.fixture(scope="module")
def run() -> Iterator[Any]:
    """run(cases): the sampler's results."""
    with browsers.chromium() as browser:
        tab = browser.new_page()
        tab.add_script_tag(content=joined("sampler.js") + BRIDGE, type="module")
        tab.wait_for_function("() => typeof globalThis.run === 'function'")

        def go(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = []
            for i in range(0, len(cases), 100):
                found += json.loads(
                    tab.evaluate("(cases) => JSON.stringify(run(JSON.parse(cases)))", json.dumps(cases[i : i + 100]))
                )
            return found

        yield go


def plain(o: SamplingOptions) -> dict[str, Any]:
    names = [n for n in type(o).__slots__ if n not in ("given", "cancel", "seed", "logit_bias")]
    return {name: getattr(o, name) for name in names}


def case(
    row: Any, o: SamplingOptions, past: list[int], number: int = 0, forbidden: tuple[int, ...] = ()
) -> dict[str, Any]:
    found = candidates(row)
    total, mean, deviation, entropy = found.stats
    return {
        "p": {
            "ids": found.ids.tolist(), "logits": found.logits.tolist(), "tail": found.tail.tolist(), "logSum": total,
            "mean": mean, "deviation": deviation, "entropy": entropy,
        },
        "o": plain(o),
        "where": {"past": past, "breaks": [0] * len(past), "number": number, "vocab": len(row),
                  "seed": None if o.seed is None else str(o.seed), "forbidden": list(forbidden)},
    }  # fmt: skip


def compare(
    found: dict[str, Any],
    row: Any,
    o: SamplingOptions,
    past: list[int],
    number: int = 0,
    forbidden: tuple[int, ...] = (),
) -> bool:
    """-> whether the last step is sure."""
    expected = choice.steps(row, options=o, before=past, number=number, suppressed=forbidden)
    assert len(found["steps"]) == len(expected), o
    for got, step in zip(found["steps"], expected):
        if not got["sure"]:
            assert got["name"].split()[0] == step.name.split()[0], o  # a temperature by entropy may be a guess
            continue
        assert got["name"] == step.name, o
        assert got["kept"] == len(step.ids), (o, got["name"])
        some = min(len(got["ids"]), got["ahead"])
        assert got["ids"][:some] == step.ids[:some].tolist(), (o, got["name"])
        np.testing.assert_allclose(got["p"][:some], step.probabilities[:some], rtol=1e-9, atol=1e-12, err_msg=repr(o))
    if o.seed is not None:
        drawn = expected.draw()
        assert found["u"] == drawn.u
        if found["drawn"] is not None:
            assert found["drawn"] == drawn.id, o
    return bool(found["sure"])


def rows(n: int, vocab: int, seed: int) -> list[Any]:
    """From nearly certain to nearly even, with ties, as models give them."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        x = rng.normal(size=vocab) * rng.choice([0.5, 1.5, 2.5, 4.0]) + rng.exponential(1.5, vocab)
        if i % 5 == 0:
            x = np.round(x * 4) / 4
        found.append(x.astype(np.float32))
    return found


def options(rng: Any, order: bool) -> SamplingOptions:
    def some(*values: float) -> float:
        return values[0] if rng.random() < 0.5 else float(rng.choice(values[1:]))

    chosen: dict[str, Any] = {
        "temperature": float(rng.choice([0, 0.2, 0.7, 0.8, 1, 1, 1.3, 2])),
        "top_k": int(some(0, 1, 5, 40, 200, 10**6)),
        "top_p": some(1, 0, 0.3, 0.9, 0.95, 0.99),
        "min_p": some(0, 0.001, 0.05, 0.3, 1),
        "typical_p": some(1, 0.2, 0.9, 0.95),
        "top_n_sigma": some(0, 0.5, 1, 3),
        "xtc_probability": some(0, 0.5, 1),
        "xtc_threshold": some(0.1, 0, 0.02, 0.3),
        "dynatemp_range": some(0, 0, 0, 0.5),
        "repeat_penalty": some(1, 1.1, 1.5),
        "presence_penalty": some(0, 0, 0.5, -0.5),
        "frequency_penalty": some(0, 0, 0.2),
        "dry_multiplier": some(0, 0.8),
        "mirostat": int(rng.choice([0] * 9 + [2])),
        "seed": int(rng.integers(2**63)),
    }
    if order:
        chosen["samplers"] = [SAMPLERS[i] for i in rng.permutation(9)[: rng.integers(4, 10)]]
    return SamplingOptions(**chosen)


def past_of(rng: Any, row: Any) -> list[int]:
    """Tokens of which some are likely, with repetitions."""
    likely = np.argsort(-row)[:30].tolist()
    ids = [
        int(i) for i in rng.choice([*likely, *rng.integers(len(row), size=10).tolist()], size=int(rng.integers(0, 60)))
    ]
    return ids + ids[: int(rng.integers(0, 6))]


@pytest.mark.parametrize("vocab", [40, 4000])
def test_tokens_that_the_files_forbid(run: Any, vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    made: list[tuple[Any, SamplingOptions, list[int], int, tuple[int, ...]]] = []
    for row in rows(60, vocab, vocab):
        best, other = np.argsort(-row, kind="stable")[[0, 5]].tolist()
        some = (best, other) if len(made) % 2 else (best, other, int(rng.integers(vocab)))
        made.append((row, options(rng, True), past_of(rng, row), 0, tuple({*some})))
    found = run([case(*one) for one in made])
    sure = [compare(got, *one) for got, one in zip(found, made, strict=True)]
    assert np.mean(sure) > 0.4
    assert all("bias" in [step["name"] for step in got["steps"]] for got in found)


@pytest.mark.parametrize("vocab", [1, 3, 40, 1000, 4000, 30000])
def test_every_step_in_any_order(run: Any, vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    some = rows(50, vocab, vocab)
    made = []
    for row in some:
        for order in (False, True) * 3:
            o = options(rng, order)
            number = 0 if o.mirostat else int(rng.integers(9))  # mu depends on the tokens drawn before
            made.append((row, o, past_of(rng, row), number))
    found = run([case(*one) for one in made])
    sure = [compare(got, *one) for got, one in zip(found, made, strict=True)]
    assert np.mean(sure) > (0.999 if vocab <= 64 else 0.5)


def test_the_usual_steps_on_a_real_model(run: Any, smol: Model) -> None:
    """A grid of 2,500 settings of the sliders: nearly all are decided by what a page keeps."""
    text = "The capital of France is Paris. Once upon a time, there was a little girl who"
    logits = smol.logits(smol.tokenize(text))
    made: list[tuple[Any, SamplingOptions, list[int]]] = []
    for temperature in (0.0, 0.5, 0.8, 1.0, 1.5):
        for top_k in (0, 1, 10, 40, 100):
            for top_p in (1.0, 0.95, 0.8, 0.5):
                for min_p in (0.0, 0.02, 0.05, 0.1, 0.5):
                    for row in logits[[1, 4, 8, 12, -1]]:
                        o = SamplingOptions(
                            temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=len(made)
                        )
                        made.append((row, o, []))
    assert len(made) == 2500
    found = run([case(*one) for one in made])
    sure = [compare(got, *one) for got, one in zip(found, made, strict=True)]
    filtered = [s for s, (_, o, _) in zip(sure, made) if o.top_k or o.top_p < 1 or o.min_p or o.temperature in (0, 1)]
    assert np.mean(filtered) > 0.95


def test_draws_are_generate_s(run: Any, smol: Model) -> None:
    text = "Once upon a time, there was"
    ids = smol.tokenize(text)
    row = smol.logits(ids)[-1]
    made: list[tuple[Any, SamplingOptions, list[int]]] = []
    drawn = []
    for seed in range(250):
        for extra in ({}, {"temperature": 1.3, "top_k": 0, "top_p": 0.9, "repeat_penalty": 1.2}):
            o = SamplingOptions(seed=seed, max_tokens=1, ignore_eos=True, **extra)  # type: ignore[arg-type]
            made.append((row, o, ids))
            drawn.append(smol.generate(ids, options=o).ids[0])
    found = run([case(*one) for one in made])
    assert sum(got["drawn"] is not None for got in found) > 450
    for got, id, one in zip(found, drawn, made, strict=True):
        assert got["drawn"] in (id, None), one[1]
        assert choice.steps(row, options=one[1], before=ids).draw().id == id
