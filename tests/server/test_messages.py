"""Anthropic's messages: the library's answers, in its objects and events, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pellucid import Model
from pellucid.openai.fields import Call
from pellucid.server.access import Key
from pellucid.server.app import make_app
from pellucid.server.gate import Gate
from pellucid.server.messages import message_call
from pellucid.server.service import Service
from pellucid.server.settings import Settings
from tests.server.client import Answer, call
from tests.server.conftest import NAME

PATH, COUNT = "/v1/messages", "/v1/messages/count_tokens"
MESSAGES: list[Any] = [{"role": "user", "content": "Name three colours."}]
BODY: dict[str, Any] = {"model": NAME, "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
SYSTEM = {"role": "system", "content": "Be brief."}
BILLING = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.0; cch=00000;"}


def events(answer: Answer) -> list[tuple[str, Any]]:
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    found = []
    for event in answer.body.decode().split("\n\n")[:-1]:
        name, data = event.split("\n")
        assert name.startswith("event: ") and data.startswith("data: ")
        found.append((name[7:], json.loads(data[6:])))
    assert all(name == value["type"] for name, value in found)
    return found


def error(answer: Answer) -> dict[str, Any]:
    assert set(answer.json) == {"type", "error", "request_id"} and answer.json["type"] == "error", answer.body
    assert answer.json["request_id"] == answer.headers["x-request-id"] == answer.headers["request-id"]
    found: dict[str, Any] = answer.json["error"]
    assert set(found) == {"type", "message"} and found["message"]
    return found


def read(**fields: Any) -> Call:
    return message_call({**BODY, **fields}, Settings())


def test_a_message_is_the_librarys(app: Gate, model: Model) -> None:
    mine = model.chat([SYSTEM, *MESSAGES], max_tokens=12, temperature=0)
    found = call(app, "POST", PATH, {**BODY, "system": "Be brief."}).json
    assert found["content"] == [{"type": "text", "text": mine.text}]
    assert (found["type"], found["role"], found["model"]) == ("message", "assistant", NAME)
    assert found["id"].startswith("msg_") and (found["stop_reason"], found["stop_sequence"]) == ("max_tokens", None)
    used = found["usage"]
    assert used["input_tokens"] + used["cache_read_input_tokens"] == mine.prompt_tokens
    assert (used["output_tokens"], used["cache_creation_input_tokens"]) == (12, 0)


def test_events_are_the_whole(app: Gate) -> None:
    whole = call(app, "POST", PATH, BODY).json
    found = events(call(app, "POST", PATH, {**BODY, "stream": True}))
    names = [name for name, _ in found]
    assert names[:2] == ["message_start", "content_block_start"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(names[2:-3]) == {"content_block_delta"}
    start = found[0][1]["message"]
    assert (start["content"], start["stop_reason"], start["role"]) == ([], None, "assistant")
    assert start["usage"]["input_tokens"] > 0 and start["usage"]["output_tokens"] == 0
    assert found[1][1] == {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    deltas = [value["delta"] for name, value in found if name == "content_block_delta"]
    assert "".join(delta["text"] for delta in deltas) == whole["content"][0]["text"]
    last = found[-2][1]
    assert last["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert last["usage"]["output_tokens"] == whole["usage"]["output_tokens"]


def test_which_stop_sequence(app: Gate) -> None:
    text = call(app, "POST", PATH, BODY).json["content"][0]["text"]
    for stop in (text[3:6], text[8:10]):
        body = {**BODY, "stop_sequences": ["never there", stop]}
        found = call(app, "POST", PATH, body).json
        assert (found["stop_reason"], found["stop_sequence"]) == ("stop_sequence", stop)
        assert "".join(block["text"] for block in found["content"]) == text[: text.index(stop)]
        delta = events(call(app, "POST", PATH, {**body, "stream": True}))[-2][1]["delta"]
        assert delta == {"stop_reason": "stop_sequence", "stop_sequence": stop}


def test_an_end_by_itself(app: Gate, model: Model) -> None:
    assert model.tokenizer is not None
    end = call(app, "POST", PATH, {**BODY, "logit_bias": {str(model.tokenizer.eos): 100}}).json
    assert (end["content"], end["stop_reason"], end["usage"]["output_tokens"]) == ([], "end_turn", 0)


def test_tokens_are_counted(app: Gate, model: Model) -> None:
    body = {"model": NAME, "messages": MESSAGES, "system": [{"type": "text", "text": "Be brief."}]}
    found = call(app, "POST", COUNT, body)
    assert found.json == {"input_tokens": len(model.chat_prompt([SYSTEM, *MESSAGES]).ids)}
    assert error(call(app, "POST", COUNT, {"messages": []}))["type"] == "invalid_request_error"


def test_a_message_that_is_begun(app: Gate) -> None:
    """Its interface would continue it, in place of a message after it; it can be counted."""
    begun = {**BODY, "messages": [*MESSAGES, {"role": "assistant", "content": "The answer is"}]}
    found = error(call(app, "POST", PATH, begun))
    assert found["type"] == "invalid_request_error" and found["message"].startswith("messages[1].role='assistant'")
    assert call(app, "POST", COUNT, begun).json["input_tokens"] > 0


def test_the_changing_block_is_dropped() -> None:
    blocks = [
        BILLING,
        {"type": "text", "text": "Be", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "brief."},
    ]
    assert read(system=blocks).messages[0] == {"role": "system", "content": "Be\n\nbrief."}
    assert read(system=[BILLING]).messages == read().messages == MESSAGES
    assert read(system=BILLING["text"]).messages == MESSAGES


def test_blocks_become_messages() -> None:
    given = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "toolu_1", "name": "get", "input": {"city": "東京"}},
                {"type": "tool_use", "id": "toolu_2", "name": "get", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "wet"}]},
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": "no", "is_error": True},
                {"type": "text", "text": "So?"},
            ],
        },
        {"role": "system", "content": "Now."},
    ]
    assert read(messages=given).messages == [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "toolu_1", "type": "function", "function": {"name": "get", "arguments": '{"city":"東京"}'}},
                {"id": "toolu_2", "type": "function", "function": {"name": "get", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "toolu_1", "content": "wet"},
        {"role": "tool", "tool_call_id": "toolu_2", "content": "Error: no"},
        {"role": "user", "content": "So?"},
        {"role": "system", "content": "Now."},
    ]


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["a"]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "messages[0].content[0].tool_use_id"),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_use"}]}]}, "messages[0].content[0].input"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0]"),
        ({"system": "a", "messages": [{"role": "user", "content": "\ud800"}]}, "messages[0]"),
        ({"system": "\ud800"}, "system"),
        ({"tools": [{"name": "a", "input_schema": {"title": "\ud800"}}]}, "tools[0].input_schema['title']: lone"),
        ({"tools": [{"name": "a", "description": "\ud800", "input_schema": {}}]}, "tools[0]['description']: lone"),
        ({"system": 3}, "system"),
        ({"system": [{"type": "image"}]}, "system[0]"),
        ({"stop_sequences": "a"}, "stop_sequences"),
        ({"stop_sequences": [3]}, "stop_sequences[0]"),
        ({"stop_sequences": ["a"] * 17}, "stop_sequences"),
        ({"temperature": -1}, "temperature"),
        ({"stream": 3}, "stream"),
        ({"model": 3}, "model"),
        ({"thinking": {"type": "deep"}}, "thinking"),
        ({"thinking": 3}, "thinking"),
        ({"output_config": {"effort": "some"}}, "output_config.effort"),
        ({"thinking": {"type": "enabled", "budget_tokens": -1}}, "thinking.budget_tokens=-1"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema is missing"),
        ({"output_config": {"format": {"type": "json_schema", "schema": 3}}}, "output_config.format.schema: expected"),
        ({"tools": 3}, "tools"),
        ({"tools": [3]}, "tools[0]"),
        ({"tools": [{"name": "a"}]}, "tools[0].input_schema"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "some"}}, "tool_choice"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
        ({"stop": ["a"]}, "stop is not supported"),
        ({"n": 2}, "n is not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format is not supported"),
        ({"reasoning_effort": "low"}, "reasoning_effort is not supported"),
        ({"max_completion_tokens": 3}, "max_completion_tokens is not supported"),
        ({"output_format": {"type": "xml"}}, "output_format"),
        ({"output_format": {"type": "json_schema", "schema": 3}}, "output_format.schema: expected"),
        (
            {"output_format": {"type": "json_schema"}, "output_config": {"format": {"type": "json_schema"}}},
            "output_format: given beside",
        ),
        ({"guided_regex": "("}, "guided_regex"),
        ({"guided_regex": 3}, "guided_regex"),
        ({"truncate_prompt_tokens": 3}, "truncate_prompt_tokens"),
    ],
)
@pytest.mark.parametrize("path", [PATH, COUNT])
def test_what_is_refused(app: Gate, path: str, fields: Any, what: str) -> None:
    if path == COUNT and fields.keys() & {"max_tokens", "temperature", "guided_regex"}:  # of no use there
        return
    answer = call(app, "POST", path, {**BODY, **fields})
    found = error(answer)
    assert (answer.status, found["type"]) == (400, "invalid_request_error") and what in found["message"]


def test_errors_have_its_form(app: Gate, model: Model) -> None:
    answer = call(app, "POST", PATH, {**BODY, "messages": [{"role": "user", "content": "word " * 3000}]})
    assert answer.status == 400 and "prompt is too long: 30" in error(answer)["message"]
    assert "tokens > 512 maximum" in error(answer)["message"]
    answer = call(app, "POST", PATH, {**BODY, "model": "claude-9"})
    assert (answer.status, error(answer)["type"]) == (404, "not_found_error")
    answer = call(app, "GET", PATH)
    assert answer.status == 405 and error(answer)
    assert error(call(app, "POST", PATH, b"{"))["type"] == "invalid_request_error"
    service = Service(Settings(names=("m",), keys=(Key.of("sk-a"),)), model)
    own = make_app(service)
    answer = call(own, "POST", PATH, {**BODY, "model": "m"}, {"x-api-key": "sk-b"})
    assert (answer.status, error(answer)["type"]) == (401, "authentication_error")
    answer = call(own, "POST", PATH, {**BODY, "model": "m"}, {"x-api-key": "sk-a", "anthropic-version": "2023-06-01"})
    assert answer.status == 200
    service.close()


def test_an_error_within_a_stream(app: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    from pellucid.server import generate

    def fails(*arguments: Any) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(generate.Answer, "_usage", fails)
    answer = call(app, "POST", PATH, BODY)
    assert answer.status == 500 and error(answer)["type"] == "api_error"
    kind, last = events(call(app, "POST", PATH, {**BODY, "stream": True}))[-1]
    assert kind == "error" and last["error"]["type"] == "api_error" and last["request_id"]


def test_the_list_of_models(app: Gate) -> None:
    found = call(app, "GET", "/v1/models", headers={"anthropic-version": "2023-06-01"}).json
    assert [one["id"] for one in found["data"]] == [NAME, "gpt-4o"] and not found["has_more"]
    assert all(
        one["type"] == "model" and one["display_name"] and one["created_at"].endswith("Z") for one in found["data"]
    )


def test_a_model(app: Gate) -> None:
    found = call(app, "GET", f"/v1/models/{NAME}", headers={"anthropic-version": "2023-06-01"}).json
    assert (found["type"], found["id"], found["display_name"]) == ("model", NAME, NAME)
    gone = call(app, "GET", "/v1/models/none", headers={"anthropic-version": "2023-06-01"})
    assert (gone.status, gone.json["type"], gone.json["error"]["type"]) == (404, "error", "not_found_error")
    assert gone.json["request_id"] == gone.headers["request-id"]
    assert call(app, "GET", "/v1/models/none").error["code"] == "model_not_found"


def test_schemas(app: Gate) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    config = {"format": {"type": "json_schema", "schema": {**schema, "additionalProperties": False}}}
    found = call(app, "POST", PATH, {**BODY, "max_tokens": 60, "output_config": config}).json
    assert set(json.loads(found["content"][0]["text"])) == {"a"} and found["stop_reason"] == "end_turn"
    older = call(app, "POST", PATH, {**BODY, "max_tokens": 60, "output_format": config["format"]}).json
    assert older["content"] == found["content"]
    bound = call(app, "POST", PATH, {**BODY, "guided_regex": "[0-9]{3}"}).json
    assert len(bound["content"][0]["text"]) == 3 and bound["content"][0]["text"].isdigit()


def test_ignored_fields_are_named(app: Gate) -> None:
    answer = call(app, "POST", PATH, {**BODY, "max_tokens": 1, "metadata": {"user_id": "x"}, "service_tier": "auto"})
    assert (answer.status, answer.headers["pellucid-ignored"]) == (200, "metadata, service_tier")
    within = {"thinking": {"type": "disabled", "display": "omitted"}, "output_config": {"task_budget": {}}}
    answer = call(app, "POST", PATH, {**BODY, "max_tokens": 1, **within})
    assert answer.headers["pellucid-ignored"] == "output_config.task_budget, thinking.display"


def test_tokens_that_end_it(app: Gate) -> None:
    first = call(app, "POST", "/v1/chat/completions", {**BODY, "logprobs": True}).json["choices"][0]["logprobs"]
    id = first["content"][2]["id"]
    for name in ("stop_ids", "stop_token_ids"):
        found = call(app, "POST", PATH, {**BODY, name: [id]}).json
        assert (found["stop_reason"], found["usage"]["output_tokens"]) == ("end_turn", 2), name
