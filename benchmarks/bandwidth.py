"""How much of the memory bandwidth products of a few rows reach, by weight format, on all cores at once.

    python benchmarks/bandwidth.py [--rows 1 4] [--terms 1 2] [--isa TIER] [--format Q6_K ...] [--rounds 8]

A decode step is made of such products. Each thread multiplies weights of its own, in 2 MB pages where the system gives
them, and memory is read before and after every product: the product's bytes a second over the mean of the two is its
fraction. On a shared machine the bandwidth goes up and down within seconds, and the more there is, the less of it a
kernel takes; so the runs are told apart at the middle of what was read, and the two halves stand side by side. Runs
whose readings differ by more than a tenth are left out.
"""

from __future__ import annotations

import argparse
import mmap
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from pellucid._kernels import machine, weights
from pellucid.bench.limits import Prober
from tests.kernels import cases

K = 2048
BYTES = 192 << 20  # of weights per thread: with two threads a dozen times a last-level cache of 32 MB
SECONDS = 0.05  # of one run, in which the bandwidth rarely changes
RUNS = 5  # of one kind in a row


class Core:
    """A thread's weights, and the activations that it multiplies them by."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, BYTES + (2 << 20))
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self.memory.madvise(mmap.MADV_HUGEPAGE)
        flat = np.frombuffer(self.memory, np.uint8)
        self.flat = flat[-flat.ctypes.data % (2 << 20) :][:BYTES]

    def fill(self, name: str) -> int:
        """Random weights of a format -> how many rows."""
        tiles = weights.pack("scalar", name, cases.raw(name, 64, K), K)
        times = BYTES // tiles.size
        self.packed = self.flat[: times * tiles.size]
        self.packed.reshape(times, -1)[:] = tiles
        return 64 * times

    def rate(self, start: threading.Barrier, isa: str, name: str, rows: int, forms: dict[str, Any]) -> float:
        """Bytes a nanosecond, of products repeated for SECONDS."""
        out = np.empty((len(next(iter(forms.values()))), rows), np.float32)
        start.wait()
        begin, done = time.perf_counter_ns(), 0
        while (spent := time.perf_counter_ns() - begin) < SECONDS * 1e9:
            weights.matmul(isa, name, self.packed, rows, K, **forms, out=out)
            done += self.packed.size
        return done / spent


def measure(cores: list[Core], prober: Prober, isa: str, name: str, n: int, terms: int) -> list[Any]:
    """-> (bandwidth, fraction of it) for each of RUNS that is not left out."""
    rows = [core.fill(name) for core in cores][0]
    forms = cases.acts(name, n, K, terms=terms).forms
    start, found = threading.Barrier(len(cores)), []

    with ThreadPoolExecutor(len(cores)) as pool:
        before = prober.read()
        for _ in range(RUNS):
            rate = sum(pool.map(lambda core: core.rate(start, isa, name, rows, forms), cores))
            after = prober.read()
            if abs(before - after) < 0.1 * max(before, after):
                found.append(((before + after) / 2, 2 * rate / (before + after)))
            before = after
    return found


def summary(runs: list[Any]) -> str:
    if not runs:
        return "-"
    fractions = [fraction for _, fraction in runs]
    return f"{statistics.median(fractions):.2f} ({min(fractions):.2f}..{max(fractions):.2f}) of {len(runs)}"


def table(found: dict[Any, list[Any]]) -> list[str]:
    """Lines: the two bandwidths, then a line for each (format, rows, terms)."""
    reads = sorted(read for runs in found.values() for read, _ in runs)
    if not reads:
        return ["no two readings of the bandwidth agreed; try again when the machine is quieter"]
    middle = (reads[len(reads) // 20] + reads[-1 - len(reads) // 20]) / 2
    halves = ([r for r in reads if r < middle], [r for r in reads if r >= middle])
    heads = [f"at {statistics.median(half):.0f} GB/s" if half else "" for half in halves]
    lines = [f"{'':22}  {heads[0]:28}  {heads[1]}"]
    for (name, n, terms), runs in found.items():
        sides = [summary([r for r in runs if (r[0] < middle) == below]) for below in (True, False)]
        lines.append(f"{name:5} rows {n:3}, terms {terms}  {sides[0]:28}  {sides[1]}")
    return lines


def at_least_1(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def main(argv: list[str] | None = None) -> None:
    isas = [isa["name"] for isa in machine.isas() if isa["runs"]]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", default=machine.best_isa(), choices=isas)
    parser.add_argument("--threads", type=at_least_1, default=machine.topology()["threads"])
    parser.add_argument("--rows", type=at_least_1, nargs="+", default=[1])
    parser.add_argument("--terms", type=int, nargs="+", default=[1, 2], choices=(1, 2))
    parser.add_argument("--format", nargs="+", default=list(cases.FORMATS), choices=list(cases.FORMATS))
    parser.add_argument("--rounds", type=at_least_1, default=8, help=f"over all, of {RUNS} runs each")
    given = parser.parse_args(argv)

    cores = [Core() for _ in range(given.threads)]
    prober = Prober(given.isa, given.threads)
    kinds = [(name, n, terms) for n in given.rows for terms in given.terms for name in given.format]
    kinds = [kind for kind in kinds if kind[2] == 1 or not cases.FORMATS[kind[0]]["float"]]
    found: dict[Any, list[Any]] = {kind: [] for kind in kinds}
    for i in range(given.rounds):
        for kind in kinds:
            print(f"{i + 1}/{given.rounds}", *kind, file=sys.stderr)
            found[kind] += measure(cores, prober, given.isa, *kind)
    print(f"{machine.cpu_name()}, {given.threads} threads, {given.isa}: fraction of the bandwidth (range) of n runs")
    print(*table(found), sep="\n")


if __name__ == "__main__":
    main()
