"""Numbers that are none: NumericsError wherever they come up, never a token; nothing stays of them, nobody is hurt."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model, _engine
from pellucid.errors import NumericsError
from tests.engine import models
from tests.engine.models import ids_for, rows, same, sequence
from tests.reference import tiny

BAD = 5  # the token whose embedding is NaN
OPTIONS: dict[str, Any] = {"temperature": 0, "max_tokens": 4, "logit_bias": {BAD: -np.inf}}
KV = ("f32", "f16", "bf16", "int8")


def spoilt(folder: Path, name: str, change: Any) -> Path:
    """A model whose tensors are what `change(name, values)` makes of them; its embedding and its head are two."""
    path = folder / f"{name}.gguf"
    tiny.write_gguf(
        replace(models.BY_NAME[name], tied=False),
        path,
        context=models.CONTEXT,
        encode=lambda n, v: (change(n, v), None),
    )
    return path


def bad_token(name: str, value: Any) -> Any:
    if name == "token_embd.weight":
        value = value.copy()
        value[BAD, 3] = np.nan
    return value


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spoilt(tmp_path_factory.mktemp("numerics"), "llama_gqa", bad_token)


@pytest.fixture(params=KV)
def model(path: Path, isa: str, request: pytest.FixtureRequest) -> Iterator[Model]:
    with Model.load(path, isa=isa, kv=request.param, threads=2) as loaded:
        yield loaded


def good(engine: Any, n: int, seed: int = 1) -> list[int]:
    return [i if i != BAD else 6 for i in ids_for(engine, n, seed)]


def test_prefill_without_logits(model: Model) -> None:
    """Nobody asks for logits of the pass that meets it: it fails all the same, for its keys would spoil others."""
    engine = model.core.engine
    ids = good(engine, 40)
    expected = rows(engine, sequence(engine), ids)
    s = sequence(engine, ids[:20])
    for at in (0, 1, 5, 19):
        part = np.array([*ids[20 : 20 + at], BAD, *ids[21 + at :]], np.int32)
        with pytest.raises(NumericsError, match="keys or values"):
            engine.forward([(s, part, len(part))])
        assert s.length == 20
    assert same(rows(engine, s, ids[20:]), expected[20:])
    context = model.context()
    context.append(ids[:10])
    with pytest.raises(NumericsError):
        context.append([*ids[10:14], BAD, 1])
    assert context.ids == ids[:10]
    assert context.generate(ids[10:], **OPTIONS).ids == model.generate(ids, **OPTIONS).ids


def test_mates_of_a_pass(model: Model) -> None:
    """The pass fails as a whole; their next one has the bits that it would have had."""
    engine = model.core.engine
    ids = good(engine, 30)
    expected = rows(engine, sequence(engine), ids)
    a, b = sequence(engine, ids[:9]), sequence(engine, ids[:3])
    with pytest.raises(NumericsError):
        engine.forward(
            [(a, np.array(ids[9:20], np.int32), 10), (b, np.array([1, BAD], np.int32), 1)],
            samplers=[_engine.Sampler(), _engine.Sampler()],
        )
    assert (a.length, b.length) == (9, 3)
    assert same(rows(engine, a, ids[9:]), expected[9:])
    assert same(rows(engine, b, ids[3:]), expected[3:])


def test_a_stream(model: Model) -> None:
    """Pieces up to the token that is none, then the error; a context keeps what was computed."""
    forced = {"temperature": 0, "max_tokens": 9, "logit_bias": {BAD: 1000}}
    pieces = []
    with pytest.raises(NumericsError):
        for piece in model.stream([1, 2], **forced):
            pieces.append(piece)
    assert [p.ids for p in pieces] == [[BAD]]
    context = model.context()
    context.append([1, 2])
    with pytest.raises(NumericsError):
        context.generate([3], **forced)
    context.rewind(2)
    assert context.generate([3, 4], **OPTIONS).ids == model.generate([1, 2, 3, 4], **OPTIONS).ids


def test_other_threads(model: Model) -> None:
    """Whose passes stand in the same queue."""
    prompt, over = good(model.core.engine, 30), threading.Event()
    expected = model.generate(prompt, **OPTIONS).ids

    def fail() -> int:
        failures = 0
        while not over.is_set():
            with pytest.raises(NumericsError):
                model.generate([1, BAD, 2])
            failures += 1
        return failures

    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(fail)
        try:
            assert all(model.generate(prompt, **OPTIONS).ids == expected for _ in range(5))
        finally:
            over.set()
        assert job.result(60) > 0


@pytest.mark.parametrize("part", ["attn_k", "attn_v"])
def test_keys_and_values_beyond_a_type(tmp_path: Path, isa: str, part: str) -> None:
    """Too large for f16 alone: an infinity there is an error, and the other types hold them."""

    def large(name: str, value: Any) -> Any:
        return value * np.float32(3e5) if part in name else value

    path = spoilt(tmp_path, "llama_gqa", large)
    for kv in KV:
        with Model.load(path, isa=isa, kv=kv, threads=1) as model:
            ids = good(model.core.engine, 20)
            if kv == "f16":
                for use in (model.logits, model.generate, model.context().append):
                    with pytest.raises(NumericsError, match="too large for the cache's type"):
                        use(ids)
            else:
                assert np.isfinite(model.logits(ids)).all()
