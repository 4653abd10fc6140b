"""Masks that are written while a pass runs, and rows whose token is known."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from pellucid import _engine
from pellucid.errors import OutOfMemoryError
from tests.engine.models import Load, ids_for, sequence


def only(words: np.ndarray, *ids: int) -> None:
    words[:] = 0
    for id in ids:
        words[id // 32] |= np.uint32(1 << id % 32)


def test_a_mask_may_change_before_each_draw(load: Load) -> None:
    engine = load("llama_gqa").core.engine
    words = np.zeros((engine.vocab + 31) // 32, np.uint32)
    sampler, s = _engine.Sampler(mask=words, temperature=1.0, seed=3), sequence(engine)
    for id in (7, 3, engine.vocab - 1):
        only(words, id)
        assert engine.forward([(s, [1], 0)], samplers=[sampler])[0][0] == id


@pytest.mark.parametrize("rows", [1, 40])
def test_rows_wait_for_their_masks(load: Load, rows: int) -> None:
    """With more rows than the head takes at once, beside rows without a mask, which are drawn as without the others."""
    engine = load("llama_gqa").core.engine
    words = (engine.vocab + 31) // 32
    masks = [np.full(words, 0xFFFFFFFF, np.uint32) for _ in range(rows)]
    free = engine.forward([(sequence(engine), [5], 0)], samplers=[_engine.Sampler()])

    def late() -> None:
        time.sleep(0.05)
        for i, mask in enumerate(masks):
            only(mask, i + 1)

    parts = [(sequence(engine), [1 + i], 0) for i in range(rows)] + [(sequence(engine), [5], 0)]
    samplers = [_engine.Sampler(mask=mask) for mask in masks] + [_engine.Sampler()]
    order: list[str] = []

    def masked() -> None:
        order.append("masks")
        late()

    failed: dict[int, Exception] = {}
    found = engine.forward(
        parts, samplers=samplers, failed=failed, masks=masked, meanwhile=lambda: order.append("rest")
    )
    assert [one[0] for one in found if one is not None] == [*range(1, rows + 1), free[0][0]]
    assert order == ["masks", "rest"] and not failed


def test_a_mask_that_fails_or_is_interrupted_ends_the_pass(load: Load) -> None:
    engine = load("llama_gqa").core.engine
    words, s = np.zeros((engine.vocab + 31) // 32, np.uint32), sequence(engine)
    sampler = _engine.Sampler(mask=words)

    def fails() -> None:
        time.sleep(0.02)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.forward([(s, [1], 0)], samplers=[sampler], failed={}, masks=fails)
    assert s.length == 0 and sampler.step == 0
    only(words, 9)
    assert engine.forward([(s, [1], 0)], samplers=[sampler])[0][0] == 9


@pytest.mark.parametrize("name", ["llama_gqa", "gemma3"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OutOfMemoryError])
@pytest.mark.parametrize("place", ["masks", "meanwhile"])
def test_what_fails_when_all_is_computed_still_undoes_the_pass(
    load: Load, name: str, error: type[BaseException], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error is raised as it is: it does not mean that the pass lacks memory, of which some could be freed."""
    engine = load(name).core.engine
    ids, freed = ids_for(engine, 30), []
    s, sampler = sequence(engine, ids[:10]), _engine.Sampler(temperature=1.0, mirostat=2, seed=4)
    expected = engine.forward([(s.fork(), ids[10:], 19)], samplers=[_engine.Sampler(temperature=1.0, seed=4)])

    def spare() -> bool:
        freed.append(place)
        return len(freed) < 3

    def fails() -> None:
        time.sleep(0.1)  # long enough for a pass that waits for no mask
        raise error("mine")

    monkeypatch.setattr(engine, "spare", spare)
    found: list[object] = []
    with pytest.raises(error, match="mine"):
        engine.forward([(s, ids[10:], 19)], samplers=[sampler], failed={}, found=found, **{place: fails})
    assert s.length == 10 and sampler.step == 0 and sampler.mirostat_mu == 10 and not found and not freed
    assert engine.forward([(s, ids[10:], 19)], samplers=[_engine.Sampler(temperature=1.0, seed=4)]) == expected


def test_known_rows_report_their_token(load: Load) -> None:
    engine = load("llama_gqa").core.engine
    ids = ids_for(engine, 6)
    exact = engine.forward([(sequence(engine), ids[:-1], 0)], targets=ids[1:], top=3)
    samplers: list[_engine.Sampler | _engine.Known] = [_engine.Known(id, 3) for id in ids[1:]]
    found = engine.forward([(sequence(engine), ids[:-1], 0)], samplers=samplers)
    assert [one[0] for one in found] == ids[1:]
    assert [(logprob, top) for _, logprob, top in found] == exact
    drawn = engine.forward([(sequence(engine), [3], 0)], samplers=[_engine.Sampler()])
    s = sequence(engine)
    mixed = engine.forward([(s, [3, drawn[0][0]], 0)], samplers=[_engine.Known(drawn[0][0], 0), _engine.Sampler()])
    assert mixed[0][0] == drawn[0][0] and math.isfinite(mixed[0][1] or math.nan) and mixed[0][2] == []
    for id in (-1, engine.vocab):
        with pytest.raises(ValueError, match=f"token {id}, expected 0 to {engine.vocab - 1}"):
            engine.forward([(sequence(engine), [3], 0)], samplers=[_engine.Known(id, 0)])
