"""The cost of sampling: one row of logits -> one token, per instruction set, vocabulary and settings.

Run: pytest benchmarks/test_sampling.py --benchmark-enable
Target on AVX2 and a vocabulary of 262,144: 0.35 ms, 5 % of a small model's step, whatever the settings, on a typical
row of logits. If a filter keeps hundreds of thousands of tokens of a flat row, gathering them costs 0.6 to 3 ms.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pellucid._kernels import sampling

DEFAULT = dict(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)
PENALTIES: dict[str, Any] = dict(recent=range(64), repeat_penalty=1.1, presence_penalty=0.1)
DRY: dict[str, Any] = dict(dry=[(7 * i, 3) for i in range(600)], dry_multiplier=0.8)  # as in a long context
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": dict(temperature=0),
    "default": DEFAULT,
    "default-logprobs5": dict(DEFAULT, n_logprobs=5),
    "top_p": dict(temperature=0.8, top_p=0.95),
    "top_p-min_p": dict(temperature=0.8, top_p=0.95, min_p=0.05),
    "none": dict(temperature=0.8),
    "min_p": dict(temperature=0.8, min_p=0.05),
    "typical_p": dict(temperature=0.8, typical_p=0.9),
    "top_n_sigma": dict(temperature=0.8, top_n_sigma=1.0),
    "xtc": dict(temperature=0.8, xtc_probability=1.0, xtc_threshold=0.05),
    "dynatemp": dict(temperature=0.8, dynatemp_range=0.5),
    "mirostat": dict(temperature=0.8, mirostat=2),
    "mirostat-20bits": dict(temperature=0.8, mirostat=2, mirostat_mu=20.0),
    "penalties": dict(DEFAULT, **PENALTIES),
    "dry": dict(DEFAULT, **DRY),
    "all": dict(
        DEFAULT, **PENALTIES, **DRY, top_n_sigma=2.0, typical_p=0.95, xtc_probability=1.0, xtc_threshold=0.05,
        dynatemp_range=0.3,
    ),
}  # fmt: skip


def logits(vocab: int, shape: str) -> Any:
    """peaked: a typical row, a few tokens far above a bell curve; flat: only the bell curve, top_p's worst case."""
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


@pytest.mark.parametrize("text", ["words", "loop"])
@pytest.mark.parametrize("length", [8192, 131072])
def test_dry_match(benchmark: Any, length: int, text: str) -> None:
    """DRY's search before a token. words: a Zipf distribution; loop: 100 tokens repeated."""
    rng = np.random.default_rng(length)
    ids = rng.zipf(1.3, length) % 50000 if text == "words" else np.arange(length) % 100
    ids = ids.astype(np.int32)
    found = benchmark(lambda: sampling.dry_match(ids, 2))
    assert bool(found) or text == "words"
