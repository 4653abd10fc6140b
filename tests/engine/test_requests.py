"""Arguments of a pass: objects with a wrong length, masks of another vocabulary size, empty lists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pellucid import _engine
from tests.engine.models import Load, ids_for, rows, same, sequence


class Lying:
    """A sequence of ids that reports a wrong length, or one that differs from call to call."""

    def __init__(self, ids: list[int], *lengths: int) -> None:
        self.ids, self.lengths = ids, list(lengths)

    def __len__(self) -> int:
        return self.lengths.pop(0) if len(self.lengths) > 1 else self.lengths[0]

    def __iter__(self) -> Iterator[int]:
        return iter(self.ids)


@pytest.mark.parametrize("lengths", [(0,), (1,), (40,), (3, 0), (0, 40), (2**31 - 1,), (2**40,)])
def test_ids_that_lie_about_their_length(load: Load, lengths: tuple[int, ...]) -> None:
    """The ids are those that iteration yields."""
    engine = load("llama_gqa").core.engine
    ids = ids_for(engine, 5)
    expected = rows(engine, sequence(engine), ids)
    s, out = sequence(engine), np.empty_like(expected)
    engine.forward([(s, Lying(ids, *lengths), 0)], out=out)
    assert s.length == 5 and same(out, expected)
    engine.observe([(sequence(engine), Lying(ids, *lengths), 0)], out=out)
    assert same(out, expected)


def test_parts_that_can_be_read_once(load: Load) -> None:
    engine = load("llama_gqa").core.engine
    ids = ids_for(engine, 5)
    expected = rows(engine, sequence(engine), ids)
    s, out = sequence(engine), np.empty_like(expected)
    engine.forward(((s, iter(ids), 0) for _ in range(1)), out=out)
    assert s.length == 5 and same(out, expected)


@pytest.mark.parametrize("ids", [["1"], [2**31], [-(2**31) - 1], [None], 5])
def test_ids_that_are_not_integers(load: Load, ids: Any) -> None:
    engine = load("llama_gqa").core.engine
    s = sequence(engine)
    with pytest.raises((TypeError, OverflowError)):
        engine.forward([(s, ids, 0)])
    assert s.length == 0


def test_a_mask_is_of_the_vocabulary(load: Load) -> None:
    engine = load("llama_gqa").core.engine
    words = (engine.vocab + 31) // 32
    for n in (1, words - 1, words + 1, 10000):
        s, sampler = sequence(engine), _engine.Sampler(mask=np.full(n, 0xFFFFFFFF, np.uint32))
        with pytest.raises(
            ValueError, match=rf"a mask of {n} words, expected {words}, a bit for each of {engine.vocab}"
        ):
            engine.forward([(s, [1], 0)], samplers=[sampler])
        assert s.length == 0 and sampler.step == 0
    with pytest.raises(ValueError, match="mask is empty"):
        _engine.Sampler(mask=[])
    only = np.zeros(words, np.uint32)
    only[7 // 32] = 1 << 7 % 32
    assert engine.forward([(sequence(engine), [1], 0)], samplers=[_engine.Sampler(mask=only)])[0][0] == 7


def test_a_sampler_without_tokens(load: Load) -> None:
    """DRY and penalties without earlier tokens change nothing."""
    engine = load("llama_gqa").core.engine
    plain = engine.forward([(sequence(engine), [1], 0)], samplers=[_engine.Sampler()])
    sampler = _engine.Sampler(dry_multiplier=1.0, presence_penalty=1.0)
    for n in range(3):
        sampler.extend([], b"" if n else None)
    assert engine.forward([(sequence(engine), [1], 0)], samplers=[sampler]) == plain
