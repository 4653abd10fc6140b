"""Every case in every form: logits against the golden ones, the same bits however the work is split, Q8_0.

max |x - r| / max |r| of float32 within 1e-4. The references' own error (float32 against float64) is below 1e-5.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from pellucid import Model
from tests.engine.models import extend, rows, same, sequence
from tests.families.case import (
    KEPT,
    STEPS,
    Array,
    Case,
    Golden,
    load_golden,
    routed,
    text_config,
    token_ids,
    write_folder,
    write_gguf,
)
from tests.families.cases import BY_NAME, CASES

TOLERANCE = 1e-4
FORMS = {"folder": "F32", "gguf": "F32", "q8_0": "Q8_0"}
IN_FLOAT = [(case.name, form) for case in CASES for form in ("folder", "gguf") if form == "folder" or case.gguf]
# One form of a case in float32 and one in Q8_0.
BITS = [(case.name, form) for case in CASES for form in (("gguf", "q8_0") if case.gguf else ("folder",))]
floats = pytest.mark.parametrize(("name", "form"), IN_FLOAT, ids=["-".join(one) for one in IN_FLOAT])
bits = pytest.mark.parametrize(("name", "form"), BITS, ids=["-".join(one) for one in BITS])

golden_of = cache(load_golden)


def ids_of(case: Case, golden: Golden) -> list[int]:
    return token_ids(case, text_config(golden.config)["vocab_size"])


def write(case: Case, form: str, path: Path) -> Path:
    if form == "folder":
        return write_folder(case, golden_of(case), path)
    return write_gguf(case, golden_of(case), path, FORMS[form])


def distance(found: Array, reference: Array) -> float:
    assert found.shape == reference.shape
    return float(np.abs(found - reference).max() / np.abs(reference).max())


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Any]:
    """load(name, form, **options of Model.load)."""
    made: list[Model] = []

    def get(name: str, form: str, **options: Any) -> Model:
        path = tmp_path / f"{name}.{form}"
        if not path.exists():
            write(BY_NAME[name], form, path)
        made.append(Model.load(path, **{"threads": 2, **options}))
        return made[-1]

    yield get
    for model in made:
        model.close()


@floats
def test_logits(load: Any, name: str, form: str) -> None:
    case = BY_NAME[name]
    golden = golden_of(case)
    ids = ids_of(case, golden)
    model = load(name, form)
    everything = model.logits(ids)
    assert distance(everything[list(KEPT)], golden.logits) <= TOLERANCE
    for length in case.lengths:
        assert same(model.logits(ids[:length]), everything[:length]), f"{length} tokens"
    engine, n = model.core.engine, len(ids) - STEPS
    s = sequence(engine, ids[:n])
    for i in range(n, len(ids)):
        assert same(rows(engine, s, ids[i : i + 1]), everything[i : i + 1]), f"position {i}"


@bits
def test_bits(load: Any, name: str, form: str) -> None:
    """Threads, chunks, company, rewinds and forks change no bit."""
    case = BY_NAME[name]
    ids = ids_of(case, golden_of(case))[:150]
    one = load(name, form, threads=1)
    expected = one.logits(ids)
    for threads in (1, 2, 3):
        model = load(name, form, threads=threads)
        assert same(model.logits(ids, chunk=7), expected), f"{threads} threads"
    several = [ids[:n] for n in (3, 77, 1, 30)]
    for together, alone in zip(one.logits(several), several, strict=True):
        assert same(together, expected[: len(alone)])
    engine = model.core.engine
    other = ids[::-1]
    s = sequence(engine, ids[:100] + other[:40])
    for n in (100, 64, 33, 3, 0):
        kept = s.rewind(n)
        assert kept <= n and s.length == kept
        assert same(rows(engine, s, ids[kept:]), expected[kept:]), f"rewound to {n}"
    for n in (65, 10):
        s = sequence(engine, ids[:n])
        fork = s.fork()
        extend(engine, s, other[:20])
        assert same(rows(engine, fork, ids[n:]), expected[n:]), f"forked at {n}"


@pytest.mark.parametrize("name", [case.name for case in CASES if case.gguf])
def test_q8_0(load: Any, name: str, tmp_path: Path) -> None:
    """Near the float32 weights, in the root mean square: rounding costs models of these widths 2 to 11 %."""
    case = BY_NAME[name]
    golden = golden_of(case)
    ids = ids_of(case, golden)[:40]
    quantised = load(name, "q8_0").logits(ids)
    plain = load(name, "gguf").logits(ids)
    assert not np.array_equal(quantised, plain)
    most = 0.3 if routed(golden) else 0.15  # some choices of experts are close
    assert np.linalg.norm(quantised - plain) <= most * np.linalg.norm(plain)


def test_encoding() -> None:
    """Q8_0 of these files is the gguf package's."""
    value = np.random.default_rng(1).normal(size=(4, 64)).astype(np.float32)
    kind = gguf.GGMLQuantizationType.Q8_0
    assert np.abs(gguf.dequantize(gguf.quantize(value, kind), kind) - value).max() < 0.02


def test_each_golden_file_has_a_case() -> None:
    from tests.families.case import GOLDEN

    assert {path.stem for path in GOLDEN.glob("*.npz")} == {*BY_NAME}
