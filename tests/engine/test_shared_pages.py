"""What a cache over sequences needs of them: the lengths to which they can go back, the pages that they hold, and
memory that is found while a pass looks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.errors import OutOfMemoryError
from tests.engine import models
from tests.engine.models import extend, ids_for, rows, same, sequence
from tests.families.case import load_golden, write_gguf
from tests.families.cases import BY_NAME


@pytest.fixture(scope="module", params=["llama_gqa", "gemma3", "granitehybrid", "lfm2"])
def path(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    if request.param in BY_NAME:
        case = BY_NAME[request.param]
        return write_gguf(case, load_golden(case), folder / "model.gguf")
    return models.write(folder, request.param)


def held(*sequences: Any) -> int:
    """Bytes of the pages that any of them holds."""
    return sum(dict(page for one in sequences for page in one.pages()).values())


def used(model: Model) -> int:
    return int(model.core.engine.info()["cache_bytes_used"])


def test_reach_and_pages(path: Path) -> None:
    with Model.load(path, threads=1) as model:
        engine = model.core.engine
        ids = ids_for(engine, 230)
        s = sequence(engine)
        assert s.pages() == [] and s.reach(5) == s.reach(0) == 0
        extend(engine, s, ids[:150])
        extend(engine, s, ids[150:151])
        kept = s.fork()
        assert held(s) == held(kept) == held(s, kept) == used(model)
        for id in ids[151:]:
            extend(engine, s, [id])
        assert held(s, kept) == used(model)
        for one in (s, kept):
            for n in range(0, one.length + 1, 7):
                fork = one.fork()
                found = one.reach(n)
                assert fork.rewind(n) == found and one.reaches(n) == (found == n)
                assert held(s, kept, fork) == used(model)
        del fork, one
        s = None
        assert held(kept) == used(model)


def test_memory_that_is_found_while_a_pass_looks_for_it(path: Path) -> None:
    with Model.load(path, threads=1) as model:
        ids = ids_for(model.core.engine, 60)
        one = held(sequence(model.core.engine, ids))
        expected = rows(model.core.engine, sequence(model.core.engine), ids)
    with Model.load(path, threads=1, cache_bytes=4 * one) as model:
        engine = model.core.engine
        kept: list[Any] = []
        asked = 0

        def spare() -> bool:
            nonlocal asked
            asked += 1
            if kept:
                kept.pop()
                return True
            return False

        engine.spare = spare
        for _ in range(12):
            kept.append(sequence(engine, ids))
        assert 0 < len(kept) < 12 and asked == 12 - len(kept)
        s = sequence(engine)
        assert same(rows(engine, s, ids), expected)
        others: list[Any] = []
        with pytest.raises(OutOfMemoryError):
            while True:
                others.append(sequence(engine, ids))
        assert not kept and others
        assert engine.info()["cache_bytes"] <= 4 * one
