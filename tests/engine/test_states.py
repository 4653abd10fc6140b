"""States of recurrent layers: rewinds, forks, marks, cancelled passes, memory. Everything computed afterwards has the
bits of a fresh run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model, _engine
from pellucid.errors import OutOfMemoryError
from pellucid.schedule.run import of
from tests.engine.models import extend, ids_for, rows, same, sequence
from tests.families.case import load_golden, write_folder, write_gguf
from tests.families.cases import BY_NAME

NAMES = ["lfm2", "qwen35", "granitehybrid", "granitehybrid_mamba", "qwen3next", "mamba2_groups", "falcon_h1"]
MARKS = 8  # PL_MAX_MARKS
EVERY = 2048  # PL_MARK_TOKENS


@pytest.fixture(scope="module", params=NAMES)
def path(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    case = BY_NAME[request.param]
    return write_gguf(case, load_golden(case), tmp_path_factory.mktemp("states") / f"{request.param}.gguf")


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[Model]:
    with Model.load(path, threads=2) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def engine(model: Model) -> Any:
    return model.core.engine


def used(engine: Any) -> int:
    return int(engine.info()["cache_bytes_used"])


def test_rewind_to_every_position(engine: Any) -> None:
    ids = ids_for(engine, 40)
    expected = rows(engine, sequence(engine), ids)
    s = sequence(engine, ids[:17])
    for n in [1, 1, 1, 8, 1, 1, 5]:
        extend(engine, s, ids[s.length : s.length + n])
    assert s.length == 35
    for n in range(36):
        fork = s.fork()
        kept = fork.rewind(n)
        assert kept <= n and fork.length == kept
        assert same(rows(engine, fork, ids[kept:]), expected[kept:]), n
    assert same(rows(engine, s, ids[35:]), expected[35:])


def test_marks_lie_before_a_prompts_last_token_and_before_the_last_pass(engine: Any) -> None:
    ids = ids_for(engine, 60)
    s = sequence(engine, ids[:19])
    for i in range(19, 30):
        extend(engine, s, ids[i : i + 1])
    reached = [n for n in range(31) if s.reaches(n)]
    assert reached == [0, 19, 29, 30]
    assert s.rewind(28) == 19 and s.rewind(19) == 19 and s.rewind(18) == 0


def test_forks_at_every_mark(engine: Any) -> None:
    ids = ids_for(engine, 90)
    expected = rows(engine, sequence(engine), ids)
    s = sequence(engine)
    for turn in range(4):
        extend(engine, s, ids[20 * turn : 20 * turn + 19])
        extend(engine, s, ids[20 * turn + 19 : 20 * turn + 20])
    marks = [n for n in range(1, 81) if s.reaches(n)]
    assert {19, 39, 59, 79, 80} <= {*marks}
    for n in marks:
        fork = s.fork()
        assert fork.rewind(n) == n
        other = fork.fork()
        assert same(rows(engine, fork, ids[n:]), expected[n:])
        assert same(rows(engine, other, ids[n:]), expected[n:])


def test_states_at_multiples_stay_and_marks_are_few(engine: Any) -> None:
    ids = ids_for(engine, EVERY + 300)
    s = sequence(engine)
    while s.length < len(ids):
        extend(engine, s, ids[s.length : s.length + s.rows(min(500, len(ids) - s.length))])
    assert s.reaches(EVERY) and s.rewind(EVERY + 100) == EVERY
    fresh = sequence(engine, ids[:EVERY], chunk=97)
    assert same(rows(engine, s, ids[EVERY:]), rows(engine, fresh, ids[EVERY:]))
    for i in range(30):
        extend(engine, s, ids[5 * i : 5 * i + 4])
        extend(engine, s, ids[5 * i + 4 : 5 * i + 5])
    reached = [n for n in range(1, s.length) if s.reaches(n)]
    assert EVERY in reached and MARKS - 1 <= len(reached) <= MARKS + 1
    assert s.reaches(s.length - 1)


def test_rows_of_a_pass_end_at_multiples(engine: Any) -> None:
    s = sequence(engine, ids_for(engine, 100))
    assert s.rows(EVERY) == EVERY - 100
    assert s.rows(17) == 17


def test_a_cancelled_or_failed_pass_changes_nothing(engine: Any) -> None:
    ids = ids_for(engine, 500)
    expected = rows(engine, sequence(engine), ids)
    s = sequence(engine, ids[:20])
    extend(engine, s, ids[20:21])
    before = used(engine), [n for n in range(22) if s.reaches(n)]
    with pytest.raises(ValueError):
        extend(engine, s, [engine.vocab])
    ended = threading.Event()

    def busy() -> None:  # so many at once that a pass waits in the queue for longer than cancel is left unasked (20 ms)
        while not ended.is_set():
            other = sequence(engine)
            for _ in range(4):
                extend(engine, other, ids)

    threads = [threading.Thread(target=busy) for _ in range(32)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(1000):
            fork = s.fork()
            try:
                engine.forward([(fork, np.array(ids[21:], np.int32), 479)], cancel=lambda: True)
            except _engine.Cancelled:
                break
        else:
            pytest.fail("no pass was cancelled")
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert fork.length == 21
    assert same(rows(engine, fork, ids[21:]), expected[21:])
    del fork
    assert (used(engine), [n for n in range(22) if s.reaches(n)]) == before

    def late() -> None:  # mostly when all rows are computed
        time.sleep(0.2)
        raise LookupError

    with pytest.raises(LookupError):
        engine.forward([(s, np.array(ids[21:], np.int32), 479)], meanwhile=late)
    assert (used(engine), [n for n in range(22) if s.reaches(n)]) == before
    assert same(rows(engine, s, ids[21:]), expected[21:])


def test_sequences_of_one_prefix_hold_its_state_once(engine: Any) -> None:
    s = sequence(engine, ids_for(engine, 64))  # whole pages of keys and values
    before = used(engine)
    forks = [s.fork() for _ in range(3)]
    assert used(engine) == before
    states = sum(group.n_layers * group.layer.floats * 4 for group in engine.plan.states)
    for fork in forks:
        extend(engine, fork, [1])
    assert used(engine) - before >= 3 * states
    del fork, forks
    assert used(engine) == before


def test_company_and_chunks_change_no_bit(engine: Any) -> None:
    many = [ids_for(engine, n, seed=n) for n in (1, 2, 3, 50, 130)]
    alone = [rows(engine, sequence(engine), ids) for ids in many]
    for chunk in (1, 7, 64, 500):
        for ids, expected in zip(many, alone, strict=True):
            s, got = sequence(engine), []
            for i in range(0, len(ids), chunk):
                got.append(rows(engine, s, ids[i : i + chunk]))
            assert same(np.concatenate(got), expected)
    parts = [(sequence(engine), np.array(ids, np.int32), 0) for ids in many]
    out = np.empty((sum(map(len, many)), engine.vocab), np.float32)
    engine.forward(parts, out=out)
    assert same(out, np.concatenate(alone))


def test_where_memory_is_short_marks_make_room(path: Path) -> None:
    with Model.load(path, threads=1) as measured:
        s = sequence(measured.core.engine, [1])
        one = used(measured.core.engine)
        block = sum(group.n_layers * group.layer.floats * 4 for group in measured.core.engine.plan.states)
        del s
        ids = ids_for(measured.core.engine, 60)
        expected = rows(measured.core.engine, sequence(measured.core.engine), ids)
    with Model.load(path, threads=1, cache_bytes=one + 3 * block) as small:
        engine = small.core.engine
        s = sequence(engine)
        for i in range(6):
            extend(engine, s, ids[10 * i : 10 * i + 9])
            extend(engine, s, ids[10 * i + 9 : 10 * i + 10])
        kept = s.rewind(25)
        found = rows(engine, s, ids[kept:])
    assert same(found, expected[kept:])


def test_marks_make_room_for_keys(tmp_path: Path) -> None:
    """Of what a sequence needs at least, its marks are no part, in whatever order its stores ask."""
    case = BY_NAME["falcon_h1"]
    golden = load_golden(case)
    golden = replace(golden, config={**golden.config, "max_position_embeddings": 1024})
    path = write_gguf(case, golden, tmp_path / "long.gguf")
    with Model.load(path, threads=1) as measured:
        limit = of(measured.core).room.need(640)
        ids = ids_for(measured.core.engine, 640)
        expected = measured.logits(ids)[-1]
    with Model.load(path, threads=1, cache_bytes=limit + 1) as small:
        s = sequence(small.core.engine)
        for i in range(0, 640, 10):
            extend(small.core.engine, s, ids[i : i + 9])
            last = rows(small.core.engine, s, ids[i + 9 : i + 10])
        assert s.length == 640 and same(last[0], expected)


def test_a_pass_finds_the_memory_that_the_one_before_gave_back(tmp_path: Path) -> None:
    """Each pass takes a state for each of its sequences; mapping and clearing them took longer than computing did."""
    case = BY_NAME["mamba2_groups"]
    path = write_gguf(case, load_golden(case), tmp_path / "states.gguf")
    with Model.load(path, threads=1) as measured:
        block = sum(group.n_layers * group.layer.floats * 4 for group in measured.core.engine.plan.states)
    with Model.load(path, threads=1, cache_bytes=31 * block) as model:  # so little that each state is mapped by itself
        engine = model.core.engine
        sequences = [sequence(engine, [1, 2]) for _ in range(3)]
        for i in range(8):
            engine.forward([(s, np.array([i], np.int32), 1) for s in sequences])
            info = engine.info()
            assert i < 4 or info["cache_bytes"] - info["cache_bytes_used"] >= 3 * block
        sequences.clear()
        assert engine.info()["cache_bytes_used"] == 0
        assert engine.info()["cache_bytes"] < 3 * block


def test_no_memory_for_a_state_is_an_error(path: Path) -> None:
    with Model.load(path, threads=1, cache_bytes=64) as model, pytest.raises(OutOfMemoryError, match="cache_bytes=64"):
        model.logits([1, 2])


def test_a_part_of_a_plan_needs_the_state_before_its_rows(engine: Any) -> None:
    ids = ids_for(engine, 30)
    s = sequence(engine, ids[:19])
    extend(engine, s, ids[19:20])
    last = len(engine.plan.ops)
    x = next(op.out for op in engine.plan.ops if op.kind.lookup)
    for at, good in ((0, True), (19, True), (7, False)):
        part = np.array(ids[at : at + 1], np.int32)
        if good:
            taps, _ = engine.observe([(s, part, 1)], ops=(0, last - 1), taps=[(last - 2, x)], at=at)
            fresh = sequence(engine, ids[:at])
            expected, _ = engine.observe([(fresh, part, 1)], taps=[(last - 2, x)])
            assert same(taps[last - 2, x], expected[last - 2, x])
        else:
            with pytest.raises(ValueError, match="no state of the recurrent layers before slot 7"):
                engine.observe([(s, part, 1)], ops=(0, last - 1), at=at)
    assert s.length == 20


def test_contexts_rewind_and_generate_as_fresh_ones(model: Model) -> None:
    ids = ids_for(model.core.engine, 40)
    options: dict[str, Any] = {"max_tokens": 12, "temperature": 0}
    expected = {n: model.generate(ids[:n], **options).ids for n in (1, 2, 9, 30, 31, 40)}
    context = model.context()
    context.append(ids)
    for n in (40, 31, 30, 9, 2, 1):
        context.rewind(n)
        assert context.generate(**options).ids == expected[n]
        fork = context.fork()
        fork.rewind(n)
        assert same(fork.logits()[None], model.logits(ids[:n])[-1:])
        context.rewind(n)
    several = model.generate(ids[:9], n=3, **options)
    assert [one.ids for one in several] == [expected[9]] * 3


def test_a_context_computes_its_last_token_again_at_no_cost(model: Model) -> None:
    context = model.context()
    context.append(ids_for(model.core.engine, 30))
    assert context._sequence.reaches(29) and not context._sequence.reaches(15)
    context.next()
    assert context._sequence.reaches(29)


@pytest.mark.parametrize(("states", "kept"), [(None, 8), (100, 8), (3.5, 3), (1, 1), (0.5, 1)])
def test_checkpoints(tmp_path: Path, states: float | None, kept: int) -> None:
    """In bytes: fewer states are kept, and no result changes."""
    case = BY_NAME["lfm2"]
    path = write_folder(case, load_golden(case), tmp_path / "m")
    with Model.load(path, threads=1) as model:
        size, ids = model.info().state_bytes, ids_for(model.core.engine, 120)
        expected = model.logits(ids)
    with Model.load(path, threads=1, checkpoints=None if states is None else int(states * size)) as model:
        engine = model.core.engine
        assert model.info().checkpoint_bytes == kept * size
        s = sequence(engine)
        for i in range(20):
            extend(engine, s, ids[5 * i : 5 * i + 4])
            extend(engine, s, ids[5 * i + 4 : 5 * i + 5])
        reached = [n for n in range(1, s.length) if s.reaches(n)]
        assert kept <= len(reached) <= kept + 1 and s.reaches(99)
        n = s.rewind(70)
        assert same(rows(engine, s, ids[n:]), expected[n:])
        with model.edit() as view:  # a view has the same options
            assert same(view.logits(ids), expected)
