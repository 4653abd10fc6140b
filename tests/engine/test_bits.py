"""A row's results depend only on its inputs: logits are bit-identical however the work is split."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pellucid import _engine
from tests.engine.models import Load, extend, ids_for, rows, same, sequence, write

KINDS = [
    ("llama_gqa", "F32"),
    ("llama_odd", "F32"),
    ("llama_one_kv", "BF16"),
    ("llama_odd", "F16"),
    ("narrow", "Q8_0"),
    ("narrow", "Q4_0"),
    ("narrow", "all"),
    ("narrow", "one Q4_0"),
    ("wide", "K"),
    ("wide", "Q4_1"),
    ("gemma3", "F32"),
    ("gemma3_scaled", "F16"),
    ("wide_gemma", "K"),
]
kinds = pytest.mark.parametrize(("name", "mix"), KINDS, ids=["-".join(kind) for kind in KINDS])


@kinds
def test_threads_and_chunks(load: Load, isa: str, name: str, mix: str) -> None:
    model = load(name, mix, isa=isa, threads=1)
    ids = ids_for(model.core.engine, 90 if isa == "scalar" else 150)
    expected = model.logits(ids)
    for threads, chunks in ((1, (7, 64)), (2, (1, 7, 512)), (3, (64, 512))):
        model = load(name, mix, isa=isa, threads=threads)
        for chunk in chunks:
            n = 70 if chunk == 1 else len(ids)
            assert same(model.logits(ids[:n], chunk=chunk), expected[:n]), f"{threads} threads, chunks of {chunk}"


@kinds
def test_a_full_pass_of_narrow_rows(load: Load, isa: str, name: str, mix: str) -> None:
    """512 rows at once, of as few quantisation blocks as a row can have."""
    one, two = (load(name, mix, isa=isa, threads=threads) for threads in (1, 2))
    ids = ids_for(one.core.engine, 130 if isa == "scalar" else 520)
    assert same(two.logits(ids), one.logits(ids, chunk=100))


@kinds
@pytest.mark.parametrize("kv", ["f32", "f16", "bf16", "int8"])
def test_every_kv_type(load: Load, name: str, mix: str, kv: str) -> None:
    one, two = (load(name, mix, kv=kv, threads=threads) for threads in (1, 2))
    ids = ids_for(one.core.engine, 140)
    expected = one.logits(ids)
    assert same(two.logits(ids, chunk=33), expected)
    assert same(two.logits(ids[:66], chunk=1), expected[:66])


@kinds
def test_two_terms(load: Load, name: str, mix: str) -> None:
    one, two = (load(name, mix, precision="high", threads=threads) for threads in (1, 2))
    ids = ids_for(one.core.engine, 70)
    assert same(two.logits(ids, chunk=9), one.logits(ids))


@kinds
def test_a_tuning(load: Load, isa: str, name: str, mix: str) -> None:
    """What is prefetched and how much is computed at once, drawn at random, and at the limits."""
    model = load(name, mix, isa=isa, threads=2)
    engine, limits = model.core.engine, _engine.tuning_limits()
    ids = ids_for(engine, 40 if isa == "scalar" else 130)
    expected = model.logits(ids)
    rng = np.random.default_rng(23)
    drawn = [{key: int(rng.integers(a, b + 1)) for key, (a, b) in limits.items()} for _ in range(4)]
    small = [{**values, "step_rows": 16 + i, "step_tiles": 2 + i} for i, values in enumerate(drawn[:2])]
    try:
        for tuning in [*({key: limit[end] for key, limit in limits.items()} for end in (0, 1)), *drawn, *small]:
            engine.tune(tuning)
            assert same(model.logits(ids), expected), tuning
            assert same(model.logits(ids[:30], chunk=7), expected[:30]), tuning
    finally:
        engine.tune(None)


@kinds
def test_batch_mates(load: Load, isa: str, name: str, mix: str) -> None:
    model = load(name, mix, isa=isa)
    several = [ids_for(model.core.engine, n, seed=n) for n in (1, 30, 3, 77, 5, 16)]
    alone = [model.logits(ids) for ids in several]
    for chunk in (512, 20):
        for together, expected in zip(model.logits(several, chunk=chunk), alone, strict=True):
            assert same(together, expected)


@kinds
def test_rewound_forked_and_fresh(load: Load, isa: str, name: str, mix: str) -> None:
    engine = load(name, mix, isa=isa).core.engine
    ids, other = ids_for(engine, 130), ids_for(engine, 60, seed=2)
    fresh = rows(engine, sequence(engine), ids)
    # Rewound to places inside, at the border of, and before a page; other tokens stood there meanwhile.
    s = sequence(engine, ids[:100] + other)
    for n in (100, 70, 64, 3, 0):
        n = s.rewind(n)
        assert s.length == n
        assert same(rows(engine, s, ids[n:]), fresh[n:]), f"rewound to {n}"
    # A fork and its origin continue independently of each other.
    for n in (65, 64, 10):
        s = sequence(engine, ids[:n])
        fork = s.fork()
        extend(engine, s, other)
        assert same(rows(engine, fork, ids[n:]), fresh[n:])
        again = sequence(engine, ids[:n] + other)
        tail = ids[:20]
        assert same(rows(engine, s, tail), rows(engine, again, tail))


def test_from_several_python_threads(load: Load) -> None:
    models = [load("narrow", "all"), load("gemma3"), load("wide", "K")]
    work = [(model, ids_for(model.core.engine, n, seed=n)) for model in models for n in (5, 40, 90)]
    expected = [model.logits(ids) for model, ids in work]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(3):
            found = list(pool.map(lambda job: job[0].logits(job[1], chunk=16), work))
            assert all(same(a, b) for a, b in zip(found, expected, strict=True))


# ---- far beyond one chunk of keys -----------------------------------------------------------------------------

DEEP = [
    ("llama_gqa", "F32", {}),
    ("wide", "K", {}),
    ("gemma3", "F32", {"window": 600}),
    ("gemma3", "F16", {"window": 512}),
]


@pytest.mark.parametrize("kv", ["f32", "f16", "bf16", "int8"])
@pytest.mark.parametrize(("name", "mix", "changes"), DEEP, ids=["llama", "K", "window600", "window512"])
def test_deep(load: Load, name: str, mix: str, changes: dict[str, int], kv: str) -> None:
    """Attention gives the same bits unsplit (a long pass) and split into chunks over threads (few rows at depth)."""
    one, three = (load(name, mix, changes, kv=kv, threads=threads) for threads in (1, 3))
    ids = ids_for(one.core.engine, 1500)
    expected = one.logits(ids)
    assert same(three.logits(ids, chunk=200), expected)
    for at, n in ((1499, 1), (1490, 5), (1024, 1), (1023, 2), (512, 3), (511, 1), (1100, 17)):
        s = sequence(three.core.engine, ids[:at], chunk=512)
        assert same(rows(three.core.engine, s, ids[at : at + n]), expected[at : at + n]), f"{n} rows at {at}"
        s = sequence(one.core.engine, ids[:at], chunk=100)
        assert same(rows(one.core.engine, s, ids[at : at + n]), expected[at : at + n]), f"{n} rows at {at}, one thread"


def test_chunks_in_rounds(load: Load) -> None:
    """So many threads for a pass that the states of all its chunks would take more memory than they may."""
    changes = {"arch": "qwen3", "heads": 48, "kv_heads": 1, "head_dim": 64, "layers": 2}
    one, many = (load("narrow", "F32", changes, threads=threads) for threads in (1, 32))
    ids = ids_for(one.core.engine, 3127)
    kept, rest = ids[:3000], ids[3000:]
    expected = rows(one.core.engine, sequence(one.core.engine, kept), rest)
    made = sequence(many.core.engine, kept)
    several = made.fork()
    assert same(rows(many.core.engine, made, rest), expected)
    # Beside sequences whose keys are few, or end in another round.
    engine = many.core.engine
    mates = [sequence(engine, ids[:n]) for n in (40, 1500)]
    out = np.empty((3 * 30, engine.vocab), np.float32)
    engine.forward([(s, np.array(ids[n : n + 30], np.int32), 0) for s, n in zip((*mates, several), (40, 1500, 3000))],
                   out=out)  # fmt: skip
    assert same(out[60:], expected[:30])
    for i, n in enumerate((40, 1500)):
        alone = rows(one.core.engine, sequence(one.core.engine, ids[:n]), ids[n : n + 30])
        assert same(out[30 * i : 30 * i + 30], alone)


STATES = """
import sys
import numpy as np
from pellucid import Model
from tests.engine.models import ids_for, rows, sequence
from tests.peak import forget_peak, peak

engine = Model.load(sys.argv[1], threads=32, context=4096).core.engine
ids = ids_for(engine, 4000)
made = sequence(engine, ids[:3800])
rows(engine, made.fork(), ids[3800:3810])
forget_peak()
before = peak()
rows(engine, made, ids[3800:3927])
print(peak() - before)
"""


def test_states_of_chunks_take_little_memory(folder: Path) -> None:
    """However many threads there are, and keys: 127 tiles' states of 15 chunks would take 48 MB."""
    path = write(folder, "narrow", arch="qwen3", heads=48, kv_heads=1, head_dim=128, layers=1)
    done = subprocess.run([sys.executable, "-c", STATES, path], capture_output=True, text=True, timeout=120)
    assert int(done.stdout) < 28 << 10, done.stderr


def test_deep_mates(load: Load) -> None:
    """Sequences of very different depths in one pass, unsplit and split."""
    engine = load("llama_gqa", threads=3).core.engine
    ids = ids_for(engine, 1300)
    expected = load("llama_gqa", threads=3).logits(ids)
    depths = (1299, 3, 700, 511)
    for count in (2, 4):
        made = [sequence(engine, ids[:n]) for n in depths[:count]]
        out = np.empty((count, engine.vocab), np.float32)
        engine.forward([(s, np.array(ids[n : n + 1], np.int32), 0) for s, n in zip(made, depths)], out=out)
        for i, n in enumerate(depths[:count]):
            assert same(out[i], expected[n])
