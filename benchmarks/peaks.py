"""Why the int8 peak varies: measured repeatedly, beside everything that could be the cause.

    python benchmarks/peaks.py [--seconds 60] [--isa TIER] [--threads N] [--format Q4_0]

A line per round: the clock; int8 operations per cycle of a core, of a single thread and of all together; int8 of all
threads by processor time and by wall time; a kernel on its own, all threads at 96 rows; the read bandwidth; and the
share of time that the host took away (steal). At the end come the range of each, and its likely causes:

- it varies in wall time but not in processor time: threads waited for a processor;
- all threads together always do less per cycle than one alone: the processors are two halves of one core;
- they do so at times, or a single thread does: another tenant uses the cores' ports, or the clock is lower under wide
  instructions than in the additions that it is measured by;
- only the clock varies: turbo, heat, or the host's other cores.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import astuple, dataclass, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.arguments import count
from benchmarks.bandwidth import FORMATS
from pellucid import _engine, tuning
from pellucid._kernels import machine
from pellucid.bench.kernels import AT_ONCE, Kernels
from pellucid.bench.limits import Prober
from pellucid.bench.work import Product

ROUNDS = 400_000  # of a peak loop: a few milliseconds
K = 2048
SWINGS = 1.15  # a range wider than this factor


@dataclass(frozen=True)
class Round:
    """clock: GHz; one, all: int8 operations per cycle and core; int8, wall, kernel: Gop/s; read: GB/s; steal: 0..1."""

    clock: float
    one: float
    all: float
    int8: float
    wall: float
    kernel: float
    read: float
    steal: float


class Meter:
    def __init__(self, isa: str, threads: int, product: Product) -> None:
        self.threads, self.product = threads, product
        self.single = _engine.Probe(isa=isa, threads=1, size=4096)
        self.prober = Prober(isa, threads)
        self.every = _engine.Probe(isa=isa, threads=threads, size=4096)
        self.kernels = Kernels(isa, threads, 64 << 20, tuning.find(isa, threads).values)
        self.ticks = stolen()

    def round(self) -> Round:
        clock, one, _ = self.rates(self.single, 1)
        clocks, every, wall = self.rates(self.every, self.threads)
        kernel = self.product.operations / self.kernels.fastest(self.product, runs=1)
        read = self.prober.read()
        before, self.ticks = self.ticks, stolen()
        steal, total = (b - a for a, b in zip(before, self.ticks, strict=True))
        return Round(
            (clock + clocks) / 2,
            one / clock,
            every / (self.threads * clocks),
            every,
            wall,
            kernel,
            read,
            steal / max(total, 1),
        )

    @staticmethod
    def rates(probe: _engine.Probe, threads: int) -> tuple[float, float, float]:
        """(clock of a core, int8 of all threads in processor time, and by the wall)."""
        cycles, ns = probe.run("clock", ROUNDS)
        start = time.perf_counter_ns()
        done, busy = probe.run("int8", ROUNDS)
        return cycles / ns / threads, done / busy, done / (time.perf_counter_ns() - start)


def stolen() -> tuple[int, int]:
    """(ticks stolen by the host, all ticks) since the system started; zeros if it does not report them."""
    try:
        ticks = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return 0, 0
    return (ticks[7], sum(ticks)) if len(ticks) == 8 else (0, 0)


def findings(rounds: list[Round]) -> list[str]:
    """Lines on the likely causes of the variation."""

    def swing(values: list[float]) -> float:
        return max(values) / max(min(values), 1e-9)

    found = []
    if swing([r.wall / r.int8 for r in rounds]) > SWINGS:
        found.append("int8 varies in wall time but not in processor time: threads waited for a processor")
    if max(r.all / r.one for r in rounds) * SWINGS < 1:
        found.append("all threads do less per cycle than one alone, in every round: processors share a core")
    elif swing([r.all for r in rounds]) > SWINGS or swing([r.one for r in rounds]) > SWINGS:
        found.append("the rate per cycle varies: another tenant on the cores' ports, or a lower clock in wide loops")
    if swing([r.clock for r in rounds]) > SWINGS:
        found.append("the clock varies")
    if max(r.steal for r in rounds) > 0.02:
        found.append("the host took processors away (steal)")
    return found or ["nothing swings"]


def line(name: str, values: tuple[float, ...]) -> str:
    return f"{name:>8}" + "".join(f"{x:10.2f}" if x < 100 else f"{x:10.0f}" for x in values)


def main(argv: list[str] | None = None) -> None:
    isas = [isa["name"] for isa in machine.isas() if isa["runs"]]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", default=machine.best_isa(), choices=isas)
    parser.add_argument("--threads", type=count, default=machine.topology()["threads"])
    parser.add_argument("--seconds", type=count, default=60)
    parser.add_argument("--format", default="Q4_0", choices=list(FORMATS))
    given = parser.parse_args(argv)

    meter = Meter(given.isa, given.threads, Product(given.format, K, K, AT_ONCE, 1))
    print(f"{machine.cpu_name()}, {given.threads} threads, {given.isa}")
    print(f"{'second':>8}" + "".join(f"{field.name:>10}" for field in fields(Round)))
    rounds: list[Round] = []
    start = time.perf_counter()
    while not rounds or time.perf_counter() - start < given.seconds:
        rounds.append(meter.round())
        print(line(f"{time.perf_counter() - start:.1f}", astuple(rounds[-1])), flush=True)
    columns = list(zip(*map(astuple, rounds), strict=True))
    for name, pick in (("least", min), ("median", statistics.median), ("most", max)):
        print(line(name, tuple(pick(column) for column in columns)))
    print(*findings(rounds), sep="\n")


if __name__ == "__main__":
    main()
