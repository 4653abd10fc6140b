"""Structured output over HTTP: OpenAI's, vLLM's and llama-server's fields, and what is refused."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import pytest

from pellucid import Model, Tokenizer
from pellucid.server.gate import Gate
from pellucid.text.grammar import Grammars
from tests.server.client import call

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "Invent a person."}]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
UNKNOWN = {
    "type": "object",
    "properties": {"a": {"not": {"type": "string"}, "type": "boolean"}},
    "required": ["a"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": PERSON}}]
COMMON: dict[str, Any] = {"messages": MESSAGES, "max_tokens": 80, "seed": 3}


def of(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, **more}}


def content(answer: Any) -> str:
    assert answer.status == 200, answer.body
    choice = answer.json["choices"][0]
    assert choice["finish_reason"] == "stop"
    text: str = choice["message"]["content"] if "message" in choice else choice["text"]
    return text


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": of(PERSON)},
        {"response_format": of(PERSON, strict=True, description="a person")},
        {"response_format": {"type": "json_object", "schema": PERSON}},
        {"structured_outputs": {"json": PERSON, "disable_any_whitespace": True}},
        {"guided_json": PERSON},
        {"guided_json": json.dumps(PERSON)},
        {"json_schema": PERSON},
        {"schema": PERSON},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_schemas(app: Gate, model: Model, fields: dict[str, Any]) -> None:
    expected = model.chat(MESSAGES, schema=PERSON, max_tokens=80, seed=3)
    answer = call(app, "POST", CHAT, {**COMMON, **fields})
    assert content(answer) == expected.text and "pellucid-ignored" not in answer.headers
    person = json.loads(expected.text)
    assert list(person) == ["name", "age"] and answer.json["usage"]["completion_tokens"] == len(expected.ids)


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"guided_regex": "[a-c]{3}"}, "[a-c]{3}"),
        ({"structured_outputs": {"regex": "[a-c]{3}"}}, "[a-c]{3}"),
        ({"guided_choice": ["yes", "no"]}, "yes|no"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes|no"),
        ({"grammar": 'root ::= "<" [a-z] ">"'}, "<[a-z]>"),
        ({"guided_grammar": 'start: "<" /[a-z]/ ">"'}, "<[a-z]>"),
        ({"structured_outputs": {"grammar": 'root ::= "<" [a-z] ">"'}}, "<[a-z]>"),
        ({"structured_outputs": {"json_object": True}, "logit_bias": {}}, r"\{.*\}"),
        ({"response_format": {"type": "json_object"}}, r"\{.*\}"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_expressions_choices_and_grammars(app: Gate, path: str, fields: dict[str, Any], pattern: str) -> None:
    asked = {"messages": MESSAGES} if path == CHAT else {"prompt": "An answer:"}
    answer = call(app, "POST", path, {**asked, "temperature": 0.6, "seed": 1, "max_tokens": 400, **fields})
    assert re.fullmatch(pattern, content(answer), re.DOTALL)


def test_streams_and_choices(app: Gate) -> None:
    body = {**COMMON, "n": 3, "response_format": of(PERSON), "logprobs": True, "top_logprobs": 2, "temperature": 1.2}
    whole = call(app, "POST", CHAT, body).json["choices"]
    events = call(app, "POST", CHAT, {**body, "stream": True}).events
    assert events[-1] == "[DONE]"
    for choice in whole:
        parts = [c for e in events[:-1] for c in e["choices"] if c["index"] == choice["index"]]
        assert "".join(p["delta"].get("content", "") for p in parts) == choice["message"]["content"]
        tokens = [t for p in parts if p["logprobs"] for t in p["logprobs"]["content"]]
        assert tokens == choice["logprobs"]["content"]
        assert choice["finish_reason"] == "length" or json.loads(choice["message"]["content"])["age"] >= 0
        assert "".join(t["token"] for t in tokens) == choice["message"]["content"]


def test_without_strictness_there_is_a_warning(app: Gate) -> None:
    answer = call(app, "POST", CHAT, {**COMMON, "response_format": of(UNKNOWN, strict=False)})
    assert answer.headers["pellucid-warning"] == 'schema: "not" is ignored' and json.loads(content(answer))
    assert "pellucid-warning" not in call(app, "POST", CHAT, {**COMMON, "response_format": of(PERSON)}).headers
    streamed = call(app, "POST", CHAT, {**COMMON, "stream": True, "response_format": of(UNKNOWN, strict=False)})
    assert streamed.status == 200 and streamed.headers["pellucid-warning"]


PLACE = "response_format.json_schema.schema"


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"response_format": of(UNKNOWN)}, f"{PLACE}.properties.a.not", '"not"'),
        ({"response_format": of({"$ref": "http://localhost:1/x"})}, PLACE, "http://localhost:1/x"),
        ({"response_format": of({"x-guidance": {"lenient": True}, "not": {}})}, f"{PLACE}.not", '"not"'),
        ({"response_format": of({"type": "frob"})}, PLACE, "frob"),
        ({"response_format": of({"enum": ["x" * 70_000]})}, PLACE, "at most 65536"),
        ({"response_format": of({"multipleOf": 99_991})}, f"{PLACE}.multipleOf", "30000"),
        ({"response_format": of(3)}, PLACE, "a JSON schema"),
        ({"response_format": of(PERSON, strict="yes")}, "response_format.json_schema.strict", "True or False"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, PLACE, "missing"),
        (
            {"response_format": {"type": "json_schema", "schema": {}, "strict": 3}},
            "response_format.strict",
            "True or False",
        ),
        ({"response_format": {"type": "structural_tag"}}, "response_format.type", "json_object"),
        ({"response_format": "json_object"}, "response_format", "an object"),
        ({"guided_json": "{"}, "guided_json", "not JSON"),
        ({"guided_json": {"not": {}}}, "guided_json.not", '"not"'),
        ({"guided_regex": "("}, "guided_regex", "regex"),
        ({"guided_regex": 3}, "guided_regex", "a regular expression"),
        ({"guided_choice": []}, "guided_choice", "at least one"),
        ({"guided_choice": "yes"}, "guided_choice", "several texts"),
        ({"grammar": "root ::= x"}, "grammar", ""),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "response_format", "given beside"),
        ({"json_schema": {}, "grammar": 'root ::= "a"'}, "json_schema", "given beside"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag", "not supported"),
        ({"structured_outputs": 3}, "structured_outputs", "an object"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex", "regex"),
        ({"guided_whitespace_pattern": " "}, "guided_whitespace_pattern", "not supported"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals(app: Gate, fields: dict[str, Any], param: str, words: str, stream: bool) -> None:
    answer = call(app, "POST", CHAT, {**COMMON, "stream": stream, **fields})
    assert answer.status == 400, answer.body
    assert answer.error["type"] == "invalid_request_error" and words in answer.error["message"]
    assert (answer.error["param"] or "").startswith(param), answer.error


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"guided_regex": "a"}, 400),
        ({"response_format": {"type": "json_object"}}, 400),
        ({"tools": TOOLS, "tool_choice": "required"}, 400),
        ({"tools": TOOLS}, 200),  # calls are then the model's own
    ],
)
def test_without_llguidance(app: Gate, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], status: int) -> None:
    """Another try would be no better, so it is no error of the server."""
    monkeypatch.setitem(sys.modules, "llguidance", None)
    monkeypatch.setattr(Tokenizer, "grammars", lambda tokenizer, size: Grammars(tokenizer._text, size))
    answer = call(app, "POST", CHAT, {**COMMON, "max_tokens": 2, **fields})
    assert answer.status == status
    if status == 400:
        assert answer.error["code"] == "unsupported_by_server" and "pellucid[grammar]" in answer.error["message"]


def test_a_mask_and_biases_that_allow_nothing(app: Gate, model: Model) -> None:
    """Over HTTP a bias is a number, which cannot forbid a token."""
    ids = {str(model.tokenize(text, add_special=False)[0]): -100 for text in ("yes", "y", "ye")}
    answer = call(app, "POST", CHAT, {**COMMON, "guided_choice": ["yes", "no"], "logit_bias": ids, "temperature": 0})
    assert content(answer) == "no"


def test_what_changes_nothing(app: Gate) -> None:
    for fields in (
        {"grammar": ""},
        {"response_format": {"type": "text"}},
        {"guided_json": None},
        {"grammar_lazy": False},
    ):
        answer = call(app, "POST", CHAT, {"messages": MESSAGES, "max_tokens": 1, **fields})
        assert answer.status == 200 and "pellucid-ignored" not in answer.headers, answer.body
