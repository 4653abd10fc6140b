"""Row, attention and vocabulary kernels per tier: `pytest benchmarks/test_rows.py --benchmark-enable`.

Each figure is for `extra_info["calls"]` consecutive calls; what a call reads or computes is in `extra_info`, too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pellucid._kernels import attend, rows, vocab, weights

ISAS: list[str] = weights.isas()
CALLS = 100
VOCABULARY = 262_144


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n", [576, 2048])
@pytest.mark.parametrize(
    "name", ["rms_norm", "quantize", "quantize2", "to_bf16", "silu", "gelu_tanh", "softcap", "exp"]
)
def test_row(benchmark: Any, name: str, n: int, isa: str) -> None:
    x, y = normal(2, n)
    out = np.empty_like(x)
    bits = np.empty(n, np.uint16)
    codes = [rows.quantize(isa, x, terms) for terms in (1, 2)]
    call = {
        "rms_norm": lambda: rows.rms_norm(isa, x, y, 1e-5, out, repeat=CALLS),
        "quantize": lambda: rows.quantize(isa, x, 1, codes[0], repeat=CALLS),
        "quantize2": lambda: rows.quantize(isa, x, 2, codes[1], repeat=CALLS),
        "to_bf16": lambda: rows.to_bf16(isa, x, bits, repeat=CALLS),
        "silu": lambda: rows.glu(isa, "silu", x, y, out, repeat=CALLS),
        "gelu_tanh": lambda: rows.glu(isa, "gelu_tanh", x, y, out, repeat=CALLS),
        "softcap": lambda: rows.softcap(isa, x, 30.0, out, repeat=CALLS),
        "exp": lambda: vocab.exp(isa, x, out, repeat=CALLS),
    }[name]
    benchmark.extra_info.update(calls=CALLS, values=n)
    benchmark(call)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("d", [64, 128])
def test_rope(benchmark: Any, d: int, halves: bool, isa: str) -> None:
    angle = np.arange(d // 2, dtype=np.float32)
    x, cos, sin = normal(d), np.cos(angle), np.sin(angle)
    benchmark.extra_info.update(calls=CALLS, values=d)
    benchmark(rows.rope, isa, x, cos, sin, halves, repeat=CALLS)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kv", attend.KV)
@pytest.mark.parametrize("d", [64, 128, 256])
@pytest.mark.parametrize("m", [1, 3, 48])
@pytest.mark.parametrize("depth", [64, 512, 4096])
def test_attend(benchmark: Any, depth: int, m: int, d: int, kv: str, isa: str) -> None:
    pages = depth // attend.PAGE
    n_k, n_v = attend.page_bytes(isa, kv, d, d)
    k, v = np.zeros((pages, n_k), np.uint8), np.zeros((pages, n_v), np.uint8)
    for slot in range(attend.PAGE):
        attend.kv_append(isa, kv, normal(d), normal(d), slot, k[0], v[0])
    k[:], v[:] = k[0], v[0]
    lo, hi = np.zeros((pages, m), np.int32), np.full((pages, m), attend.PAGE, np.int32)
    state = np.full(m, attend.TOP_NONE, np.float32), np.zeros(m, np.float32), np.zeros((m, d), np.float32)
    repeat = max(1, 4096 // (depth * m))
    benchmark.extra_info.update(calls=repeat, bytes=k.nbytes + v.nbytes, flops=4 * m * d * depth)
    benchmark(attend.attend, isa, kv, normal(m, d), k, v, lo, hi, d**-0.5, *state, repeat=repeat)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ["max", "sum_exp", "sum_exp_dot", "moments", "collect", "softmax"])
def test_vocabulary(benchmark: Any, name: str, isa: str) -> None:
    x, out = normal(VOCABULARY), np.empty(VOCABULARY, np.int32)
    call = {
        "max": lambda: vocab.max(isa, x),
        "sum_exp": lambda: vocab.sum_exp(isa, x, 5.0, 1.0),
        "sum_exp_dot": lambda: vocab.sum_exp_dot(isa, x, 5.0, 1.0),
        "moments": lambda: vocab.moments(isa, x, 5.0),
        "collect": lambda: vocab.collect(isa, x, 3.0, out),
        "softmax": lambda: vocab.softmax(isa, x),
    }[name]
    benchmark.extra_info.update(calls=1, values=VOCABULARY)
    benchmark(call)
