"""The cost of traces and edits, interleaved with the same work without them.

Run: pytest benchmarks/test_look.py --benchmark-enable -s
Bounds: a trace of hidden states and attention of 512 tokens of SmolLM2 under 3 times the plain prefill; decoding with
an edit of every layer under 2 times plain decoding; an open edit does not slow down the model itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pellucid import Model, _engine
from pellucid.weights import catalog

ROUNDS = 7


@pytest.fixture(scope="module")
def model() -> Any:
    with Model.load(catalog.fetch("smollm2-135m")) as model:
        yield model


def interleaved(**work: Callable[[], Any]) -> dict[str, float]:
    """The minimum seconds of each; all run in every round, so that slow moments affect them equally."""
    best = dict.fromkeys(work, float("inf"))
    for _ in range(ROUNDS):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def test_trace(benchmark, model):
    """512 tokens, compared with a plain prefill."""
    ids = [(i * 37) % 40000 for i in range(512)]
    rows = np.array(ids, np.int32)

    def prefill() -> None:
        model.core.engine.forward([(_engine.Sequence(model.core.engine), rows, len(rows))])

    seconds = interleaved(
        prefill=prefill,
        hidden=lambda: model.trace(ids, "hidden"),
        both=lambda: model.trace(ids),
        everything=lambda: model.trace(ids, ("hidden", "q", "k", "v", "attention", "mlp_out", "neurons")),
        predictions=lambda: model.trace(ids, "hidden").entropy,
        score=lambda: model.score(ids),
    )
    for name, value in seconds.items():
        print(f"{name:12} {value * 1e3:8.1f} ms  {value / seconds['prefill']:5.2f} x prefill")
    assert seconds["both"] < 3 * seconds["prefill"]
    benchmark(model.trace, ids)


def test_decode_under_an_edit(benchmark, model):
    """32 tokens, greedy: plain, plain while an edit is open, and with every layer edited."""
    options = {"max_tokens": 32, "temperature": 0, "ignore_eos": True}
    alone = interleaved(plain=lambda: model.generate("Once upon a time", **options))["plain"]
    with model.edit() as e:
        for i in range(30):
            e.add(i, np.full(576, 1e-3)).scale_head(i, 0, 0.9)
        seconds = interleaved(
            plain=lambda: model.generate("Once upon a time", **options),
            edited=lambda: e.generate("Once upon a time", **options),
        )
        print(f"alone {alone * 1e3:.1f} ms, with an edit open {seconds['plain'] * 1e3:.1f} ms")
        print(f"edited {seconds['edited'] * 1e3:.1f} ms, {seconds['edited'] / seconds['plain']:.2f} x plain")
        assert seconds["edited"] < 2 * seconds["plain"]
        benchmark(lambda: e.generate("Once upon a time", **options))
