"""The cost of Python between two tokens: the loop, the sampler's set-up, detokenising, a callback.

Run: pytest benchmarks/test_step.py --benchmark-enable -s

The engine computes on its own threads while the caller sleeps, so the processor time of the calling thread is all that
Python takes. Bound: 60 microseconds per token outside the engine's call. The caller's time in that call, for handing
the pass over and being woken when it ends, is shown beside it.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import pytest

from pellucid import Model

TOKENS = 64
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "default": {},
    "penalties": {"repeat_penalty": 1.1, "presence_penalty": 0.1},
    "stop strings": {"stop": ("\n\n\n", "</never>")},
    "logprobs": {"logprobs": 5},
}


class Timed:
    """An engine that measures the processor time that the calling thread spends in its passes."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def forward(self, *arguments: Any, **options: Any) -> Any:
        start = time.thread_time()
        try:
            return self._engine.forward(*arguments, **options)
        finally:
            self.seconds += time.thread_time() - start


@pytest.fixture(scope="module")
def model() -> Any:
    with Model.load("smollm2-135m") as model:
        yield model


@pytest.mark.parametrize("setting", SETTINGS)
def test_python_of_a_step(benchmark: Any, monkeypatch: Any, model: Model, setting: str) -> None:
    outside: list[float] = []
    inside: list[float] = []
    engine = Timed(model.core.engine)

    def run() -> None:
        text: list[str] = []
        stream = model.stream(
            "Once upon a time", max_tokens=TOKENS, ignore_eos=True, speculate=False, seed=1, **SETTINGS[setting]
        )
        next(stream)  # the prompt
        start, before = time.thread_time(), engine.seconds
        for piece in stream:
            text.append(piece.text)
        spent, called = time.thread_time() - start, engine.seconds - before
        outside.append((spent - called) / (TOKENS - 1))
        inside.append(called / (TOKENS - 1))

    monkeypatch.setattr(model.core, "open", lambda: engine)
    benchmark.pedantic(run, rounds=20, warmup_rounds=2)
    median, call = statistics.median(outside), statistics.median(inside)
    print(
        f"{setting:14} {median * 1e6:5.1f} us a token ({min(outside) * 1e6:.1f} .. {max(outside) * 1e6:.1f}), "
        f"the engine's call {call * 1e6:.1f} us"
    )
    benchmark.extra_info.update(us=median * 1e6, call_us=call * 1e6)
    assert median < 60e-6
