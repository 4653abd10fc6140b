"""/v1/embeddings and /v1/rerank: the library's numbers, in every form, and what is refused."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model, _engine
from pellucid.server.app import make_app
from pellucid.server.gate import Gate
from pellucid.server.service import Service
from pellucid.server.settings import Limits, Settings
from tests.embedding.cases import BY_NAME
from tests.embedding.files import DOCUMENTS, QUERY, TEXTS, load_golden, write_folder
from tests.generation.counting import Counting
from tests.server.client import ask, call

PATH, RERANK = "/v1/embeddings", "/v1/rerank"
EMBEDDERS = ("bert", "qwen3_embedding")
RERANKERS = ("bert_reranker", "qwen3_reranker")


def load(name: str, folder: Path) -> Model:
    case = BY_NAME[name]
    return Model.load(write_folder(case, load_golden(case), folder / name), threads=2)


def serving(model: Model, **limits: Any) -> tuple[Service, Gate]:
    service = Service(Settings(names=("m",), limits=Limits(**limits)), model)
    return service, make_app(service)


@pytest.fixture(scope="module", params=EMBEDDERS)
def embedder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Model, Gate]]:
    with load(request.param, tmp_path_factory.mktemp("m")) as model:
        service, app = serving(model)
        yield model, app
        service.close()


@pytest.fixture(scope="module", params=RERANKERS)
def reranker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Model, Gate]]:
    with load(request.param, tmp_path_factory.mktemp("m")) as model:
        service, app = serving(model)
        yield model, app
        service.close()


def rows(answer: Any) -> Any:
    assert answer.status == 200, answer.body
    data = answer.json["data"]
    assert [(d["object"], d["index"]) for d in data] == [("embedding", i) for i in range(len(data))]
    values = [d["embedding"] for d in data]
    if isinstance(values[0], str):
        return np.array([np.frombuffer(base64.b64decode(value), "<f4") for value in values])
    return np.array(values, np.float32)


# ---- embeddings ---------------------------------------------------------------------------------------------------


def test_embeddings_are_the_librarys(embedder: tuple[Model, Gate]) -> None:
    model, app = embedder
    expected = model.embed(list(TEXTS))
    answer = call(app, "POST", PATH, {"model": "m", "input": list(TEXTS)})
    assert np.array_equal(rows(answer), expected)
    tokens = sum(len(model.tokenize(text)) for text in TEXTS)
    assert answer.json["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert (answer.json["object"], answer.json["model"]) == ("list", "m")
    coded = call(app, "POST", PATH, {"input": list(TEXTS), "encoding_format": "base64"})
    assert np.array_equal(rows(coded), expected)


def test_inputs_in_every_form(embedder: tuple[Model, Gate]) -> None:
    model, app = embedder
    ids = [model.tokenize(text) for text in TEXTS[:2]]
    expected = model.embed(ids)
    assert np.array_equal(rows(call(app, "POST", PATH, {"input": ids})), expected)
    assert np.array_equal(rows(call(app, "POST", PATH, {"input": ids[0]})), expected[:1])
    assert np.array_equal(rows(call(app, "POST", PATH, {"input": TEXTS[0]})), model.embed(TEXTS[0]))


def test_options(embedder: tuple[Model, Gate]) -> None:
    model, app = embedder
    options: dict[str, Any] = {"dimensions": 7, "normalize": False, "pooling": "first", "instruction": "of owls: "}
    answer = call(app, "POST", PATH, {"input": TEXTS[1], **options, "user": "x"})
    assert np.array_equal(rows(answer), model.embed(TEXTS[1], **options))
    assert answer.headers["pellucid-ignored"] == "user"


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({}, "input", None),
        ({"input": []}, "input", None),
        ({"input": 3}, "input", None),
        ({"input": {"text": "a"}}, "input", None),
        ({"input": ["a", 3]}, "input[1]", None),
        ({"input": ["a", []]}, "input[1]", None),
        ({"input": [1, -1]}, "input[1]", None),
        ({"input": [10**9]}, "input[0]", None),
        ({"input": ["a"] * 2049}, "input", None),
        ({"input": "a", "dimensions": 0}, "dimensions", None),
        ({"input": "a", "dimensions": 100_000}, "dimensions", None),
        ({"input": "a", "dimensions": "8"}, "dimensions", None),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", None),
        ({"input": "a", "pooling": "max"}, "pooling", None),
        ({"input": "a", "normalize": 1}, "normalize", None),
        ({"input": [1], "instruction": "x"}, "instruction", None),
        ({"input": "a", "input_type": "query"}, "input_type", "unsupported_field"),
        ({"input": "a", "model": 3}, "model", None),
        ({"input": "\ud800"}, "input", None),
        ({"input": "owl " * 2000}, "input", "context_length_exceeded"),
    ],
)
def test_what_is_refused(embedder: tuple[Model, Gate], fields: Any, param: str | None, code: str | None) -> None:
    answer = call(embedder[1], "POST", PATH, fields)
    assert answer.status == 400, answer.body
    assert (answer.error["param"], answer.error["code"]) == (param, code), answer.error


def test_models_that_cannot(app: Gate, model: Model, embedder: tuple[Model, Gate]) -> None:
    """A model that only generates, and one that only embeds."""
    answer = call(app, "POST", PATH, {"input": "a"})
    assert (answer.status, answer.error["param"]) == (400, "pooling") and "pooling" in answer.error["message"]
    answer = call(app, "POST", RERANK, {"query": "a", "documents": ["b"]})
    assert (answer.status, answer.error["code"]) == (400, "unsupported_by_model"), answer.body
    assert np.array_equal(
        rows(call(app, "POST", PATH, {"input": "a", "pooling": "mean"})), model.embed("a", pooling="mean")
    )
    if not embedder[0].core.engine.plan.ops[-1].n_seg:
        for path, body in (
            ("/v1/completions", {"prompt": "a", "max_tokens": 1}),
            ("/v1/completions", {"prompt": "a", "echo": True, "logprobs": 1, "max_tokens": 1}),
        ):
            answer = call(embedder[1], "POST", path, body)
            assert (answer.status, answer.error["code"]) == (400, "unsupported_by_model"), answer.body


# ---- relevance ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [RERANK, "/v2/rerank", "/rerank"])
def test_relevance_is_the_librarys(reranker: tuple[Model, Gate], path: str) -> None:
    model, app = reranker
    expected = model.rerank(QUERY, DOCUMENTS)
    answer = call(app, "POST", path, {"model": "m", "query": QUERY, "documents": list(DOCUMENTS)})
    assert answer.status == 200, answer.body
    assert [(r["index"], r["relevance_score"]) for r in answer.json["results"]] == expected
    assert all(set(r) == {"index", "relevance_score"} for r in answer.json["results"])
    used = answer.json["usage"]
    assert used["total_tokens"] == used["prompt_tokens"] > sum(len(model.tokenize(text)) for text in DOCUMENTS)


def test_the_first_few_with_their_texts(reranker: tuple[Model, Gate]) -> None:
    model, app = reranker
    documents = [{"text": text} for text in DOCUMENTS]
    body = {"query": QUERY, "documents": documents, "top_n": 2, "return_documents": True}
    results = call(app, "POST", RERANK, body).json["results"]
    expected = model.rerank(QUERY, DOCUMENTS)[:2]
    assert [(r["index"], r["document"]["text"]) for r in results] == [(i, DOCUMENTS[i]) for i, _ in expected]
    body["top_n"] = 100
    assert len(call(app, "POST", RERANK, body).json["results"]) == len(DOCUMENTS)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": None}, "query"),
        ({"query": 3}, "query"),
        ({"documents": None}, "documents"),
        ({"documents": []}, "documents"),
        ({"documents": "a"}, "documents"),
        ({"documents": ["a", 3]}, "documents[1]"),
        ({"documents": [{"title": "a"}]}, "documents[0].text"),
        ({"documents": ["a"] * 2049}, "documents"),
        ({"documents": ["a", "owl " * 2000]}, "documents"),
        ({"top_n": 0}, "top_n"),
        ({"return_documents": "yes"}, "return_documents"),
        ({"max_tokens_per_doc": 5}, "max_tokens_per_doc"),
        ({"instruction": 3}, "instruction"),
    ],
)
def test_what_reranking_refuses(reranker: tuple[Model, Gate], fields: Any, param: str) -> None:
    answer = call(reranker[1], "POST", RERANK, {"query": "owl", "documents": ["a", "b"], **fields})
    assert (answer.status, answer.error["param"]) == (400, param), answer.body


# ---- limits -------------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    monkeypatch.setattr(_engine, "Engine", Counting)
    with load("bert", tmp_path) as model:
        Counting.reset()
        yield model
    Counting.reset()


def test_a_client_that_leaves_ends_the_work(counted: Model) -> None:
    service, app = serving(counted)

    async def main() -> None:
        loop, leave = asyncio.get_running_loop(), asyncio.Event()
        Counting.before = lambda: loop.call_soon_threadsafe(leave.set)
        answer = await ask(app, "POST", PATH, {"input": [TEXTS[1]] * 2000}, leave=leave)
        assert answer.status == 0 and len(Counting.passes) < 10 and not service.running
        Counting.before = None
        assert (await ask(app, "POST", PATH, {"input": "a"})).status == 200

    asyncio.run(main())
    service.close()


def test_time_and_turns(counted: Model) -> None:
    """One computes at once, one waits, others are refused; and all end with their time."""
    service, app = serving(counted, request_seconds=0.2, computing=1, waiting=1)
    body = {"input": [TEXTS[1]] * 2000}

    async def main() -> None:
        answers = await asyncio.gather(*(ask(app, "POST", PATH, body) for _ in range(4)))
        assert sorted(answer.status for answer in answers) == [429, 429, 504, 504]
        assert all(int(a.headers["retry-after"]) > 0 for a in answers if a.status == 429)
        assert (await ask(app, "POST", PATH, {"input": "a"})).status == 200 and not service.running

    def slowly() -> None:
        import time

        time.sleep(0.05)

    Counting.before = slowly
    asyncio.run(main())
    text = call(app, "GET", "/metrics").body.decode()
    assert 'pellucid_rejected_total{model="m",reason="timeout"} 2.0' in text
    service.close()


def test_strict(embedder: tuple[Model, Gate]) -> None:
    service = Service(Settings(names=("m",), strict=True), embedder[0])
    answer = call(make_app(service), "POST", PATH, {"input": "a", "users": "x"})
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "unknown_field", "users")
    answer = call(make_app(service), "POST", PATH, {"input": "a", "user": "x"})
    assert (answer.status, answer.headers["pellucid-ignored"]) == (200, "user")
    service.close()


def test_what_can_never_fit_is_refused_at_once(smollm2: Path) -> None:
    """Also beside others, which have memory that this one would not be helped by."""
    with Model.load(smollm2, threads=1, context=512, cache_bytes=4_000_000) as model:
        service, app = serving(model)
        text = "An owl. " * 60
        tokens = len(model.tokenize(text))
        asked: list[tuple[str, str, dict[str, Any]]] = [
            ("input", PATH, {"input": text, "pooling": "mean"}),
            ("input", "/api/embed", {"model": "m", "input": text, "pooling": "mean"}),
            ("prompt", "/v1/completions", {"prompt": text, "max_tokens": 0, "echo": True, "logprobs": 1}),
            ("prompt", "/v1/completions", {"prompt": text, "max_tokens": 2}),
        ]

        async def all_of_them(beside: bool) -> None:
            leave = asyncio.Event()
            other = {"prompt": "An owl", "max_tokens": 100, "ignore_eos": True, "logprobs": 5}
            busy = asyncio.ensure_future(ask(app, "POST", "/v1/completions", other, leave=leave)) if beside else None
            while beside and not model.stats().running:
                await asyncio.sleep(0.001)
            for param, path, body in asked:
                answer = await asyncio.wait_for(ask(app, "POST", path, body), 10)
                assert answer.status == 400, (path, answer.body)
                if path.startswith("/v1"):
                    assert answer.error["code"] == "context_length_exceeded"
                    assert answer.error["n_prompt_tokens"] >= tokens > answer.error["n_ctx"] > 64
                    assert answer.error["param"] == param
                else:
                    assert "maximum context length" in answer.json["error"]
            if busy is not None:
                leave.set()
                await busy

        for beside in (False, True):
            asyncio.run(all_of_them(beside))
        service.close()
