"""The cost of a barrier and of a hand-over to the engine thread.

Run: pytest benchmarks/test_machine.py --benchmark-enable
"""

from __future__ import annotations

from typing import Any

import pytest

from pellucid._kernels import machine

PROCESSORS = machine.topology()["threads"]


@pytest.mark.parametrize("threads", sorted({1, PROCESSORS, 2 * PROCESSORS}))
def test_barrier(benchmark: Any, threads: int) -> None:
    """Consecutive barriers; `ns` is the time of one, measured by thread 0."""
    n = 10_000 if threads <= PROCESSORS else 50
    got = benchmark.pedantic(machine.time_barriers, (threads, n), rounds=5, warmup_rounds=1)
    assert got["size"] == threads
    benchmark.extra_info.update(barriers=n, ns=got["ns"])


@pytest.mark.parametrize("gap_us", [0, 30, 1000])
@pytest.mark.parametrize("threads", sorted({1, PROCESSORS}))
def test_handover(benchmark: Any, threads: int, gap_us: int) -> None:
    """The round trip of an empty job, with the caller busy for `gap_us` in between; `ns` is the median."""
    n = 200
    ns = benchmark.pedantic(machine.time_handover, (threads, n, gap_us), rounds=5, warmup_rounds=1)
    assert ns > 0
    benchmark.extra_info.update(handovers=n, ns=ns)
