"""Structured output: new tokens per second of 16 callers with a schema, and without one.

A schema's tokens that must follow are not drawn, so that a pass gives more than one; its masks take time beside the
pass. Both are in the numbers: seconds for as many new tokens.

Run with: pytest benchmarks/test_structured.py --benchmark-enable --benchmark-group-by=func -s
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pellucid import Model, SamplingOptions
from pellucid.text.grammar import Grammars

CALLERS, TOKENS = 16, 64
# No end before TOKENS: arrays of at least so many items.
KINDS: dict[str, dict[str, Any]] = {
    "free": {},
    "strings": {"schema": {"type": "array", "items": {"type": "string", "minLength": 300}, "minItems": 9}},
    "numbers": {"schema": {"type": "array", "items": {"type": "integer"}, "minItems": 99}},
    "objects": {
        "schema": {
            "type": "array",
            "minItems": 99,
            "items": {
                "type": "object",
                "properties": {"first name": {"type": "string"}, "born in the year": {"type": "integer"}},
                "required": ["first name", "born in the year"],
                "additionalProperties": False,
            },
        }
    },
    "expression": {"regex": "[a-z ]{1000}"},
}


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model.load("smollm2-135m") as loaded:
        yield loaded


@pytest.mark.parametrize("kind", KINDS)
def test_sixteen_callers(benchmark, model: Model, kind: str) -> None:
    prompts = [[1 + i, 2, 3] for i in range(CALLERS)]

    def run() -> None:
        done = model.generate(prompts, max_tokens=TOKENS, seed=1, temperature=1.0, ignore_eos=True, **KINDS[kind])
        assert sum(len(one.ids) for one in done) == CALLERS * TOKENS

    benchmark.extra_info["tokens"] = CALLERS * TOKENS
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "free"])
def test_a_mask(benchmark, model: Model, kind: str) -> None:
    """One mask, after the tokens that must follow at the beginning."""
    size = model.core.engine.vocab
    structure = SamplingOptions(**KINDS[kind]).structure()
    assert structure is not None
    matcher = model.core.need_tokenizer().grammars(size).compile(structure).matcher()
    matcher.advance(matcher.forced())
    words = np.zeros((size + 31) // 32, np.uint32)
    benchmark(matcher.mask, words)


def test_building(benchmark, model: Model) -> None:
    """The vocabulary, which the first structure of a model waits for."""
    benchmark.pedantic(Grammars, (model.core.need_tokenizer()._text, model.core.engine.vocab), rounds=3)
