"""What a barrier and a hand-over to the engine thread cost.

Run: pytest benchmarks/test_machine.py --benchmark-enable
"""

from __future__ import annotations

from typing import Any

import pytest

from pellucid._kernels import machine

PROCESSORS = machine.topology()["threads"]


@pytest.mark.parametrize("threads", sorted({1, PROCESSORS, 2 * PROCESSORS}))
def test_barrier(benchmark: Any, threads: int) -> None:
    """Barriers in a row; `ns` is one barrier as thread 0 sees it."""
    n = 10_000 if threads <= PROCESSORS else 50
    got = benchmark.pedantic(machine.time_barriers, (threads, n), rounds=5, warmup_rounds=1)
    assert got["size"] == threads
    benchmark.extra_info.update(barriers=n, ns=got["ns"])


@pytest.mark.parametrize("gap_us", [0, 30, 1000])
@pytest.mark.parametrize("threads", sorted({1, PROCESSORS}))
def test_handover(benchmark: Any, threads: int, gap_us: int) -> None:
    """An empty job there and back, the caller busy `gap_us` in between; `ns` is the median of one."""
    n = 200
    ns = benchmark.pedantic(machine.time_handover, (threads, n, gap_us), rounds=5, warmup_rounds=1)
    assert ns > 0
    benchmark.extra_info.update(handovers=n, ns=ns)
