"""What Python costs between two tokens: the loop, the sampler's set-up, detokenising, a callback.

Run: pytest benchmarks/test_step.py --benchmark-enable -s

The engine computes on threads of its own while the caller sleeps, so the processor time of the calling thread is just
that, the calls that hand a pass over and wait for it included. Bound: 60 microseconds a token.
"""

from __future__ import annotations

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


@pytest.fixture(scope="module")
def model() -> Any:
    with Model.load("smollm2-135m") as model:
        yield model


@pytest.mark.parametrize("setting", SETTINGS)
def test_python_of_a_step(benchmark: Any, model: Model, setting: str) -> None:
    seconds: list[float] = []

    def run() -> None:
        text: list[str] = []
        stream = model.stream("Once upon a time", max_tokens=TOKENS, ignore_eos=True, seed=1, **SETTINGS[setting])
        next(stream)  # the prompt
        start = time.thread_time()
        for piece in stream:
            text.append(piece.text)
        seconds.append((time.thread_time() - start) / (TOKENS - 1))

    benchmark.pedantic(run, rounds=20, warmup_rounds=2)
    seconds.sort()
    median = seconds[len(seconds) // 2]
    print(f"{setting:14} {median * 1e6:5.1f} us a token ({seconds[0] * 1e6:.1f} .. {seconds[-1] * 1e6:.1f})")
    benchmark.extra_info.update(us=median * 1e6)
    assert seconds[0] < 60e-6
