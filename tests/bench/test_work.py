"""Bytes and operations of passes, compared with counts made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from pellucid import Model, _engine
from pellucid.bench import work
from pellucid.bench.limits import Limits
from pellucid.bench.scenarios import Bench
from pellucid.bench.work import Part, Product, Work
from tests.reference.tiny import TINY, Tiny, write_gguf


def tiny(name: str) -> Tiny:
    return next(t for t in TINY if t.name == name)


@pytest.fixture
def bench(smollm2: Path) -> Bench:
    return Bench(Model.load(smollm2, isa="scalar", threads=1, kv="f16"))


# SmolLM2-135M: matrices in Q4_1 (20 bytes per 32), the tied embedding in Q8_0 (34 bytes per 32).
LAYER = 576 * 576 + 2 * 192 * 576 + 576 * 576 + 2 * 1536 * 576 + 576 * 1536
TWICE = 2 * 192 * 576  # keys and values take two terms
HEAD = 49152 * 576
ROW = 576 // 32 * 34


def test_decode(bench: Bench) -> None:
    found = bench.count(work.decode_passes(depth=100, n=2))
    keys = 101 + 102  # the new token's own is one of them
    assert found.bytes == 2 * (30 * LAYER * 20 // 32 + HEAD * 34 // 32 + ROW) + 30 * keys * 3 * (64 + 64) * 2
    assert found.operations == {
        "int8": 2 * 2 * 30 * (LAYER + TWICE),
        "int8_wide": 2 * 2 * 2 * HEAD,  # two terms in the head
        "f32": 2 * 30 * keys * 9 * (64 + 64),
    }


def test_prefill(bench: Bench) -> None:
    passes = work.prefill_passes(700, 512)
    assert passes == [[Part(0, 512, 0)], [Part(512, 188, 1)]]
    found = bench.count(passes)
    # The first pass asks for no logits; each reads the layers, the second what the first has cached.
    weights = 2 * 30 * LAYER * 20 // 32 + HEAD * 34 // 32 + 700 * ROW
    assert found.bytes == weights + 30 * (512 + 700) * 3 * 128 * 2
    assert found.operations == {
        "int8": 2 * 700 * 30 * (LAYER + TWICE),
        "int8_wide": 2 * 2 * HEAD,
        "f32": 2 * 30 * (700 * 701 // 2) * 9 * 128,
    }


def test_several_sequences_share_the_weights(bench: Bench) -> None:
    one, four = bench.count(work.decode_passes(7, 1)), bench.count(work.decode_passes(7, 1, 4))
    assert four.operations == {kind: 4 * n for kind, n in one.operations.items()}
    assert four.bytes == one.bytes + 3 * (ROW + 30 * 8 * 3 * 128 * 2)


def test_high_precision_has_two_terms(smollm2: Path) -> None:
    high = Bench(Model.load(smollm2, isa="scalar", threads=1, precision="high"))
    found = high.count(work.decode_passes(0, 1)).operations
    assert (found["int8"], found["int8_wide"]) == (2 * 2 * 30 * LAYER, 2 * 2 * HEAD)


def test_operations_add_up(bench: Bench) -> None:
    passes = [[Part(3, 5, 1), Part(0, 2, 2)]]
    plan = bench.engine.plan
    each = sum((work.count(plan, passes, bench.cost, i) for i in range(len(plan.ops))), Work())
    assert each == bench.count(passes)


def test_products(bench: Bench) -> None:
    """Of a pass of two sequences, 7 rows of which one asks for logits."""
    plan = bench.engine.plan
    names = {op.name: op for op in plan.ops if op.layer <= 0}
    found = {
        name: [p for _, p in work.products(plan, op, [Part(0, 5, 0), Part(9, 2, 1)], bench.cost)]
        for name, op in names.items()
    }
    kv = Product("Q4_1", 192, 576, 7, 2)
    assert found["attn_qkv"] == [Product("Q4_1", 576, 576, 7, 1), kv, kv]
    assert found["ffn_gate_up"] == [Product("Q4_1", 1536, 576, 7, 1)] * 2
    assert found["head"] == [Product("Q8_0", 49152, 576, 1, 2)]
    assert found["token_embd"] == found["attend"] == found["attn_norm"] == []


def test_floats_and_windows(tmp_path: Path) -> None:
    t = tiny("gemma3")  # 7 layers, of which the sixth sees everything and the others 8 tokens; one KV head of 32
    bench = Bench(Model.load(write_gguf(t, tmp_path / "tiny.gguf"), isa="scalar", threads=1))
    found = bench.count([[Part(5, 6, 1)]])  # slots 5 .. 10
    matrices = 7 * (64 * 128 + 2 * 32 * 64 + 128 * 64 + 3 * 96 * 64)
    full, local = 6 + 7 + 8 + 9 + 10 + 11, 6 + 7 + 8 + 8 + 8 + 8
    assert found.operations == {"f32": 2 * (6 * matrices + 97 * 64 + (full + 6 * local) * 4 * (32 + 32))}
    # The first row of a window's layer sees slots 0 .. 5: together they see all eleven.
    assert found.bytes == 4 * (matrices + 97 * 64 + 6 * 64 + 7 * 11 * (32 + 32))
    late = bench.count([[Part(20, 1, 1)]])
    assert late.bytes == 4 * (matrices + 97 * 64 + 64 + (21 + 6 * 8) * (32 + 32))


def test_what_a_format_is_computed_in() -> None:
    """Two products of codes up to 64 with activations up to 127 fit into 16 bits beside two others."""
    wide = {name for name in _engine.format_names() if _engine.format_wide(name)}
    assert wide == {"Q8_0", "IQ4_NL", "IQ4_XS", "IQ2_XXS", "IQ2_XS", "IQ2_S"}


def test_limit() -> None:
    limits = Limits(read_4k=10.0, read_2m=20.0, int8=100.0, bf16=None, f32=50.0, clock=3.0)
    found = Work(4 * 10**9, {"int8": 10**11, "bf16": 10**11}).seconds(limits, huge=True)
    assert found == pytest.approx((0.2, 1.0 + 2.0))
    assert Work(4 * 10**9).seconds(limits, huge=False) == pytest.approx((0.4, 0.0))
