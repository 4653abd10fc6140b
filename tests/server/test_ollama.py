"""Ollama's interface: the same answers as the library's, in its lines; what would change models is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pellucid import Model, __version__
from pellucid.server.access import Key
from pellucid.server.app import make_app
from pellucid.server.gate import Gate
from pellucid.server.service import Service
from pellucid.server.settings import Settings
from tests.server.client import Answer, call
from tests.server.conftest import NAME

CHAT, GENERATE = "/api/chat", "/api/generate"
MESSAGES: list[Any] = [{"role": "user", "content": "Name three colours."}]
OPTIONS = {"num_predict": 12, "seed": 7, "temperature": 1.1, "top_k": 30}


def lines(answer: Answer) -> list[Any]:
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "application/x-ndjson"
    found = answer.body.decode().split("\n")
    assert found.pop() == "" and all(found)
    return [json.loads(line) for line in found]


def error(answer: Answer) -> str:
    assert set(answer.json) == {"error"}, answer.body
    found: str = answer.json["error"]
    return found


def test_chat_is_the_librarys(app: Gate, model: Model) -> None:
    mine = model.chat(MESSAGES, max_tokens=12, seed=7, temperature=1.1, top_k=30)
    answer = call(app, "POST", CHAT, {"model": NAME, "messages": MESSAGES, "options": OPTIONS, "stream": False})
    found = answer.json
    assert found["message"] == {"role": "assistant", "content": mine.text} and found["model"] == NAME
    assert (found["done"], found["done_reason"]) == (True, "length" if mine.finish_reason == "length" else "stop")
    assert (found["prompt_eval_count"], found["eval_count"]) == (mine.prompt_tokens, len(mine.ids))
    names = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")
    assert all(type(found[name]) is int and found[name] >= 0 for name in names)
    assert found["total_duration"] >= found["eval_duration"] > 0


@pytest.mark.parametrize("path", [CHAT, GENERATE])
def test_a_stream_is_the_whole(app: Gate, model: Model, path: str) -> None:
    body: dict[str, Any] = {"model": NAME, "options": OPTIONS}
    body |= {"messages": MESSAGES} if path == CHAT else {"prompt": "Name three colours."}
    whole = call(app, "POST", path, {**body, "stream": False}).json
    *parts, last = lines(call(app, "POST", path, body))

    def text(one: Any) -> str:
        found: str = one["message"]["content"] if path == CHAT else one["response"]
        return found

    assert "".join(map(text, parts)) == text(whole) and text(last) == ""
    assert not any(part["done"] for part in parts) and last["done"] and last["done_reason"] == whole["done_reason"]
    asked: Any = {"max_tokens": 12, "seed": 7, "temperature": 1.1, "top_k": 30}
    mine = model.chat(body.get("messages", [{"role": "user", "content": "Name three colours."}]), **asked)
    assert last["eval_count"] == whole["eval_count"] == len(mine.ids)
    assert {one["model"] for one in (*parts, last)} == {NAME}


def test_generate_uses_the_template_unless_raw(app: Gate, model: Model) -> None:
    options = {"num_predict": 8, "temperature": 0}
    body = {"model": NAME, "prompt": "The capital of France is", "stream": False, "options": options}
    raw = call(app, "POST", GENERATE, {**body, "raw": True}).json
    assert raw["response"] == model.generate(body["prompt"], max_tokens=8, temperature=0).text  # type: ignore[call-overload]
    system = {"role": "system", "content": "Be brief."}
    user = {"role": "user", "content": body["prompt"]}
    said = call(app, "POST", GENERATE, {**body, "system": "Be brief."}).json
    assert said["response"] == model.chat([system, user], max_tokens=8, temperature=0).text


def test_options_by_their_names(app: Gate, model: Model) -> None:
    body: dict[str, Any] = {"model": NAME, "prompt": "la la la la", "raw": True, "stream": False}
    options = {"num_predict": 6, "temperature": 0, "repeat_penalty": 1.8, "repeat_last_n": -1, "stop": ["zzz"]}
    found = call(app, "POST", GENERATE, {**body, "options": {**options, "num_ctx": 4096, "num_gpu": 0}})
    mine = model.generate("la la la la", max_tokens=6, temperature=0, repeat_penalty=1.8, repeat_last=2**31 - 1)
    assert found.json["response"] == mine.text
    assert found.headers["pellucid-ignored"] == "options.num_ctx, options.num_gpu"
    options["num_predict"] = -1
    long = call(app, "POST", GENERATE, {**body, "prompt": "a " * 240, "options": options}).json
    assert long["prompt_eval_count"] + long["eval_count"] > 490 or long["done_reason"] == "stop"


def test_log_probabilities(app: Gate, model: Model) -> None:
    mine = model.chat(MESSAGES, max_tokens=4, temperature=0, logprobs=2).logprobs
    body: dict[str, Any] = {"model": NAME, "messages": MESSAGES, "options": {"num_predict": 4, "temperature": 0}}
    body |= {"logprobs": True, "top_logprobs": 2}
    whole = call(app, "POST", CHAT, {**body, "stream": False}).json["logprobs"]
    assert [(t["token"], t["logprob"]) for t in whole] == [(t.piece, t.logprob) for t in mine]
    assert [[(o["token"], o["logprob"]) for o in t["top_logprobs"]] for t in whole] == [
        [(piece, value) for _, piece, value in t.top] for t in mine
    ]
    streamed = [t for line in lines(call(app, "POST", CHAT, body)) for t in line.get("logprobs", [])]
    assert streamed == whole


@pytest.mark.parametrize(
    ("path", "body"), [(CHAT, {"messages": []}), (CHAT, {}), (GENERATE, {}), (GENERATE, {"prompt": ""})]
)
def test_without_a_prompt_the_model_is_loaded(app: Gate, path: str, body: Any) -> None:
    found = call(app, "POST", path, {"model": NAME, "keep_alive": "5m", **body}).json
    assert (found["done"], found["done_reason"]) == (True, "load")
    assert (found["message"]["content"] if path == CHAT else found["response"]) == ""


def test_what_tells_about_models(app: Gate, model: Model) -> None:
    version = call(app, "GET", "/api/version").json
    assert version["pellucid"] == __version__
    assert tuple(map(int, version["version"].split("."))) >= (0, 6, 4)  # the least of some clients
    tags = call(app, "GET", "/api/tags").json["models"]
    assert [(one["name"], one["model"]) for one in tags] == [(NAME, NAME), ("gpt-4o", "gpt-4o")]
    assert tags[0]["details"]["family"] == "llama" and tags[0]["details"]["quantization_level"] == "Q4_1"
    assert tags[0]["size"] == model.info().file_bytes and tags[0]["digest"]
    (loaded,) = call(app, "GET", "/api/ps").json["models"]
    assert (loaded["name"], loaded["context_length"], loaded["size_vram"]) == (NAME, 512, 0)
    assert loaded["size"] > loaded["size_vram"]
    for name in (NAME, f"{NAME}:latest"):
        shown = call(app, "POST", "/api/show", {"model": name}).json
        assert shown["model_info"]["general.architecture"] == "llama"
        assert shown["model_info"]["llama.context_length"] == model.info().context_trained
        assert shown["capabilities"] == ["completion", "tools"]
        assert shown["template"] == model.tokenizer.chat_template  # type: ignore[union-attr]


def test_embeddings(app: Gate, model: Model) -> None:
    texts = ["An owl.", "A castle."]
    expected = model.embed(texts, pooling="mean").tolist()
    found = call(app, "POST", "/api/embed", {"model": NAME, "input": texts, "pooling": "mean", "truncate": True}).json
    assert found["embeddings"] == expected and found["prompt_eval_count"] == sum(len(model.tokenize(t)) for t in texts)
    one = call(app, "POST", "/api/embed", {"model": NAME, "input": texts[0], "pooling": "mean", "dimensions": 5}).json
    assert one["embeddings"] == model.embed(texts[0], pooling="mean", dimensions=5).tolist()
    old = call(app, "POST", "/api/embeddings", {"model": NAME, "prompt": texts[0], "pooling": "mean"}).json
    assert old == {"embedding": expected[0]}
    assert "pooling" in error(call(app, "POST", "/api/embed", {"model": NAME, "input": "a"}))


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", f"/api/{name}") for name in ("pull", "push", "create", "copy")]
    + [("DELETE", "/api/delete"), ("POST", "/api/blobs/sha256:abc"), ("HEAD", "/api/blobs/sha256:abc")],
)
def test_what_would_change_models_is_refused(app: Gate, method: str, path: str) -> None:
    answer = call(app, method, path, {"model": "llama3"} if method == "POST" else None)
    assert answer.status == 403 and "pellucid pull" in error(answer)


@pytest.mark.parametrize(
    ("path", "fields", "what"),
    [
        (CHAT, {"messages": "a"}, "messages"),
        (CHAT, {"messages": ["a"]}, "messages[0]"),
        (CHAT, {"messages": [{"role": "user", "content": "a", "images": ["aGk="]}]}, "messages[0].images"),
        (CHAT, {"messages": [{"role": "assistant", "tool_calls": [3]}]}, "messages[0].tool_calls[0]"),
        (CHAT, {"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0]"),
        (CHAT, {"messages": MESSAGES, "options": 3}, "options"),
        (CHAT, {"messages": MESSAGES, "options": {"temperature": -1}}, "options.temperature"),
        (CHAT, {"messages": MESSAGES, "options": {"num_predict": 1.5}}, "options.num_predict"),
        (CHAT, {"messages": MESSAGES, "options": {"tfs_z": 0.5}}, "options.tfs_z"),
        (CHAT, {"messages": MESSAGES, "options": {"top_k": "x"}}, "options.top_k"),
        (CHAT, {"messages": MESSAGES, "format": "xml"}, "format"),
        (CHAT, {"messages": MESSAGES, "think": 3}, "think"),
        (CHAT, {"messages": MESSAGES, "stream": "no"}, "stream"),
        (CHAT, {"messages": MESSAGES, "model": 3}, "model"),
        (CHAT, {"messages": MESSAGES, "top_logprobs": 2}, "top_logprobs"),
        (CHAT, {"messages": MESSAGES, "tool_choice": "required"}, "tool_choice"),
        (GENERATE, {"prompt": 3}, "prompt"),
        (GENERATE, {"prompt": "a", "suffix": "b"}, "suffix"),
        (GENERATE, {"prompt": "a", "template": "{{ .Prompt }}"}, "template"),
        (GENERATE, {"prompt": "a", "context": [1, 2]}, "context"),
        (GENERATE, {"prompt": "a", "images": ["aGk="]}, "images"),
        (GENERATE, {"prompt": "a", "raw": True, "system": "b"}, "system"),
        (GENERATE, {"prompt": "word " * 3000}, "maximum context length"),
        ("/api/embed", {"input": 3}, "input"),
        ("/api/embed", {"input": []}, "input"),
        ("/api/embed", {"input": ["a", 3]}, "input"),
        ("/api/embeddings", {}, "prompt"),
    ],
)
def test_what_is_refused(app: Gate, path: str, fields: Any, what: str) -> None:
    answer = call(app, "POST", path, {"model": NAME, **fields})
    assert answer.status == 400 and what in error(answer), answer.body


def test_errors_have_its_form(app: Gate) -> None:
    answer = call(app, "POST", CHAT, {"model": "llama9", "messages": MESSAGES})
    assert answer.status == 404 and "llama9" in error(answer)
    assert call(app, "GET", "/api/nothing").status == 404 and error(call(app, "GET", "/api/nothing"))
    assert error(call(app, "POST", CHAT, b"{"))


def test_strict(model: Model) -> None:
    service = Service(Settings(names=("m",), strict=True), model)
    body: dict[str, Any] = {"messages": MESSAGES, "keep_alive": 0, "options": {"num_predict": 1}, "stream": False}
    assert call(make_app(service), "POST", CHAT, body).status == 200
    body["options"] |= {"num_ctx": 5, "num_thread": 2}  # as its clients send them
    answer = call(make_app(service), "POST", CHAT, body)
    assert (answer.status, answer.headers["pellucid-ignored"]) == (200, "options.num_ctx, options.num_thread")
    body["options"]["frob"] = 5
    answer = call(make_app(service), "POST", CHAT, body)
    assert answer.status == 400 and "options.frob" in error(answer)
    service.close()


def test_formats(app: Gate) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    options = {"num_predict": 60, "temperature": 0}
    body = {"model": NAME, "messages": MESSAGES, "format": schema, "options": options}
    assert set(json.loads(call(app, "POST", CHAT, {**body, "stream": False}).json["message"]["content"])) == {"a"}
    text = "".join(line["message"]["content"] for line in lines(call(app, "POST", CHAT, body)))
    assert set(json.loads(text)) == {"a"}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_heartbeat(app: Gate, model: Model, method: str) -> None:
    assert call(app, method, "/").status == 200
    service = Service(Settings(names=("m",), keys=(Key.of("secret"),)), model)
    answer = call(make_app(service), method, "/")  # its client asks without a key
    assert answer.status == 200 and answer.body in (b"Pellucid is running", b"")
    assert call(make_app(service), "GET", "/api/tags").status == 401
    service.close()


def test_numbers_that_mean_none(app: Gate) -> None:
    """A seed of -1 is none; no number of tokens up to 0 limits them; numbers of 64 bits may be whole."""
    body: dict[str, Any] = {"model": NAME, "messages": MESSAGES, "stream": False}
    options: dict[str, Any] = {"temperature": 2.0, "num_predict": 12, "seed": -1}
    texts = {call(app, "POST", CHAT, {**body, "options": options}).json["message"]["content"] for _ in range(4)}
    assert len(texts) > 1
    options = {"temperature": 0, "num_predict": 0, "stop": [" "]}
    assert call(app, "POST", CHAT, {**body, "options": options}).json["eval_count"] > 0
    for options in ({"num_predict": 3}, {"num_predict": 3.0, "top_k": -1, "seed": 7.0, "repeat_last_n": 64.0}):
        assert call(app, "POST", CHAT, {**body, "options": options}).json["eval_count"] == 3
    assert call(app, "POST", CHAT, {**body, "options": {"num_predict": 3.5}}).status == 400
