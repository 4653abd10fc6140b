"""Structured output: the cost of a mask and of a vocabulary. Tokens per second: structured.py.

Run with: pytest benchmarks/test_structured.py --benchmark-enable --benchmark-group-by=func
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.structured import KINDS
from pellucid import Model, SamplingOptions
from pellucid.text.grammar import Grammars


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model.load("smollm2-135m") as loaded:
        yield loaded


@pytest.mark.parametrize("kind", KINDS)
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
