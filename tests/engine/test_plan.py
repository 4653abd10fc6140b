"""C validates a plan: it refuses any wrong one with an error that names the fault, and an accepted one runs."""

from __future__ import annotations

import math
import re
import tempfile
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid import Model, _engine
from pellucid.errors import ClosedError, NumericsError, OutOfMemoryError, PellucidError
from pellucid.plan import Experts, Kind, Matrix, Op, Segment, Vector
from tests.engine import mixtures, models
from tests.engine.models import Load, same, sequence
from tests.families.case import load_golden, write_gguf
from tests.families.cases import BY_NAME

RECURRENT = ["lfm2", "qwen35", "granitehybrid"]  # cases of tests/families
TABLES = ("ops", "buffers", "segments", "matrices", "vectors", "ropes", "caches", "states")


def copy_of(plan: Any) -> Any:
    """A plan as plain lists that can be changed."""
    made = SimpleNamespace(vocab=plan.vocab, **{name: list(getattr(plan, name)) for name in TABLES})
    made.ops = [replace(op) for op in made.ops]
    made.caches = [replace(c) for c in made.caches]
    return made


def make(plan: Any) -> Any:
    engine = _engine.Engine(plan, isa=_engine.find_isa(None), threads=2, kv="f32", least_terms=1, max_rows=8)
    engine.pack()
    return engine


def run(plan: Any) -> None:
    """Prefill and decode, sampled and stored."""
    engine = make(plan)
    s = sequence(engine)
    out = np.empty((5, plan.vocab), np.float32)
    engine.forward([(s, np.arange(5, dtype=np.int32) % plan.vocab, 0)], out=out)
    engine.forward([(s, np.array([0], np.int32), 0)], samplers=[_engine.Sampler(logprobs=2)])
    assert s.length == 6


@pytest.fixture(scope="module", params=["llama_gqa", "gemma3"])
def plan(request: pytest.FixtureRequest, load: Load) -> Any:
    return models.in_memory(load(request.param).core.engine.plan)


def with_edits(plan: Any) -> Any:
    """A copy with operations that scale and add: a vector everywhere, a row each for positions 1 to 3, no vector."""
    made = copy_of(plan)
    at = next(i for i, op in enumerate(made.ops) if op.kind == Kind.LINEAR_ADD)
    x, dim = made.ops[at].out, plan.dim
    made.vectors += [Vector("same", np.ones(dim, np.float32)), Vector("each", np.ones(3 * dim, np.float32))]
    n = len(made.vectors)
    common: Any = {"kind": Kind.SCALE_ADD, "layer": 0, "name": "edit", "inp": x, "out": x, "width": dim}
    made.ops[at + 1 : at + 1] = [
        Op(**common, vec=n - 2, pos_to=2**31 - 1),
        Op(**common, vec=n - 1, pos_from=1, pos_to=4, each=1, scale=0.0),
        Op(**{**common, "width": 5}, column=3, pos_to=2, scale=2.0),
    ]
    return made


def first(plan: Any, kind: Kind) -> Any:
    return next(op for op in plan.ops if op.kind == kind)


def test_a_copy_runs(plan: Any) -> None:
    run(copy_of(plan))


# What may not be, op by op: (kind, field, value) and what the error says does not fit.
WRONG_OPS = [
    (Kind.NORM, "kind", 99, "unknown kind 99"),
    (Kind.NORM, "kind", -1, "unknown kind -1"),
    (Kind.NORM, "inp", -1, "its input"),
    (Kind.NORM, "inp", 99, "its input"),
    (Kind.NORM, "out", 99, "its output"),
    (Kind.NORM, "vec", 99, "its norm's weight"),
    (Kind.NORM, "norm", 4, "its kind of norm"),
    (Kind.NORM, "vec2", 0, "its norm's bias"),
    (Kind.NORM, "n_seg", 2**30, "its list of segments"),
    (Kind.ATTEND, "n_seg", 1, "its list of segments"),
    (Kind.EMBED, "out", -1, "its output"),
    (Kind.EMBED, "seg", 2**31 - 1, "its list of segments"),
    (Kind.LINEAR, "seg", -1, "its list of segments"),
    (Kind.LINEAR, "n_seg", 2**31 - 1, "its list of segments"),
    (Kind.LINEAR, "n_seg", 2, "its segments' columns"),
    (Kind.ROPE_APPEND, "cache", 99, "its cache group"),
    (Kind.ROPE_APPEND, "cache_layer", 99, "its cache layer"),
    (Kind.ROPE_APPEND, "rope", -2, "its rope"),
    (Kind.ATTEND, "cache", -1, "its cache group"),
    (Kind.ATTEND, "cache_layer", -1, "its cache layer"),
    (Kind.LINEAR_ADD, "tmp", -1, "its temporary"),
    (Kind.LINEAR_ADD, "vec", 99, "its norm's weight"),
    (Kind.LINEAR_ADD, "seg", 99, "its list of segments"),
    (Kind.GLU, "act", 8, "its activation"),
    (Kind.GLU, "act", -1, "its activation"),
    (Kind.GLU, "tmp", 99, "its temporary"),
    (Kind.GLU, "vec", 0, "its activation's parameters"),
    (Kind.GLU, "n_seg", 0, "its list of segments"),
    (Kind.HEAD, "vec", 99, "its norm's weight"),
    (Kind.HEAD, "norm", 3, "its norm's weight"),
    (Kind.NORM, "column", 1, "its columns"),
    (Kind.NORM, "width", 65, "its columns"),
    (Kind.NORM, "each", 7, "its groups"),
    (Kind.ATTEND, "vec", 0, "its sinks"),
    (Kind.ATTEND, "cap", -1.0, "its cap"),
    (Kind.ATTEND, "cap", math.nan, "its cap"),
    (Kind.ROPE_APPEND, "vec", 0, "its factors"),
    (Kind.ROPE_APPEND, "flags", 64, "before they are stored"),
    (Kind.EMBED, "seg", -1, "its list of segments"),
    (Kind.HEAD, "inp", 99, "its input"),
]


WRONG_EDITS = [  # which of the three, field, value, what does not fit
    (0, "inp", -1, "its input"),
    (0, "out", 99, "its output"),
    (0, "inp", 1, None),  # another buffer of that width is added
    (0, "vec", 99, "what it adds"),
    (0, "vec", 0, None),  # another vector of that width
    (0, "each", 1, "what it adds"),
    (1, "each", 0, "what it adds"),
    (1, "pos_to", 5, "what it adds"),
    (1, "pos_to", 1, "its positions"),
    (1, "pos_from", -1, "its positions"),
    (2, "column", -1, "its columns"),
    (2, "column", 60, "its columns"),
    (2, "column", 59, None),
    (2, "width", 0, "its columns"),
    (2, "width", 2**31 - 1, "its columns"),
    (2, "n_seg", 1, "its list of segments"),
]


@pytest.mark.parametrize(("which", "field", "value", "what"), WRONG_EDITS)
def test_wrong_edits(plan: Any, which: int, field: str, value: int, what: str | None) -> None:
    wrong = with_edits(plan)
    setattr([op for op in wrong.ops if op.kind == Kind.SCALE_ADD][which], field, value)
    if what is None:
        run(wrong)
    else:
        with pytest.raises(PellucidError, match=re.escape(what)):
            make(wrong)


def test_a_view_has_its_models_matrices(plan: Any) -> None:
    engine = make(copy_of(plan))
    view = _engine.Engine(copy_of(plan), base=engine)
    assert view.info()["packed_bytes"] == 0 and view.max_rows == engine.max_rows
    ids = np.arange(5, dtype=np.int32)
    outs = [np.empty((5, plan.vocab), np.float32) for _ in range(2)]
    for e, out in zip((engine, view), outs, strict=True):
        e.forward([(sequence(e), ids, 0)], out=out)
    assert same(*outs)
    with pytest.raises(ValueError, match="another model"):  # pages are of one pool, and of one plan
        view.forward([(sequence(engine), ids, 5)])
    other = copy_of(plan)
    other.matrices = other.matrices[::-1]
    with pytest.raises(PellucidError, match="of a view differs from its model's"):
        _engine.Engine(other, base=engine)
    engine.close()
    with pytest.raises(ClosedError):
        view.forward([(sequence(view), ids, 5)])


@pytest.mark.parametrize(("kind", "field", "value", "what"), WRONG_OPS)
def test_wrong_operations(plan: Any, kind: Kind, field: str, value: int, what: str) -> None:
    wrong = copy_of(plan)
    setattr(first(wrong, kind), field, value)
    with pytest.raises(PellucidError, match=re.escape(what)):
        make(wrong)


def test_writing_into_the_input(plan: Any) -> None:
    for kind in (Kind.LINEAR, Kind.ATTEND, Kind.LINEAR_ADD, Kind.GLU):
        wrong = copy_of(plan)
        op = first(wrong, kind)
        op.inp = op.out
        with pytest.raises(PellucidError, match="writing into its input"):
            make(wrong)


def test_segments_that_overlap_or_leave_a_gap(plan: Any) -> None:
    for delta in (-1, 1, -(2**31), 2**30):
        wrong = copy_of(plan)
        at = first(wrong, Kind.LINEAR).seg + 1
        segment = wrong.segments[at]
        wrong.segments[at] = segment._replace(column=max(segment.column + delta, -(2**31)))
        with pytest.raises(PellucidError, match="segment"):
            make(wrong)


def test_wrong_tables(plan: Any) -> None:
    def fails(match: str, **tables: Any) -> None:
        wrong = copy_of(plan)
        for name, value in tables.items():
            setattr(wrong, name, value)
        with pytest.raises(PellucidError, match=match):
            make(wrong)

    m, rest = plan.matrices[0], plan.matrices[1:]
    fails("terms", segments=[*plan.segments[:1], plan.segments[1]._replace(terms=3), *plan.segments[2:]])
    fails("type -1 is not supported", matrices=[m._replace(type="Q9_9"), *rest])
    fails("shape", matrices=[m._replace(rows=0), *rest])
    fails("shape", matrices=[m._replace(k=-1), *rest])
    fails("bytes, expected", matrices=[m._replace(rows=m.rows + 1), *rest])
    fails("bytes, expected", matrices=[m._replace(data=m.data[:-1]), *rest])
    fails("bytes, expected", matrices=[m._replace(data=m.data[:0]), *rest])
    fails("bytes, expected", matrices=[m._replace(type="F16"), *rest])
    fails("block", matrices=[m._replace(type="Q4_K"), *rest])
    fails("segment 0: no such matrix", matrices=[])
    fails("vector 0 is empty", vectors=[Vector("v", np.zeros(0, np.float32)), *plan.vectors[1:]])
    fails("its norm's weight", vectors=[Vector("v", np.zeros(3, np.float32))] * len(plan.vectors))
    fails("operations, buffers and a vocabulary", ops=[])
    fails("operations, buffers and a vocabulary", buffers=[])
    fails("operations, buffers and a vocabulary", vocab=0)
    fails("the vocabulary", vocab=plan.vocab - 1)
    fails("cache groups", caches=[])
    fails("cache groups", caches=plan.caches * 9)
    fails("buffer 0: 0 columns", buffers=[plan.buffers[0]._replace(dim=0), *plan.buffers[1:]])
    fails("a head before the end", ops=[*plan.ops, plan.ops[-1]])
    for field, value in (("n_layers", 0), ("n_q", 0), ("n_kv", 3), ("dk", 5000), ("dv", 0), ("window", -1)):
        fails("cache group 0", caches=[replace(plan.caches[0], **{field: value}), *plan.caches[1:]])
    rope = plan.ropes[0]
    for freq in ([], [1.0, math.nan], [math.inf], [-1.0], [1e300], [1.0] * 999):
        fails("rope", ropes=[rope._replace(freq=np.array(freq, np.float64))] * len(plan.ropes))


def test_logits_of_a_plan_without_a_head(plan: Any) -> None:
    headless = copy_of(plan)
    headless.ops.pop()
    engine = make(headless)
    s = sequence(engine, [1, 2, 3])
    with pytest.raises(ValueError, match="the head does not run"):
        engine.forward([(s, np.array([1], np.int32), 0)], out=np.empty((1, plan.vocab), np.float32))
    assert s.length == 3


def test_windows_of_any_size(plan: Any, load: Load) -> None:
    """A window larger than any context, up to the largest integer, has no effect."""
    for window in (100, 2**31 - 1, 2**31 - 60, 2**30):
        wide = copy_of(plan)
        wide.caches = [replace(c, window=window) for c in wide.caches]
        run(wide)


NUMBERS = st.one_of(
    st.integers(-3, 12),
    st.sampled_from([-(2**31), 2**31 - 1, 2**24, 2**24 + 1, 2**16, 4096, 4097, 96, 97, 64, 128, 16, 32]),
)


@st.composite
def mutation(draw: st.DrawFn) -> tuple[str, float, str, int]:
    """(table, which entry as a fraction, field, value)"""
    table = draw(st.sampled_from(TABLES))
    field = {
        "ops": (
            *("kind", "inp", "out", "tmp", "seg", "n_seg", "vec", "vec2", "cache", "cache_layer", "rope", "act"),
            *("norm", "flags"),
            *("column", "width", "pos_from", "pos_to", "each", "top_k", "route", "groups", "group_k"),
            *("state", "state_layer", "flags"),
        ),
        "buffers": ("dim",),
        "segments": Segment._fields,
        "matrices": ("rows", "k", "type", "plain", "stack"),
        "vectors": ("data",),
        "ropes": ("freq", "halves", "first", "scale"),
        "caches": ("n_layers", "n_q", "n_kv", "dk", "dv", "window"),
        "states": ("n_layers", "taps", "channels", "n_k", "n_v", "dk", "dv", "tiled"),
    }[table]
    return table, draw(st.floats(0, 1, exclude_max=True)), draw(st.sampled_from(field)), draw(NUMBERS)


def mutate(plan: Any, table: str, at: float, field: str, value: Any) -> None:
    entries = getattr(plan, table)
    if not entries:
        return
    i = int(at * len(entries))
    entry = entries[i]
    if field == "type":
        value = _engine.format_names()[value % len(_engine.format_names())]
    elif field == "data":
        value = np.ones(min(abs(value), 5000), np.float32)
    elif field == "freq":
        value = np.ones(min(abs(value), 5000), np.float64) * value
    elif field in ("plain", "halves"):
        value = bool(value % 2)
    if table == "states" and field != "n_layers":
        value = replace(entry.layer, **{field: bool(value % 2) if field == "tiled" else value})
        field = "layer"
    entries[i] = entry._replace(**{field: value}) if hasattr(entry, "_replace") else replace(entry, **{field: value})


@cache
def recurrent_plans() -> list[Any]:
    """Plans with recurrent layers."""
    made = []
    with tempfile.TemporaryDirectory() as folder:
        for name in RECURRENT:
            path = write_gguf(BY_NAME[name], load_golden(BY_NAME[name]), Path(folder) / f"{name}.gguf")
            with Model.load(path, threads=1) as model:
                made.append(models.in_memory(model.core.engine.plan))
    return made


@settings(max_examples=400, deadline=None)
@given(changes=st.lists(mutation(), min_size=1, max_size=3))
def test_any_mutation_is_refused_or_runs(load: Load, changes: list[Any]) -> None:
    plans = [with_edits(models.in_memory(load(name).core.engine.plan)) for name in ("llama_gqa", "gemma3")]
    plans.append(copy_of(mixtures.plan(Experts(8, 2, 32, frozenset({"renorm"}), shared=32), layers=1, fused=True)))
    plans += [copy_of(plan) for plan in recurrent_plans()]
    for plan in plans:
        for change in changes:
            mutate(plan, *change)
        try:
            run(plan)
        except (NumericsError, OutOfMemoryError):
            continue
        except PellucidError as e:
            assert re.search("operation|buffer|vector|matrix|segment|rope|cache group|recurrent layers", str(e)), str(e)
        except ValueError as e:  # an argument of the pass: the plan was sound, but for another use
            assert "the head does not run" in str(e)


def test_fields_of_an_operation_are_all_known() -> None:
    """The mutations above reach every integer of an operation but its layer, which is a label."""
    numbers = {f.name for f in fields(Op)} - {"layer", "name", "eps", "scale", "cap", "limit"}
    assert numbers == {
        "kind",
        "inp",
        "out",
        "tmp",
        "seg",
        "n_seg",
        "vec",
        "vec2",
        "cache",
        "cache_layer",
        "state",
        "state_layer",
        "rope",
        "act",
        "norm",
        "column",
        "width",
        "pos_from",
        "pos_to",
        "each",
        "top_k",
        "route",
        "groups",
        "group_k",
        "flags",
    }
    assert Matrix._fields == ("name", "type", "rows", "k", "data", "plain", "stack", "tensor")
