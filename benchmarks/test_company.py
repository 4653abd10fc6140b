"""Decoding under contention: more threads than cores, another model, another library's threads in the same process.

Run with: pytest benchmarks/test_company.py --benchmark-enable --benchmark-group-by=func -s
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest

from pellucid import Model

TOKENS = 32


def load(**options: int) -> Model:
    return Model.load("smollm2-135m", **options)


def decode(model: Model) -> None:
    model.generate([1, 2, 3], max_tokens=TOKENS, temperature=0, ignore_eos=True, speculate=False)


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[None]:
    """Runs `work` repeatedly on another thread."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            work()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("times", [1, 2])
def test_threads_for_each_core(benchmark, times):
    """Twice as many threads as cores may cost a factor of two."""
    with load() as one:
        threads = one.info().threads
    with load(threads=times * threads) as model:
        benchmark.pedantic(decode, (model,), rounds=8, warmup_rounds=1)


@pytest.mark.parametrize("company", ["nobody", "another model", "numpy", "torch"])
def test_company(benchmark, company):
    """Another model takes turns with the measured one; a library's own threads compete for the cores."""
    matrix = np.ones((1000, 1000), np.float32)
    with load() as model, load() as other:
        works: dict[str, Callable[[], object]] = {
            "another model": lambda: decode(other),
            "numpy": lambda: matrix @ matrix,
        }
        if company == "torch":
            torch = pytest.importorskip("torch", reason="the extra `reference` has it")
            tensor = torch.ones(1000, 1000)
            works["torch"] = lambda: tensor @ tensor
        with beside(works[company]) if company in works else nullcontext():
            benchmark.pedantic(decode, (model,), rounds=8, warmup_rounds=1)
