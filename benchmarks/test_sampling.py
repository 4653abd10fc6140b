"""What choosing a token costs: one row of logits -> one token, per instruction set, vocabulary and settings.

Run: pytest benchmarks/test_sampling.py --benchmark-enable
Targets on AVX2 and a vocabulary of 262,144: 0.3 ms with top_k=40, 0.5 ms with top_k=0 and top_p or min_p.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pellucid._kernels import sampling

DEFAULT = dict(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": dict(temperature=0),
    "default": DEFAULT,
    "default-logprobs5": dict(DEFAULT, n_logprobs=5),
    "top_p": dict(temperature=0.8, top_p=0.95),
    "top_p-min_p": dict(temperature=0.8, top_p=0.95, min_p=0.05),
    "none": dict(temperature=0.8),
}


def logits(vocab: int, shape: str) -> Any:
    """peaked: a text's usual row, a few tokens far above a bell; flat: a bell alone, the worst case of top_p."""
    rng = np.random.default_rng(vocab)
    x = rng.standard_normal(vocab) * (2.0 if shape == "peaked" else 0.5)
    if shape == "peaked":
        x[rng.integers(vocab, size=50)] += np.linspace(6, 16, 50)
    return x.astype(np.float32)


@pytest.mark.parametrize("shape", ["peaked", "flat"])
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("vocab", [49152, 262144])
@pytest.mark.parametrize("isa", sampling.isas())
def test_sample(benchmark: Any, isa: str, vocab: int, setting: str, shape: str) -> None:
    x = logits(vocab, shape)
    sampler = sampling.Sampler(isa, vocab, **SETTINGS[setting])
    benchmark.extra_info["kept"] = sampler.sample(x)["n_kept"]
    steps = iter(range(1 << 40))
    token = benchmark(lambda: sampler.draw(x, next(steps)))
    assert 0 <= token < vocab
