"""Matrix kernels on one thread: products per format, tier and rows of activations; packing; reading a row back.

`extra_info` has GB/s (of packed weights, or of file bytes for packing) and Gop/s (a multiplication and an addition are
two, a second term doubles them), from the fastest round. Products of one row read 64 MB, beyond most caches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pellucid._kernels import weights
from tests.kernels import cases

K = 2048
ONE_ROW_BYTES = 64 << 20
PREFILL_ROWS = 512  # of w, when n is large


def packed_matrix(name: str, rows: int) -> np.ndarray[Any, Any]:
    """`rows` (a multiple of 64) rows of K random weights."""
    tiles = weights.pack("scalar", name, cases.raw(name, 64, K), K)
    return np.tile(tiles, rows // 64)


def report(benchmark: Any, n_bytes: int, ops: int) -> None:
    if benchmark.stats:
        best = benchmark.stats.stats.min
        benchmark.extra_info["GB/s"] = round(n_bytes / best / 1e9, 2)
        benchmark.extra_info["Gop/s"] = round(ops / best / 1e9, 1)


@pytest.mark.parametrize("n", [1, 4, 512])
@pytest.mark.parametrize("name", cases.FORMATS)
@pytest.mark.parametrize("isa", cases.TIERS or cases.ISAS)
def test_matmul(benchmark, isa, name, n):
    rows = PREFILL_ROWS if n > 4 else ONE_ROW_BYTES * 16 // weights.tile_bytes(name, K) // 64 * 64
    packed = packed_matrix(name, rows)
    forms = cases.acts(name, n, K).forms
    out = np.empty((n, rows), np.float32)
    benchmark.group = f"matmul n={n}"
    benchmark(lambda: weights.matmul(isa, name, packed, rows, K, **forms, out=out))
    report(benchmark, packed.nbytes, 2 * rows * K * n)


@pytest.mark.parametrize("n", [1, 512])
@pytest.mark.parametrize("isa", cases.TIERS or cases.ISAS)
def test_matmul_in_two_terms(benchmark, isa, n):
    """The head's product: Q8_0, activations in two terms."""
    rows = PREFILL_ROWS if n > 4 else 49152
    packed = packed_matrix("Q8_0", rows)
    forms = cases.acts("Q8_0", n, K, terms=2).forms
    out = np.empty((n, rows), np.float32)
    benchmark.group = f"matmul, two terms, n={n}"
    benchmark(lambda: weights.matmul(isa, "Q8_0", packed, rows, K, **forms, out=out))
    report(benchmark, packed.nbytes, 4 * rows * K * n)


@pytest.mark.parametrize("name", cases.FORMATS)
@pytest.mark.parametrize("isa", cases.ISAS)
def test_pack(benchmark, isa, name):
    raw = np.tile(cases.raw(name, 64, K), (16, 1))
    out = weights.pack(isa, name, raw, K)
    benchmark.group = "pack"
    benchmark(lambda: weights.pack(isa, name, raw, K, out=out))
    report(benchmark, raw.nbytes, 0)


@pytest.mark.parametrize("name", cases.FORMATS)
@pytest.mark.parametrize("isa", cases.ISAS)
def test_unpack_row(benchmark, isa, name):
    packed = packed_matrix(name, 64)
    out = np.empty(K, np.float32)
    benchmark.group = "unpack_row"
    benchmark(lambda: weights.unpack_row(isa, name, packed, 64, K, 5, out=out))
    report(benchmark, packed.nbytes // 64, 0)
