"""Keys and values: reference counts, copy on write, windows that free pages, and passes that fail or are cancelled."""

from __future__ import annotations

import gc
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model, _engine, memory
from pellucid.errors import BatchError, ContextFullError, NumericsError, OutOfMemoryError
from tests.engine import models
from tests.engine.models import Load, extend, ids_for, rows, same, sequence
from tests.reference import tiny

PAGE = 64


def used(model: Model) -> int:
    gc.collect()
    return model.core.engine.info()["cache_bytes_used"]


def page_bytes(model: Model) -> int:
    """Bytes of one page of all groups together."""
    width = {"f32": 4, "f16": 2, "bf16": 2}[model.info().kv]
    return sum(c.n_layers * c.n_kv * (c.dk + c.dv) * width * PAGE for c in model.core.engine.plan.caches)


def test_memory_returns(load: Load) -> None:
    model = load("llama_gqa", threads=1)
    start, page = used(model), page_bytes(model)
    assert start == 0
    a = model.context()
    assert used(model) == 0
    a.append(ids_for(model.core.engine, 65))
    assert used(model) == 2 * page
    b = a.fork()
    c = b.fork()
    assert used(model) == 2 * page
    b.append([1])  # writes on the second page alone
    assert used(model) == 3 * page
    c.append([1] * 64)
    assert used(model) == 5 * page
    a.rewind(64)
    assert used(model) == 4 * page
    del a
    assert used(model) == 4 * page  # the first page is shared by the two others
    b.rewind(0)
    assert used(model) == 3 * page
    del b, c
    assert used(model) == 0
    model.logits([ids_for(model.core.engine, 200), [1, 2]])
    model.generate([[1, 2, 3], [4, 5]], max_tokens=5, temperature=0)
    assert used(model) == 0
    assert model.core.engine.info()["cache_bytes"] > 0  # kept for the next


def test_memory_goes_back_to_the_system(load: Load) -> None:
    """All but a slab of 8 MB per group is returned, as the process's size confirms. A chat's turns map nothing new."""
    model = load("wide", "K", threads=1)
    page, slab = page_bytes(model), 8 << 20
    contexts = [model.context() for _ in range(60)]
    for context in contexts:
        context.append(ids_for(model.core.engine, 1000))
    most, resident = model.core.engine.info()["cache_bytes"], anonymous()
    assert most >= 60 * 16 * page > 7 * slab
    del context, contexts
    assert used(model) == 0
    assert model.core.engine.info()["cache_bytes"] <= slab
    assert anonymous() < resident - (most - 2 * slab)
    context = model.context()
    taken = set()
    for _ in range(10):
        context.append(ids_for(model.core.engine, 100))
        context.rewind(context.length - 64)
        model.generate([1, 2, 3], max_tokens=2)
        taken.add(model.core.engine.info()["cache_bytes"])
    assert len(taken) == 1


def anonymous() -> int:
    """Resident bytes of this process's anonymous memory."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition("RssAnon:")[2].split()[0]) * 1024


@pytest.mark.parametrize("name", ["llama_gqa", "gemma3"])
def test_a_limit(folder: Path, name: str) -> None:
    """Memory never exceeds the limit; a pass that does not fit raises an error, and every sequence can continue."""
    for pages in (1, 5, 8):
        path = models.write(folder, name)
        with Model.load(path, threads=1) as free:
            page = page_bytes(free)
            limit = pages * page + page // 2
            ids = ids_for(free.core.engine, 64 * pages)
            expected = free.logits(ids)
            long = free.generate([1] * (64 * pages + 64), max_tokens=2, temperature=0).ids
        with Model.load(path, threads=1, cache_bytes=limit) as model:
            assert model.info().cache_limit == limit
            engine = model.core.engine
            kept = sequence(engine, ids[:32])
            for _ in range(2):
                others = []
                with pytest.raises(OutOfMemoryError, match=f"cache_bytes={limit}"):
                    for _ in range(pages + 1):
                        others.append(sequence(engine, ids[:60]))
                with pytest.raises(OutOfMemoryError, match=f"cache_bytes={limit}"):  # no room for a copy, or several
                    engine.forward([(kept.fork(), np.array(ids[:65], np.int32), 65) for _ in range(3)])
                assert engine.info()["cache_bytes"] <= limit
                assert [s.length for s in others] == [60] * (pages - 1)
                assert same(rows(engine, kept, ids[32:64]), expected[32:64])
                assert kept.rewind(32) == 32
            others.clear()
            if name == "llama_gqa":
                assert same(rows(engine, kept, ids[32:]), expected[32:])  # all of the limit is of use
            if name == "gemma3" and pages > 1:  # most of its layers keep a window, and passes are cut to fit
                assert model.generate([1] * (64 * pages + 64), max_tokens=2, temperature=0).ids == long
            else:
                error = (
                    ContextFullError if name == "llama_gqa" else OutOfMemoryError
                )  # before the first pass, or in one
                with pytest.raises(error, match=f"cache_bytes={limit}"):
                    model.generate([1] * (64 * pages + 64))
            del kept
            assert model.generate([1, 2, 3], max_tokens=2).finish_reason == "length"


def test_streams_that_are_dropped_give_back(load: Load) -> None:
    model = load("llama_gqa", threads=1)
    before = used(model)
    stream = model.stream([1, 2, 3], max_tokens=100)
    next(iter(stream))
    assert used(model) > before
    del stream
    assert used(model) == before


def test_memory_of_a_closed_model(folder: Path) -> None:
    """A context keeps the memory that it uses, and may be freed after its model."""
    model = Model.load(models.write(folder, "gemma3"), threads=2)
    contexts = [model.context() for _ in range(3)]
    for context in contexts:
        context.append([1, 2, 3])
    fork = contexts[0].fork()
    model.close()
    del model
    gc.collect()
    del contexts
    gc.collect()
    assert fork.length == 3
    del fork
    gc.collect()


def test_pages_are_zero_again(load: Load) -> None:
    """The tokens of a freed sequence leave nothing in the pages that the next one gets."""
    engine = load("llama_gqa", threads=1).core.engine
    ids = ids_for(engine, 70)
    expected = rows(engine, sequence(engine), ids)
    for n in (600, 64, 1):
        s = sequence(engine, ids_for(engine, n, seed=n))
        del s
        assert same(rows(engine, sequence(engine), ids), expected)


# ---- windows --------------------------------------------------------------------------------------------------


def group_bytes(model: Model) -> dict[int, int]:
    """Window -> bytes of a page."""
    width = {"f32": 4, "f16": 2, "bf16": 2}[model.info().kv]
    return {c.window: c.n_layers * c.n_kv * (c.dk + c.dv) * width * PAGE for c in model.core.engine.plan.caches}


def test_windows_let_go(load: Load) -> None:
    model = load("gemma3", threads=1)
    engine, pages = model.core.engine, group_bytes(load("gemma3", threads=1))
    assert set(pages) == {0, 8}
    start = used(model)
    s = sequence(engine)
    ids = ids_for(engine, 1000)
    for chunk in (1, 7, 64, 200):
        s.rewind(0)
        for at in range(0, len(ids), chunk):
            extend(engine, s, ids[at : at + chunk])
            tokens = min(at + chunk, len(ids))
            whole = -(-tokens // PAGE)
            # The window's 8 tokens and the slack of a page lie in at most 3 pages, and the pass' own come on top.
            local = min(whole, 3 + -(-chunk // PAGE))
            assert used_now(engine) - start <= whole * pages[0] + local * pages[8], (
                f"{tokens} tokens in chunks of {chunk}"
            )
    del s
    assert used(model) == start


def used_now(engine: Any) -> int:
    return engine.info()["cache_bytes_used"]


@pytest.mark.parametrize("window", [1, 8, 64, 65, 100])
def test_rewinding_over_what_a_window_let_go(load: Load, window: int) -> None:
    model = load("gemma3", "F32", {"window": window}, threads=1)
    engine = model.core.engine
    ids = ids_for(engine, 400)
    expected = rows(engine, sequence(engine), ids)
    for back in (399, 390, 350, 336, 320, 300, 257, 256, 200, 128, 64, 10, 0):
        s = sequence(engine, ids)
        n = s.rewind(back)
        assert n in (0, back)
        if back >= 400 - PAGE:
            assert n == back  # what speculation and a chat's last turn need is always there
        assert same(rows(engine, s, ids[n:]), expected[n:]), f"rewound to {back}"
        # and the context says the length that was asked for, whatever is computed
        context = model.context()
        context.append(ids)
        context.rewind(back)
        assert context.length == back and context.ids == ids[:back]
        if back:
            context.append(ids[back:])
            fork = context.fork()
            assert same(rows(engine, fork._sequence, ids[:5]), rows(engine, sequence(engine, ids), ids[:5]))


def test_forks_over_windows(load: Load) -> None:
    engine = load("gemma3", threads=1).core.engine
    ids = ids_for(engine, 500)
    expected = rows(engine, sequence(engine), ids)
    start = used_now(engine)
    s = sequence(engine, ids[:150])
    forks = [s.fork() for _ in range(4)]
    extend(engine, s, ids[150:450])
    for i, fork in enumerate(forks):
        extend(engine, fork, ids[150 : 160 + 80 * i])
    again = [fork.fork() for fork in forks]
    del s, forks
    for i, fork in enumerate(again):
        n = 160 + 80 * i
        assert same(rows(engine, fork, ids[n:]), expected[n:])
    del fork, again
    gc.collect()
    assert used_now(engine) == start


# ---- passes that fail -----------------------------------------------------------------------------------------

BAD = 5  # a token whose embedding is not finite


@pytest.fixture(
    scope="module", params=[("llama_gqa", "F32"), ("gemma3", "F32"), ("narrow", "all")], ids=["llama", "gemma", "mixed"]
)
def broken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model with one such token (an untied embedding, so that only what holds the token is affected)."""
    name, mix = request.param
    path = tmp_path_factory.mktemp("broken") / "model.gguf"
    encode = models.encoder(mix)

    def spoil(tensor: str, value: Any) -> Any:
        if tensor == "token_embd.weight":
            value = value.copy()
            value[BAD, 3] = np.nan
            return value, None
        return encode(tensor, value)

    tiny.write_gguf(replace(models.BY_NAME[name], tied=False), path, context=models.CONTEXT, encode=spoil)
    with Model.load(path, threads=2) as model:
        yield model


def test_a_failed_pass_leaves_all_as_it_was(broken: Model, isa: str) -> None:
    engine = broken.core.engine
    ids = [i if i != BAD else 6 for i in ids_for(engine, 100)]
    expected = rows(engine, sequence(engine), ids)
    for at in (0, 1, 60, 63, 64, 90):
        s = sequence(engine, ids[:at])
        with pytest.raises(NumericsError):
            rows(engine, s, [*ids[at : at + 3], BAD, 1, 2, 3, BAD])
        with pytest.raises(NumericsError):
            engine.forward([(s, np.array([BAD], np.int32), 0)], samplers=[_engine.Sampler()])
        assert s.length == at
        for i in range(at, at + 5):  # one by one: what lies in the page behind must not be seen
            assert same(rows(engine, s, ids[i : i + 1]), expected[i : i + 1]), f"row {i} after a failed pass at {at}"
        assert same(rows(engine, s, ids[at + 5 :]), expected[at + 5 :])


def test_numbers_that_are_none_never_make_a_token(broken: Model) -> None:
    for options in (
        {"temperature": 0},
        {"temperature": 1.0},
        {"logprobs": 3},
        {"cache": False},
        {"logit_bias": {1: 50.0}},
    ):
        with pytest.raises(NumericsError):
            broken.generate([1, BAD], **options)
    with pytest.raises(NumericsError):
        broken.logits([1, BAD, 2])
    with pytest.raises(BatchError, match=r"^prompt\[1\]: "):
        broken.generate([[1, 2], [1, BAD]], max_tokens=2, logit_bias={BAD: -np.inf})  # the first must not draw it
    context = broken.context()
    context.append([1, 2, 3])
    with pytest.raises(NumericsError):
        context.generate([BAD])
    assert context.ids == [1, 2, 3]  # what could not be computed is not held
    forced: dict[str, Any] = {"temperature": 0, "max_tokens": 4, "logit_bias": {BAD: -np.inf}}
    assert context.generate([4], **forced).ids == broken.generate([1, 2, 3, 4], **forced).ids


@pytest.mark.parametrize("name", ["llama_gqa", "gemma3"])
def test_a_cancelled_pass_leaves_all_as_it_was(load: Load, name: str) -> None:
    """Passes of another thread keep the engine busy, so that a pass waits in the queue when it is cancelled."""
    model = load(name, threads=1)
    engine = model.core.engine
    ids = ids_for(engine, 400)
    expected = rows(engine, sequence(engine), ids)
    slow = load("wide_gemma", "K", isa="scalar", threads=1)
    busy, over = ids_for(slow.core.engine, 60), threading.Event()

    def work() -> None:
        while not over.is_set():
            slow.logits(busy)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        s = sequence(engine, ids[:100])
        cancelled = 0
        while cancelled < 2:
            try:
                engine.forward([(s, np.array(ids[100:], np.int32), 300)], cancel=lambda: True)
            except _engine.Cancelled:
                cancelled += 1
                assert s.length == 100
            else:
                s.rewind(0)
                extend(engine, s, ids[:100])
        context = model.context()
        context.append(ids[:50])
        context.append(ids[50:], cancel=lambda: True, chunk=16)
        assert context.length == 50  # cancelled: the tokens are not added
    finally:
        over.set()
        thread.join()
    assert same(rows(engine, s, ids[100:]), expected[100:])
    assert same(rows(engine, context._sequence, ids[50:]), expected[50:])


def test_too_much_for_the_context_computes_nothing(load: Load) -> None:
    model = load("llama_gqa", threads=1)
    context = model.context()
    context.append([1, 2])
    start = used_now(model.core.engine)
    with pytest.raises(ContextFullError) as caught:
        context.append([1] * models.CONTEXT)
    assert (caught.value.needed, caught.value.available) == (models.CONTEXT + 2, models.CONTEXT)
    assert context.length == 2 and used_now(model.core.engine) == start


def weights(path: Path) -> int:
    """Bytes of a model's matrices, as its file has them."""
    with Model.load(path, threads=1, cache_bytes=1 << 20) as model:
        return sum(matrix.data.size for matrix in model.core.engine.plan.matrices)


def test_the_default_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what is left; what one sequence of the context takes, where that is more; 64 MB at least."""
    path = models.write(folder, "llama_gqa")
    size = weights(path)
    for left, expected, why in (
        (10 << 30, 5 << 30, "half"),
        (200 << 20, 100 << 20, "half"),
        (-size, 64 << 20, "half"),
        (None, None, "does not report"),
    ):
        monkeypatch.setattr(memory, "available", lambda left=left: None if left is None else left + size)
        with Model.load(path, threads=1) as model:
            info = model.info()
            assert info.cache_limit == expected == model.stats().cache_bytes_limit and why in info.cache_limit_why
            with model.edit() as edit:
                assert edit.info().cache_limit == expected
        with Model.load(path, threads=1, cache_bytes=3 << 20) as model:
            assert model.info().cache_limit == 3 << 20 and model.info().cache_limit_why == "asked for"
    with Model.load(path, threads=1) as model:
        whole = model.info().cache_bytes_per_token * model.context_length
    monkeypatch.setattr(memory, "LEAST_CACHE", 0)
    monkeypatch.setattr(memory, "available", lambda: size + whole + 1000)
    with Model.load(path, threads=1) as model:
        assert model.info().cache_limit == whole and "one sequence" in model.info().cache_limit_why


def test_a_default_limit_holds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = models.write(folder, "llama_gqa")
    size = weights(path)
    monkeypatch.setattr(memory, "LEAST_CACHE", 0)
    monkeypatch.setattr(memory, "available", lambda: size + 2000)
    with Model.load(path, threads=1) as model, model.edit() as edit:
        for one in (model, edit):
            with pytest.raises(ContextFullError, match=f"cache_bytes={model.info().cache_limit}"):
                one.generate([1] * 100)
