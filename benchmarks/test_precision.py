"""The cost of two terms for every activation, and the gain of 8-bit keys and values: against the default, interleaved.

Run: pytest benchmarks/test_precision.py --benchmark-enable -s
Bounds: with precision="high", decoding at 0.9 of the default's speed and prefill at 0.45 of it.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from pellucid import Model
from pellucid.bench.scenarios import Bench

ROUNDS = 7
LOADS: dict[str, dict[str, str]] = {"default": {}, "high": {"precision": "high"}, "int8 cache": {"kv": "int8"}}


@pytest.mark.parametrize("name", ["smollm2-135m", "gemma3-270m"])
def test_precision(benchmark: Any, name: str) -> None:
    seconds: dict[str, dict[str, list[float]]] = {}
    with ExitStack() as stack:
        loaded = {load: Bench(stack.enter_context(Model.load(name, **options))) for load, options in LOADS.items()}
        for round in range(ROUNDS + 1):
            for load, bench in loaded.items():
                runs = {
                    "prefill 512": partial(bench.prefill, 512),
                    "decode at 0": partial(bench.decode, 0, 64),
                    "decode at 4096": partial(bench.decode, 4096, 64),
                }
                for phase, run in runs.items():
                    spent = run()
                    if round:  # the first is for the caches
                        seconds.setdefault(phase, {}).setdefault(load, []).append(spent)
        ratios: dict[tuple[str, str], float] = {}
        for phase, found in seconds.items():
            for load in LOADS:
                each = sorted(a / b for a, b in zip(found["default"], found[load], strict=True))
                ratios[phase, load] = statistics.median(each)
                print(f"{name} {phase:15} {load:11} {ratios[phase, load]:.2f} ({each[0]:.2f} .. {each[-1]:.2f})")
        benchmark.extra_info.update({f"{phase}, {load}": ratio for (phase, load), ratio in ratios.items()})
        benchmark.pedantic(loaded["high"].decode, (0, 64), rounds=3)
    assert ratios["decode at 0", "high"] >= 0.9
    assert ratios["prefill 512", "high"] >= 0.45
