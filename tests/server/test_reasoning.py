"""Reasoning over HTTP: apart from the answer in each interface's form, whole and in events, with a budget."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pellucid import Completion, Model
from pellucid.server.app import make_app
from pellucid.server.gate import Gate
from pellucid.server.service import Service
from pellucid.server.settings import Settings
from tests.server.client import call
from tests.server.test_messages import events as message_events
from tests.server.test_ollama import lines
from tests.server.test_responses import events as response_events
from tests.server.thinks import write

MESSAGES: list[Any] = [{"role": "user", "content": "Name three colours."}]
BUDGET: dict[str, Any] = {"thinking_budget": 6}
SAID: dict[str, Any] = {"max_tokens": 30, "temperature": 0}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "get_time", "description": "", "parameters": SCHEMA}}]


@pytest.fixture(scope="module")
def thinking(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = write(smollm2, tmp_path_factory.mktemp("m") / "thinks.gguf")
    with Model.load(path, threads=2, context=512) as model:
        yield model


@pytest.fixture(scope="module")
def server(thinking: Model) -> Iterator[Gate]:
    service = Service(Settings(names=("m",)), thinking)
    yield make_app(service)
    service.close()


@pytest.fixture(scope="module")
def mine(thinking: Model) -> Completion:
    done: Completion = thinking.chat(MESSAGES, **SAID, **BUDGET)
    assert done.reasoning and done.text and done.reasoning_tokens >= 6
    return done


def test_in_chats(server: Gate, mine: Completion) -> None:
    body = {"messages": MESSAGES, **SAID, **BUDGET}
    found = call(server, "POST", "/v1/chat/completions", body).json
    message = found["choices"][0]["message"]
    assert message["reasoning_content"] == message["reasoning"] == mine.reasoning and message["content"] == mine.text
    assert found["usage"]["completion_tokens_details"]["reasoning_tokens"] == mine.reasoning_tokens
    events = call(server, "POST", "/v1/chat/completions", {**body, "stream": True}).events
    deltas = [event["choices"][0]["delta"] for event in events[:-1]]
    for name, expected in (
        ("reasoning", mine.reasoning),
        ("reasoning_content", mine.reasoning),
        ("content", mine.text),
    ):
        assert "".join(delta.get(name) or "" for delta in deltas) == expected


def test_in_responses(server: Gate, mine: Completion) -> None:
    body = {"input": MESSAGES[0]["content"], "max_output_tokens": 30, "temperature": 0, **BUDGET}
    answer = call(server, "POST", "/v1/responses", body)
    assert "pellucid-ignored" not in answer.headers
    reasoning, message = answer.json["output"]
    assert (reasoning["type"], message["type"]) == ("reasoning", "message") and reasoning["summary"] == []
    assert reasoning["content"] == [{"type": "reasoning_text", "text": mine.reasoning}]
    assert message["content"][0]["text"] == mine.text
    assert answer.json["usage"]["output_tokens_details"]["reasoning_tokens"] == mine.reasoning_tokens
    events = response_events(call(server, "POST", "/v1/responses", {**body, "stream": True}))
    for kind, expected in (("reasoning_text", mine.reasoning), ("output_text", mine.text)):
        assert "".join(e["delta"] for e in events if e["type"] == f"response.{kind}.delta") == expected


def test_in_messages(server: Gate, thinking: Model, mine: Completion) -> None:
    body = {"messages": MESSAGES, **SAID, "thinking": {"type": "enabled", "budget_tokens": 6}}
    thought, said = call(server, "POST", "/v1/messages", body).json["content"]
    assert thought == {"type": "thinking", "thinking": mine.reasoning, "signature": ""}
    assert said == {"type": "text", "text": mine.text}
    events = message_events(call(server, "POST", "/v1/messages", {**body, "stream": True}))
    deltas = [value["delta"] for name, value in events if name == "content_block_delta"]
    assert "".join(d.get("thinking", "") for d in deltas) == mine.reasoning
    assert "".join(d.get("text", "") for d in deltas) == mine.text
    (only,) = call(server, "POST", "/v1/messages", {**body, "thinking": {"type": "disabled"}}).json["content"]
    assert only["text"] == thinking.chat(MESSAGES, variables={"enable_thinking": False}, **SAID).text


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_in_ollamas_interface(server: Gate, thinking: Model, path: str) -> None:
    asked: dict[str, Any] = {"options": {"num_predict": 9, "temperature": 0}}
    asked |= {"messages": MESSAGES} if path == "/api/chat" else {"prompt": MESSAGES[0]["content"]}
    for think in (True, False):
        mine: Completion = thinking.chat(MESSAGES, variables={"enable_thinking": think}, max_tokens=9, temperature=0)
        assert bool(mine.reasoning) == think and bool(mine.text) == (not think)
        whole = call(server, "POST", path, {**asked, "think": think, "stream": False}).json
        streamed = lines(call(server, "POST", path, {**asked, "think": think}))
        found = [one["message"] if path == "/api/chat" else one for one in (whole, *streamed)]
        text = "content" if path == "/api/chat" else "response"
        for some in (found[:1], found[1:]):
            assert "".join(one.get("thinking", "") for one in some) == mine.reasoning
            assert "".join(one[text] for one in some) == mine.text


def test_a_schema_and_tools_after_reasoning(server: Gate, mine: Completion) -> None:
    body = {"messages": MESSAGES, "max_tokens": 80, "temperature": 0, **BUDGET}
    form = {"type": "json_schema", "json_schema": {"name": "ok", "schema": SCHEMA}}
    required = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
    for more in ({"response_format": form}, required):
        (choice,) = call(server, "POST", "/v1/chat/completions", {**body, **more}).json["choices"]
        message = choice["message"]
        assert message["reasoning_content"]
        text = message["tool_calls"][0]["function"]["arguments"] if message.get("tool_calls") else message["content"]
        assert set(json.loads(text)) == {"ok"} and bool(message.get("tool_calls")) == (more is required)


def test_what_ollamas_clients_are_told(server: Gate) -> None:
    shown = call(server, "POST", "/api/show", {"model": "m"}).json
    assert shown["capabilities"] == ["completion", "tools", "thinking"]
