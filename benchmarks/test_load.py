"""Opening a model: a cold start has 0.3 s for everything, of which a header should be a small part.

Run with: pytest benchmarks/test_load.py --benchmark-enable
"""

from __future__ import annotations

import pytest

from pellucid.weights import catalog, open_model


@pytest.mark.parametrize("name", [entry.name for entry in catalog.entries()])
def test_open(benchmark, name):
    """Opens, parses and checks; the tokens' offsets are collected, their bytes stay in the file."""
    path = catalog.fetch(name)

    def run() -> int:
        with open_model(path) as model:
            return len(model.tensors)

    assert benchmark(run) > 200


@pytest.mark.parametrize("form", ["bytes", "str"])
def test_vocabulary(benchmark, form):
    """All 262,144 pieces of Gemma as Python objects."""
    with open_model(catalog.fetch("gemma3-270m")) as model:
        tokens = model.metadata["tokenizer.ggml.tokens"]
        assert len(benchmark(getattr(tokens, f"to_{form}_list"))) == 262_144
