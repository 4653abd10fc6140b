"""One head's attention anew: over fewer keys, or with given weights, for every type of cache and instruction set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model, _engine
from pellucid.errors import PellucidError
from pellucid.look.pattern import as_cached
from pellucid.plan import Kind
from tests.conftest import all_isas
from tests.engine import models
from tests.engine.models import Load, ids_for, same
from tests.engine.test_plan import copy_of, make, run


@pytest.mark.parametrize("kv", ["f32", "f16", "bf16", "int8"])
@pytest.mark.parametrize("isa", all_isas())
@pytest.mark.parametrize("name", ["llama_gqa", "gemma3"])
def test_cuts_and_weights(tmp_path: Path, name: str, isa: str, kv: Any) -> None:
    with Model.load(models.write(tmp_path, name, "F32"), isa=isa, kv=kv, threads=2) as model:
        ids = ids_for(model.core.engine, 70)
        t = model.trace(ids, ("mixed", "attention", "v"))
        with model.edit() as edit:  # of tokens that the positions do not see: no bit changes
            edit.cut(1, None, [3, 4, 40], [50, 69])
            assert same(edit.trace(ids, "mixed").mixed, t.mixed)
        with model.edit() as edit:
            edit.cut(1, 2, [20, 21, 69], [15, 19, 20])
            found = edit.trace(ids, ("mixed", "attention"))
            kept = [h for h in t.heads if h != 2]
            assert same(found.mixed[1][kept], t.mixed[1][kept]) and same(found.mixed[0], t.mixed[0])
            values = as_cached(t.v[1][2 // (len(t.heads) // len(t.v[1]))], kv)
            for p in (20, 21, 69):
                weights = t.attention[1, 2, p].astype(np.float64)
                weights[[15, 19, 20]] = 0
                weights /= weights.sum()
                assert np.abs(weights - found.attention[1, 2, p]).max() < 1e-5
                bound = 8e-3 if kv == "bf16" and isa in ("avx512bf16", "amx") else 2e-5
                assert np.abs(weights @ values - found.mixed[1, 2, p]).max() <= bound * np.abs(values).max()
        with model.edit() as edit:
            weights = np.abs(np.random.default_rng(0).normal(size=(2, 30))).astype(np.float32)
            edit.patch_pattern(1, 2, [25, 60], weights)
            found = edit.trace(ids, ("mixed", "attention"))
            window = 8 if name == "gemma3" else 70
            for p, row in zip((25, 60), weights, strict=True):
                own = np.where((np.arange(30) <= p) & (np.arange(30) > p - window), row, 0)
                assert np.allclose(found.attention[1, 2, p, :30], own, atol=1e-6)
                assert np.abs(own.astype(np.float64) @ values[:30] - found.mixed[1, 2, p]).max() <= 1e-5 * row.sum() * 4
        with model.edit() as edit:  # none is left
            edit.cut(1, 1, 10, range(11))
            assert not edit.trace(ids, "mixed").mixed[1, 1, 10].any()


@pytest.fixture(scope="module")
def plan(load: Load) -> Any:
    model = load("llama_gqa")
    with model.edit() as edit:
        edit.cut(1, 2, [1, 2], [0]).patch_pattern(1, 0, [1, 2], np.ones((2, 3)))
        return models.in_memory(edit.core.engine.plan)


@pytest.mark.parametrize(
    ("which", "field", "value", "what"),
    [
        (0, "column", 4, "its head"),
        (0, "column", -1, "its head"),
        (0, "width", 2, "its weights"),
        (0, "width", 0, "its positions"),
        (0, "width", 2**31 - 1, "its weights"),
        (0, "each", 1, "its weights"),
        (0, "vec", -1, "its weights"),
        (0, "vec", 99, "its weights"),
        (0, "vec2", 0, "its sinks"),
        (0, "vec2", -2, "its sinks"),
        (0, "cap", -1.0, "its cap"),
        (0, "cache", 9, "its cache group"),
        (0, "cache_layer", 9, "its cache layer"),
        (0, "pos_from", -1, "its positions"),
        (0, "pos_to", 0, "its positions"),
        (1, "pos_to", 9, "its weights"),
        (1, "flags", 0, None),
        (0, "flags", 256, None),
        (0, "column", 3, None),
    ],
)
def test_a_wrong_one(plan: Any, which: int, field: str, value: Any, what: str | None) -> None:
    wrong = copy_of(plan)
    setattr([op for op in wrong.ops if op.kind == Kind.REATTEND][which], field, value)
    if what is None:
        run(wrong)
    else:
        with pytest.raises(PellucidError, match=what):
            make(wrong)


def test_before_its_keys_are_stored(plan: Any) -> None:
    wrong = copy_of(plan)
    at = next(i for i, op in enumerate(wrong.ops) if op.kind == Kind.REATTEND)
    wrong.ops[at].cache_layer = 2
    with pytest.raises(PellucidError, match="before they are stored"):
        make(wrong)
    assert _engine.Kind.REATTEND.attends
