"""The fraction of the memory bandwidth that products of a few rows reach, by weight format, on all cores together.

    python benchmarks/bandwidth.py [--rows 1 4] [--terms 1 2] [--isa TIER] [--format Q6_K ...] [--rounds 8]

A decode step is made of such products. Each thread multiplies its own weights, in 2 MB pages if the system has them,
and memory is read before and after every product: the fraction is the product's bytes per second over the mean of the
two readings. On a shared machine the bandwidth varies within seconds, and the more there is, the smaller the fraction
of it that a kernel uses; so the runs are grouped by their readings (pellucid.bench.moments), and the groups are shown
side by side.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.arguments import count
from pellucid import tuning
from pellucid._kernels import machine, weights
from pellucid.bench import moments
from pellucid.bench.kernels import Kernels
from pellucid.bench.limits import Prober
from pellucid.bench.work import Product

K = 2048
BYTES = 192 << 20  # of weights per thread: with two threads a dozen times a last-level cache of 32 MB
RUNS = 5  # consecutive runs of one product
FORMATS = weights.formats()

Runs = list[tuple[float, float]]  # (bandwidth, fraction of it)


def measure(kernels: Kernels, prober: Prober, product: Product) -> Runs:
    """RUNS runs of a product, without those in which the bandwidth changed."""
    kernels.load(product.format, product.k)
    found = []
    before = prober.read()
    for _ in range(RUNS):
        rate = kernels.rate(product)
        after = prober.read()
        read = moments.steady(before, after)
        if read is not None:
            found.append((read, rate / read))
        before = after
    return found


def summary(fractions: list[float]) -> str:
    if not fractions:
        return "-"
    return f"{statistics.median(fractions):.2f} ({min(fractions):.2f}..{max(fractions):.2f}) of {len(fractions)}"


def table(found: dict[Product, Runs]) -> list[str]:
    """Lines: the bandwidths of the groups, then one line per product."""
    reads = [read for runs in found.values() for read, _ in runs]
    if not reads:
        return ["no two readings of the bandwidth agreed; try again when the machine is quieter"]
    edges = moments.edges(reads)
    heads = [f"at {statistics.median(reads[i] for i in group):.0f} GB/s" for group in moments.divide(reads, edges)]
    lines = [f"{'':22}  {'  '.join(f'{head:28}' for head in heads)}".rstrip()]
    for product, runs in found.items():
        groups = moments.divide([read for read, _ in runs], edges)
        cells = "  ".join(f"{summary([runs[i][1] for i in group]):28}" for group in groups)
        lines.append(f"{product.format:5} rows {product.n:3}, terms {product.terms}  {cells}".rstrip())
    return lines


def main(argv: list[str] | None = None) -> None:
    isas = [isa["name"] for isa in machine.isas() if isa["runs"]]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", default=machine.best_isa(), choices=isas)
    parser.add_argument("--threads", type=count, default=machine.topology()["threads"])
    parser.add_argument("--rows", type=count, nargs="+", default=[1])
    parser.add_argument("--terms", type=int, nargs="+", default=[1, 2], choices=(1, 2))
    parser.add_argument("--format", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--rounds", type=count, default=8, help=f"rounds over all products, of {RUNS} runs each")
    given = parser.parse_args(argv)

    kernels = Kernels(given.isa, given.threads, BYTES, tuning.find(given.isa, given.threads).values)
    prober = Prober(given.isa, given.threads)
    products = [Product(name, K, K, n, terms) for n in given.rows for terms in given.terms for name in given.format]
    products = [p for p in products if p.terms == 1 or not FORMATS[p.format]["float"]]
    found: dict[Product, Runs] = {p: [] for p in products}
    for i in range(given.rounds):
        for p in products:
            print(f"{i + 1}/{given.rounds}", p.format, p.n, p.terms, file=sys.stderr)
            found[p] += measure(kernels, prober, p)
    print(f"{machine.cpu_name()}, {given.threads} threads, {given.isa}: fraction of the bandwidth (range) of n runs")
    print(*table(found), sep="\n")


if __name__ == "__main__":
    main()
