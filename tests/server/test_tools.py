"""Tools and reasoning over HTTP: chat completions in OpenAI's shapes, whole and in events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from pellucid import Model
from pellucid.server.feed import Feed
from pellucid.server.gate import Gate
from tests.generation.replayer import replaying, script
from tests.server.client import call
from tests.server.test_messages import events as message_events
from tests.server.test_responses import events as response_events

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "What is the weather in Paris?"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION: dict[str, Any] = {"name": "get_weather", "description": "", "parameters": SCHEMA}
TOOLS = [{"type": "function", "function": FUNCTION}]
WRITTEN = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
TEXT = f"I look.\n{WRITTEN}\n{WRITTEN}"


@pytest.fixture
def told(model: Model) -> Iterator[None]:
    n = len(model.chat_prompt(MESSAGES, tools=TOOLS).ids)
    with replaying(model, {n: script(model, TEXT)}):
        yield


def test_a_whole_answer(app: Gate, told: None) -> None:
    answer = call(app, "POST", CHAT, {"messages": MESSAGES, "tools": TOOLS, "seed": 1})
    (choice,) = answer.json["choices"]
    assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] == "I look."
    first, second = choice["message"]["tool_calls"]
    assert first["type"] == "function" and first["function"] == {
        "name": "get_weather",
        "arguments": '{"city": "Paris"}',
    }
    assert first["id"].startswith("call_") and len(first["id"]) == 29 and first["id"] != second["id"]
    again = call(app, "POST", CHAT, {"messages": MESSAGES, "tools": TOOLS, "seed": 1}).json
    assert again["choices"] == answer.json["choices"]
    assert answer.json["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


def test_a_stream_has_deltas(app: Gate, told: None) -> None:
    body: dict[str, Any] = {"messages": MESSAGES, "tools": TOOLS, "seed": 1}
    (whole,) = call(app, "POST", CHAT, body).json["choices"]
    events = call(app, "POST", CHAT, {**body, "stream": True}).events
    assert events[-1] == "[DONE]"
    deltas = [event["choices"][0]["delta"] for event in events[:-1]]
    assert "".join(one.get("content") or "" for one in deltas) == "I look."
    calls: dict[int, dict[str, Any]] = {}
    for one in (one for delta in deltas for one in delta.get("tool_calls", ())):
        if "id" in one:
            assert set(one) == {"index", "id", "type", "function"} and one["index"] == len(calls)
            calls[one["index"]] = {**one, "function": dict(one["function"])}
        else:
            assert set(one) == {"index", "function"} and set(one["function"]) == {"arguments"}
            calls[one["index"]]["function"]["arguments"] += one["function"]["arguments"]
    found = [{k: v for k, v in one.items() if k != "index"} for one in calls.values()]
    assert found == whole["message"]["tool_calls"]
    ends = [event["choices"][0]["finish_reason"] for event in events[:-1]]
    assert [one for one in ends if one] == ["tool_calls"]


def test_calls_alone_have_no_content(app: Gate, model: Model) -> None:
    n = len(model.chat_prompt(MESSAGES, tools=TOOLS).ids)
    with replaying(model, {n: script(model, WRITTEN)}):
        (choice,) = call(app, "POST", CHAT, {"messages": MESSAGES, "tools": TOOLS}).json["choices"]
    assert choice["message"]["content"] is None and len(choice["message"]["tool_calls"]) == 1


def test_tools_beside_a_schema(app: Gate) -> None:
    """The answer is calls or a text by the schema."""
    schema: dict[str, Any] = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    schema["additionalProperties"] = False
    form = {"type": "json_schema", "json_schema": {"name": "ok", "schema": schema}}
    body = {"messages": MESSAGES, "tools": TOOLS, "response_format": form, "max_tokens": 60, "temperature": 0}
    for choice in ("auto", "none", "required"):
        options = {**body, "tool_choice": choice, "parallel_tool_calls": False}
        (found,) = call(app, "POST", CHAT, options).json["choices"]
        message = found["message"]
        assert choice != "none" or "tool_calls" not in message or not message["tool_calls"]
        assert choice != "required" or message["tool_calls"]
        if message.get("tool_calls"):
            assert message["content"] is None
        else:
            assert set(json.loads(message["content"])) == {"ok"} and found["finish_reason"] == "stop"


def test_one_at_most(app: Gate, told: None) -> None:
    body = {"messages": MESSAGES, "tools": TOOLS, "parallel_tool_calls": False}
    (choice,) = call(app, "POST", CHAT, body).json["choices"]
    assert len(choice["message"]["tool_calls"]) == 1 and choice["finish_reason"] == "tool_calls"


def test_cut_off_by_length(app: Gate, told: None) -> None:
    body = {"messages": MESSAGES, "tools": TOOLS, "max_tokens": 18}
    (choice,) = call(app, "POST", CHAT, body).json["choices"]
    assert choice["finish_reason"] == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_cut_by_a_stop_string(app: Gate, told: None, stream: bool) -> None:
    """It is no call to make; one that was whole before the stop string is."""
    body: dict[str, Any] = {"messages": MESSAGES, "tools": TOOLS, "seed": 1, "stream": stream}
    for stops, reason, status in (["Par"], "stop", "incomplete"), (["</tool_call>\n<tool"], "tool_calls", "completed"):
        answer = call(app, "POST", CHAT, {**body, "stop": stops})
        found = answer.events[-2]["choices"][0] if stream else answer.json["choices"][0]
        assert found["finish_reason"] == reason
        asked: dict[str, Any] = {"input": MESSAGES, "tools": [{"type": "function", **FUNCTION}], "stop": stops}
        answer = call(app, "POST", "/v1/responses", {**asked, "seed": 1, "stream": stream})
        response = response_events(answer)[-1]["response"] if stream else answer.json
        made = [one for one in response["output"] if one["type"] == "function_call"]
        assert [response["status"], made[-1]["status"]] == [status] * 2
        assert response["incomplete_details"] == ({"reason": "stop"} if reason == "stop" else None)


CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
IMAGE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]


@pytest.mark.parametrize("tools", [TOOLS, None])
@pytest.mark.parametrize(
    ("content", "place"), [(IMAGE, "[0].type"), (5, ""), (True, ""), ([None], "[0]"), (["x", 1], "[0]")]
)
def test_content_that_is_no_text(app: Gate, tools: Any, content: Any, place: str) -> None:
    """It is refused wherever it stands, and never written into the prompt."""
    asks = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    for messages, at in (
        ([{"role": "system", "content": content}, *MESSAGES], 0),
        ([{"role": "system", "content": "x"}, {"role": "developer", "content": content}, *MESSAGES], 1),
        ([{"role": "user", "content": content}], 0),
        ([*MESSAGES, {**asks, "content": content}, {"role": "tool", "tool_call_id": "call_1", "content": "x"}], 1),
        ([*MESSAGES, asks, {"role": "tool", "tool_call_id": "call_1", "content": content}], 2),
    ):
        for path in CHAT, "/apply-template":
            answer = call(app, "POST", path, {"messages": messages, **({"tools": tools} if tools else {})})
            assert (answer.status, answer.error["param"]) == (400, f"messages[{at}].content{place}"), answer.json


def test_functions_of_the_older_interface(app: Gate) -> None:
    older: list[Any] = [{"role": "assistant", "content": "", "function_call": CALL["function"]}]
    older.append({"role": "function", "name": "get_weather", "content": "rain"})
    newer: list[Any] = [{"role": "assistant", "content": None, "tool_calls": [CALL]}]
    newer.append({"role": "tool", "tool_call_id": "call_1", "content": "rain"})
    prompts = [
        call(app, "POST", "/apply-template", {"messages": [*MESSAGES, *said], "tools": TOOLS}).json["prompt"]
        for said in (older, newer)
    ]
    assert prompts[0] == prompts[1] and "rain" in prompts[0]


def test_rounds(app: Gate, model: Model) -> None:
    """Calls and results of earlier turns are in the prompt."""
    asks = {"role": "assistant", "content": None, "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    ]}  # fmt: skip
    talk: list[dict[str, Any]] = [*MESSAGES, asks, {"role": "tool", "tool_call_id": "call_1", "content": "Sun."}]
    body = {"messages": talk, "tools": TOOLS, "max_tokens": 4, "temperature": 0}
    answer = call(app, "POST", CHAT, body)
    prompt = model.chat_prompt(talk, tools=TOOLS)
    assert answer.json["usage"]["prompt_tokens"] == len(prompt.ids)
    assert '{"city": "Oslo"}' in prompt.text and "<tool_response>\nSun.\n</tool_response>" in prompt.text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": [1]}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": TOOLS * 129}, "tools"),
        ({"tools": [*TOOLS, *TOOLS]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        ({"tools": TOOLS, "tool_choice": "all"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "parallel_tool_calls": "yes"}, "parallel_tool_calls"),
        ({"thinking_budget": -1}, "thinking_budget"),
        ({"thinking_budget": 1, "thinking_token_budget": 2}, "thinking_token_budget"),
        ({"reasoning_effort": 3}, "reasoning_effort"),
    ],
)
def test_what_is_refused(app: Gate, fields: dict[str, Any], param: str) -> None:
    answer = call(app, "POST", CHAT, {"messages": MESSAGES, "max_tokens": 1, **fields})
    assert answer.status == 400 and answer.error["param"].partition("[")[0] == param


def test_tools_that_change_nothing(app: Gate, model: Model) -> None:
    body = {"messages": MESSAGES, "max_tokens": 6, "temperature": 0}
    expected = model.chat(MESSAGES, max_tokens=6, temperature=0).text
    cases: list[dict[str, Any]] = [
        {"tools": TOOLS, "tool_choice": "none"},
        {"tools": []},
        {"tools": None},
        {"tool_choice": "auto"},
    ]
    for fields in cases:
        (choice,) = call(app, "POST", CHAT, {**body, **fields}).json["choices"]
        assert choice["message"] == {"role": "assistant", "content": expected, "refusal": None}


# What a token of a call spells may be half a character; text may follow a call, and come in one event with its end.
ARGUMENTS = '{"city": "𝄞 上海 👋🏽"}'
FIRST = WRITTEN.replace('{"city": "Paris"}', ARGUMENTS)
AROUND = f"I 𝄞.\n{FIRST}\nSo I say 👋🏽.\n{WRITTEN}\nEnd."


@pytest.mark.parametrize("together", [1, 2, 3, 5, 8, 13, 1000])
def test_text_after_calls_however_it_is_joined(
    app: Gate, model: Model, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    """A client that lags gets several tokens in an event."""
    take = Feed.take

    async def several(feed: Feed, seconds: float) -> Any:
        found: list[Any] = []
        while len(found) < together:
            got = await take(feed, seconds)
            if got is None:
                return found or None
            found += got
        return found

    monkeypatch.setattr(Feed, "take", several)
    n, answer = len(model.chat_prompt(MESSAGES, tools=TOOLS).ids), script(model, AROUND)
    with replaying(model, dict.fromkeys(range(n - 9, n + 9), answer)):  # the order of keys in a tool is another there
        flat = [{"type": "function", **TOOLS[0]["function"]}]  # type: ignore[dict-item]
        asked = {"input": MESSAGES, "tools": flat, "stream": True, "include": ["message.output_text.logprobs"]}
        last = response_events(call(app, "POST", "/v1/responses", asked))[-1]["response"]
        whole = call(app, "POST", "/v1/responses", {**asked, "stream": False}).json["output"]
        ours = [{"name": "get_weather", "description": "", "input_schema": SCHEMA}]
        asked = {"messages": MESSAGES, "tools": ours, "stream": True, "max_tokens": 200}
        blocks = message_events(call(app, "POST", "/v1/messages", asked))
        content = call(app, "POST", "/v1/messages", {**asked, "stream": False}).json["content"]
    assert [block["type"] for block in content] == ["text", "tool_use", "text", "tool_use", "text"]
    assert [block["text"] for block in content[::2]] == ["I 𝄞.", "So I say 👋🏽.", "End."]
    said = "I 𝄞.So I say 👋🏽.End."
    items = last["output"]
    assert [one["type"] for one in items] == [one["type"] for one in whole]
    tokens = [[each["token"] for one in given if one["type"] == "message" for each in one["content"][0]["logprobs"]]
              for given in (items, whole)]  # fmt: skip
    assert tokens[0] == tokens[1]
    assert [one["arguments"] for one in items if one["type"] == "function_call"] == [ARGUMENTS, '{"city": "Paris"}']
    texts = [one["content"][0]["text"] for one in items if one["type"] == "message"]
    assert "".join(texts) == said and all(texts) and last["status"] == "completed"
    inputs: dict[int, str] = {}
    text = ""
    for name, value in blocks:
        if name == "content_block_start" and value["content_block"]["type"] == "tool_use":
            inputs[value["index"]] = ""
        if name == "content_block_delta" and value["delta"]["type"] == "input_json_delta":
            inputs[value["index"]] += value["delta"]["partial_json"]  # of a block of this type
        if name == "content_block_delta" and value["delta"]["type"] == "text_delta":
            text += value["delta"]["text"]
            assert value["index"] not in inputs
    assert list(inputs.values()) == [ARGUMENTS, '{"city": "Paris"}'] and text == said


@pytest.mark.parametrize("parameters", [None, {}, {"type": "object", "properties": {}, "required": []}])
def test_a_function_without_parameters_has_no_arguments(app: Gate, parameters: Any) -> None:
    function = {"name": "refresh", **({} if parameters is None else {"parameters": parameters})}
    body = {"messages": MESSAGES, "tools": [{"type": "function", "function": function}], "tool_choice": "required"}
    answer = call(app, "POST", CHAT, {**body, "parallel_tool_calls": False, "temperature": 0, "max_tokens": 60})
    (choice,) = answer.json["choices"]
    (made,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls" and json.loads(made["function"]["arguments"]) == {}
