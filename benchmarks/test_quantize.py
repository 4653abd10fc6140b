"""Quantising on one thread, by format: the full search, for files, and the quick one, for `quantize=` at load.

`extra_info` has megabytes of output per second, from the fastest round. The target for a load is 300 MB/s per core.
"""

from __future__ import annotations

import numpy as np
import pytest

from pellucid import _engine

K = 2048
FORMATS = [name for name in _engine.quantizers() if name not in ("F32", "F16", "BF16")]


@pytest.mark.parametrize("quick", [True, False], ids=["quick", "whole"])
@pytest.mark.parametrize("source", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("name", FORMATS)
def test_quantize(benchmark, name, source, quick):
    x = (np.random.default_rng(1).standard_normal((2048 if quick else 64, K)) * 0.02).astype(np.float32)
    data = _engine.quantize("F32", x.reshape(-1).view(np.uint8), K, source)
    benchmark.group = f"quantise from {source}"
    made = benchmark(lambda: _engine.quantize(source, data, K, name, quick=quick))
    if benchmark.stats:
        benchmark.extra_info["MB/s"] = round(made.nbytes / benchmark.stats.stats.min / 1e6, 1)
