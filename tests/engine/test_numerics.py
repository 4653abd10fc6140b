"""NaN and infinity raise NumericsError wherever they occur and never become a token; other sequences are unaffected."""

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
from pellucid.errors import BatchError, NumericsError
from pellucid.options import Kv
from tests.engine import models
from tests.engine.models import ids_for, rows, same, sequence
from tests.reference import tiny

BAD = 5  # the token whose embedding is NaN
OPTIONS: dict[str, Any] = {"temperature": 0, "max_tokens": 4, "logit_bias": {BAD: -np.inf}}
KV: tuple[Kv, ...] = ("f32", "f16", "bf16", "int8")


def spoilt(folder: Path, name: str, change: Any) -> Path:
    """A model with an untied head whose tensors are replaced by `change(name, values)`."""
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
    with Model.load(path, isa=isa, kv=request.param, threads=2, context=512) as loaded:
        yield loaded


def good(engine: Any, n: int, seed: int = 1) -> list[int]:
    return [i if i != BAD else 6 for i in ids_for(engine, n, seed)]


def test_prefill_without_logits(model: Model) -> None:
    """A pass without logits fails too, since its keys would spoil later rows."""
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


def test_steps_after_a_failure(model: Model) -> None:
    """No later row sees what a failed pass wrote into slots of the cache; one token at a time."""
    engine = model.core.engine
    ids = good(engine, 80)
    expected = rows(engine, sequence(engine), ids)
    for at in (0, 1, 30, 55):
        s = sequence(engine, ids[:20])
        mates = s.fork()
        with pytest.raises(NumericsError, match="keys or values"):
            engine.forward(
                [(s, [*ids[20 : 20 + at], BAD, *ids[:50]], 0)], out=np.empty((at + 51, engine.vocab), np.float32)
            )
        for i in range(20, 28):
            for one in (s, mates):
                assert same(rows(engine, one, ids[i : i + 1]), expected[i : i + 1]), f"slot {i} after a failure at {at}"


def test_mates_of_a_pass(model: Model) -> None:
    """One sequence fails as a whole, its earlier rows too, and is as it was; the others have the bits that they would
    have had, wherever they stand in the pass."""
    engine = model.core.engine
    ids = good(engine, 30)
    expected = rows(engine, sequence(engine), ids)
    for where in range(3):
        parts = [(sequence(engine, ids[:n]), ids[n : n + 7]) for n in (9, 0)]
        bad = sequence(engine, ids[:3])
        parts.insert(where, (bad, [1, BAD, 2]))
        out = np.empty((sum(len(part) for _, part in parts), engine.vocab), np.float32)
        failed: dict[int, Exception] = {}
        engine.forward([(s, part, 0) for s, part in parts], out=out, failed=failed)
        assert list(failed) == [where] and isinstance(failed[where], NumericsError)
        assert "keys or values" in str(failed[where])
        row = 0
        for s, part in parts:
            if s is not bad:
                n = s.length - len(part)
                assert same(out[row : row + len(part)], expected[n : n + len(part)])
                assert same(rows(engine, s, ids[n + 7 :]), expected[n + 7 :])  # what was stored is right too
            row += len(part)
        assert bad.length == 3 and same(rows(engine, bad, ids[3:]), expected[3:])
    a, b = sequence(engine, ids[:9]), sequence(engine, ids[:3])
    with pytest.raises(NumericsError):  # without `failed` it raises; the other sequence's rows are stored all the same
        engine.forward([(a, ids[9:20], 11), (b, [1, BAD], 2)])
    assert (a.length, b.length) == (20, 3)
    assert same(rows(engine, a, ids[20:]), expected[20:])


def test_options_that_leave_no_token(model: Model) -> None:
    """Only the sequence with such options fails, and its draws do not count; logits that are not finite fail theirs."""
    engine = model.core.engine
    ids, nothing = good(engine, 12), np.zeros((engine.vocab + 31) // 32, np.uint32)
    alone = engine.forward(
        [(sequence(engine, ids[:-1]), ids[-1:], 0)], samplers=[_engine.Sampler(temperature=1, seed=3)]
    )
    parts = [(sequence(engine, ids[:-1]), ids[-1:], 0) for _ in range(4)]
    samplers = [
        _engine.Sampler(mask=nothing),
        _engine.Sampler(temperature=1, seed=3),
        _engine.Sampler(temperature=1, bias=dict.fromkeys(range(engine.vocab), -np.inf)),
        _engine.Sampler(presence_penalty=-3e38, bias={ids[0]: 3e38}),
    ]
    samplers[3].extend(ids)
    failed: dict[int, Exception] = {}
    found = engine.forward(parts, samplers=samplers, failed=failed)
    assert found == [None, *alone, None, None]
    assert sorted(failed) == [0, 2, 3] and [s.step for s in samplers] == [0, 1, 0, 0]
    for error in failed.values():
        assert isinstance(error, ValueError) and "leave no token" in str(error)
    assert [s.length for s, _, _ in parts] == [11, 12, 11, 11]
    assert engine.forward([parts[0]], samplers=[_engine.Sampler(temperature=1, seed=3)]) == alone


def test_prompts_side_by_side(model: Model) -> None:
    """The other prompts are completed; then one error names those that failed, and why."""
    prompts = [good(model.core.engine, 20), [1, BAD, 2], good(model.core.engine, 9, seed=4), [BAD]]
    expected = [model.generate(p, **OPTIONS).ids for p in (prompts[0], prompts[2])]
    with pytest.raises(
        BatchError, match=r"^prompt\[1\]: the model's keys or values .* \(2 of 4 prompts failed\)$"
    ) as caught:
        model.generate(prompts, **OPTIONS)
    assert sorted(caught.value.errors) == [1, 3]
    assert all(isinstance(error, NumericsError) for error in caught.value.errors.values())
    done = caught.value.completions
    assert [c and c.ids for c in done] == [expected[0], None, expected[1], None]
    with pytest.raises(NumericsError, match=r"^ids\[1\]: "):
        model.logits(prompts)
    with pytest.raises(BatchError, match=r"^prompt\[0\]: the context filled"):
        full = [0] * (model.context_length - 2)
        model.generate([full, [1]], temperature=0, max_tokens=9, on_full="error", logit_bias={BAD: -np.inf})


def test_a_stream(model: Model) -> None:
    """The stream yields pieces up to the failed token, then raises; a context keeps what was computed."""
    forced: dict[str, Any] = {"temperature": 0, "max_tokens": 9, "logit_bias": {BAD: 1000}}
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
    """Other threads, whose passes are in the same queue, are not affected."""
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
    """Keys and values too large only for f16: infinity there is an error, and the other types can hold them."""

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
