"""OpenAI's responses: the library's answers, in its objects and events, what is kept, and what is refused."""

from __future__ import annotations

import json
import re
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from pellucid import Model
from pellucid.openai.fields import Call
from pellucid.server import responses
from pellucid.server.access import Key
from pellucid.server.app import make_app
from pellucid.server.gate import Gate
from pellucid.server.items import messages_of
from pellucid.server.responses import Kept, response_call
from pellucid.server.service import Service
from pellucid.server.settings import Settings
from pellucid.server.shapes import dumps
from tests.server.client import Answer, ask, call
from tests.server.conftest import NAME

PATH = "/v1/responses"
TEXT = "Name three colours."
MESSAGES: list[Any] = [{"role": "user", "content": TEXT}]
BODY: dict[str, Any] = {"model": NAME, "input": TEXT, "max_output_tokens": 12, "temperature": 0}


def events(answer: Answer) -> list[Any]:
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    found = []
    for event in answer.body.decode().split("\n\n")[:-1]:
        name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    assert [one["sequence_number"] for one in found] == list(range(len(found)))
    return found


def text_of(response: Any) -> str:
    return "".join(part["text"] for item in response["output"] for part in item["content"])


def read(**fields: Any) -> Call:
    return response_call({**BODY, **fields}, Settings())


def test_a_response_is_the_librarys(app: Gate, model: Model) -> None:
    system = {"role": "system", "content": "Be brief."}
    mine = model.chat([system, *MESSAGES], max_tokens=12, temperature=0)
    found = call(app, "POST", PATH, {**BODY, "instructions": "Be brief.", "metadata": {"a": "b"}}).json
    (item,) = found["output"]
    assert (item["type"], item["role"], item["status"]) == ("message", "assistant", "incomplete")
    assert item["content"] == [{"type": "output_text", "text": mine.text, "annotations": [], "logprobs": []}]
    assert (found["object"], found["status"]) == ("response", "incomplete") and found["id"].startswith("resp_")
    assert found["incomplete_details"] == {"reason": "max_output_tokens"} and found["error"] is None
    assert (found["instructions"], found["metadata"]) == ("Be brief.", {"a": "b"})
    assert (found["store"], found["previous_response_id"], found["tools"]) == (False, None, [])
    used = found["usage"]
    assert (used["input_tokens"], used["output_tokens"]) == (mine.prompt_tokens, 12)
    assert used["total_tokens"] == mine.prompt_tokens + 12 and used["output_tokens_details"]["reasoning_tokens"] == 0


def test_events_are_the_whole(app: Gate) -> None:
    body = {**BODY, "stop": ["zzz"]}
    whole = call(app, "POST", PATH, body).json
    found = events(call(app, "POST", PATH, {**body, "stream": True}))
    kinds = [one["type"].removeprefix("response.") for one in found]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "incomplete"]
    assert set(kinds[4:-4]) == {"output_text.delta"}
    assert found[0]["response"]["status"] == "in_progress" and found[0]["response"]["output"] == []
    text = "".join(one["delta"] for one in found[4:-4])
    last = found[-1]["response"]
    assert text == text_of(whole) == text_of(last) == found[-4]["text"] == found[-3]["part"]["text"]
    assert last["output"][0] == found[-2]["item"] and last["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    ids = {one["item_id"] for one in found if "item_id" in one} | {found[2]["item"]["id"], last["output"][0]["id"]}
    assert len(ids) == 1 and len({one["response"]["id"] for one in found if "response" in one}) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_an_end_by_itself(app: Gate, stream: bool) -> None:
    text = text_of(call(app, "POST", PATH, BODY).json)
    answer = call(app, "POST", PATH, {**BODY, "stop": [text[5:8]], "stream": stream})
    found = events(answer)[-1]["response"] if stream else answer.json
    assert (found["status"], found["incomplete_details"]) == ("completed", None) and found["completed_at"]
    assert text_of(found) == text[: text.index(text[5:8])]


def test_nothing_said(app: Gate, model: Model) -> None:
    assert model.tokenizer is not None
    body = {**BODY, "logit_bias": {str(model.tokenizer.eos): 100}, "stream": True}
    found = events(call(app, "POST", PATH, body))
    assert found[-1]["type"] == "response.completed" and text_of(found[-1]["response"]) == ""


def test_log_probabilities(app: Gate, model: Model) -> None:
    mine = model.chat(MESSAGES, max_tokens=12, temperature=0, logprobs=2).logprobs
    body = {**BODY, "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    found = call(app, "POST", PATH, body).json["output"][0]["content"][0]["logprobs"]
    assert [(t["token"], t["logprob"], len(t["top_logprobs"])) for t in found] == [
        (t.piece, t.logprob, 2) for t in mine
    ]
    streamed = events(call(app, "POST", PATH, {**body, "stream": True}))
    assert [t for e in streamed if e["type"].endswith("text.delta") for t in e["logprobs"]] == found


def test_schemas(app: Gate) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    form = {"type": "json_schema", "name": "x", "strict": True, "schema": {**schema, "additionalProperties": False}}
    body = {**BODY, "max_output_tokens": 60, "text": {"format": form}}
    found = call(app, "POST", PATH, body).json
    assert set(json.loads(text_of(found))) == {"a"} and found["status"] == "completed"
    assert found["text"]["format"] == form
    assert len(text_of(call(app, "POST", PATH, {**BODY, "guided_regex": "[0-9]{3}"}).json)) == 3


def test_items_become_messages() -> None:
    given = [
        {"role": "developer", "content": "Be brief."},
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}],
        },
        {"type": "reasoning", "id": "rs_0", "summary": [], "content": [{"type": "reasoning_text", "text": "oh"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
        {
            "type": "function_call",
            "call_id": "call_1",
            "name": "get",
            "arguments": "{}",
            "id": "fc_1",
            "status": "completed",
        },
        {"type": "function_call", "call_id": "call_2", "name": "get", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "wet"},
        {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "dry"}]},
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_1",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": "So ", "annotations": []},
                {"type": "refusal", "refusal": "no."},
            ],
        },
        {"role": "user", "content": "Why?"},
    ]
    assert read(input=given).messages == [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "a\nb"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "oh\nhm",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "get", "arguments": "{}"}},
                {"id": "call_2", "type": "function", "function": {"name": "get", "arguments": '{"a": 1}'}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "wet"},
        {"role": "tool", "tool_call_id": "call_2", "content": "dry"},
        {"role": "assistant", "content": "So no."},
        {"role": "user", "content": "Why?"},
    ]


@pytest.mark.parametrize("kind", ["message", "reasoning"])
def test_many_items_of_one_turn(kind: str) -> None:
    """They are joined once, at the end: joined one by one, as many as a request may have would take 20 s."""
    text = "x" * 4000
    item: dict[str, Any] = {"role": "assistant", "content": text}
    if kind == "reasoning":
        item = {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}
    given = [item] * 1000
    tracemalloc.start()
    try:
        ((made,), places) = messages_of(given, len(given))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    said = made["content"] if kind == "message" else made["reasoning_content"]
    assert said == ("" if kind == "message" else "\n").join([text] * len(given)) and places == ["input[0]"]
    assert peak < 1.5 * len(said)  # else there were two of them at a time


def test_empty_reasoning_before_other() -> None:
    parts = [[""], ["a", "", "b"], ["c"]]
    given = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": text} for text in texts]} for texts in parts
    ]
    assert messages_of(given, 9)[0] == [{"role": "assistant", "content": "", "reasoning_content": "a\n\nb\nc"}]


# ---- what is kept -------------------------------------------------------------------------------------------------


@pytest.fixture
def keeping(model: Model) -> Iterator[Gate]:
    keys = (Key.of("sk-a", "alice"), Key.of("sk-b", "bob"))
    service = Service(Settings(names=("m",), responses=2, keys=keys), model)
    yield make_app(service)
    service.close()


ALICE, BOB = {"authorization": "Bearer sk-a"}, {"authorization": "Bearer sk-b"}


def test_instructions_beside_what_a_developer_says(app: Gate, model: Model) -> None:
    """Both are in the prompt, as in a chat."""
    for role in "developer", "system":
        said = [{"role": role, "content": "Answer in French."}, *MESSAGES]
        answer = call(app, "POST", PATH, {"instructions": "Be brief.", "input": said, "max_output_tokens": 1}).json
        chat = model.chat_prompt([{"role": "system", "content": "Be brief."}, *said])
        assert answer["usage"]["input_tokens"] == len(chat.ids)
        assert "Be brief." in chat.text and "Answer in French." in chat.text


@pytest.mark.parametrize("stream", [False, True])
def test_going_on(keeping: Gate, model: Model, stream: bool) -> None:
    body = {"input": TEXT, "instructions": "Be brief.", "max_output_tokens": 8, "temperature": 0}
    answer = call(keeping, "POST", PATH, {**body, "stream": stream}, ALICE)
    first = events(answer)[-1]["response"] if stream else answer.json
    assert first["store"] is True
    more = {"input": "Why?", "previous_response_id": first["id"], "max_output_tokens": 8, "temperature": 0}
    second = call(keeping, "POST", PATH, more, ALICE).json
    said = [*MESSAGES, {"role": "assistant", "content": text_of(first)}, {"role": "user", "content": "Why?"}]
    assert text_of(second) == model.chat(said, max_tokens=8, temperature=0).text
    assert second["previous_response_id"] == first["id"]
    third = call(keeping, "POST", PATH, {**more, "previous_response_id": second["id"], "input": "Go on."}, ALICE).json
    said += [{"role": "assistant", "content": text_of(second)}, {"role": "user", "content": "Go on."}]
    assert text_of(third) == model.chat(said, max_tokens=8, temperature=0).text
    assert call(keeping, "GET", f"{PATH}/{third['id']}", headers=ALICE).json == third
    streamed = call(keeping, "GET", f"{PATH}/{third['id']}?stream=true", headers=ALICE)
    assert (streamed.status, streamed.error["param"]) == (400, "stream")
    gone = call(keeping, "GET", f"{PATH}/{first['id']}", headers=ALICE)  # two are kept
    assert (gone.status, gone.error["code"]) == (404, "not_found")
    other = call(keeping, "POST", PATH, {**more, "previous_response_id": third["id"]}, BOB)
    assert (other.status, other.error["code"]) == (404, "previous_response_not_found")
    assert call(keeping, "GET", f"{PATH}/{third['id']}", headers=BOB).status == 404
    assert call(keeping, "DELETE", f"{PATH}/{third['id']}", headers=ALICE).json["deleted"] is True
    assert call(keeping, "GET", f"{PATH}/{third['id']}", headers=ALICE).status == 404


def test_a_kept_answer_is_not_written_in_the_event_loop(keeping: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    found = call(keeping, "POST", PATH, {"input": TEXT, "max_output_tokens": 4}, ALICE).json
    threads: list[tuple[threading.Thread, bool]] = []

    def noted(value: Any, apart: bool = False) -> bytes:
        threads.append((threading.current_thread(), apart))
        return dumps(value, apart)

    monkeypatch.setattr(responses, "dumps", noted)
    assert call(keeping, "GET", f"{PATH}/{found['id']}", headers=ALICE).json == found
    ((thread, apart),) = threads
    assert thread is not threading.current_thread() and apart


@pytest.mark.parametrize("stream", [False, True])
def test_it_is_kept_before_its_end_is_sent(keeping: Gate, stream: bool) -> None:
    """Its client may go on as soon as that comes."""
    found: list[int] = []

    class Quick:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def sent(message: Any) -> None:
                text = message.get("body", b"").decode()
                if '"completed_at"' in text:
                    (id,) = set(re.findall(r'"id":"(resp_\w+)"', text))
                    found.append((await ask(keeping, "GET", f"{PATH}/{id}", headers=ALICE)).status)
                await send(message)

            await keeping(scope, receive, sent)

    body = {"input": TEXT, "max_output_tokens": 2, "stream": stream}
    quick: Any = Quick()
    assert call(quick, "POST", PATH, body, ALICE).status == 200
    assert found == [200]


def test_what_is_not_to_be_kept(keeping: Gate) -> None:
    found = call(keeping, "POST", PATH, {"input": TEXT, "max_output_tokens": 1, "store": False}, ALICE).json
    assert found["store"] is False
    assert call(keeping, "GET", f"{PATH}/{found['id']}", headers=ALICE).status == 404


def test_kept_are_the_last_used() -> None:
    kept = Kept(2)
    for name in "ab":
        kept.put("k", {"id": name}, [name])
    assert kept.get("k", "a") == (["a"], {"id": "a"})
    kept.put("k", {"id": "c"}, [])
    assert kept.get("k", "b") is None and kept.get("k", "a") and not kept.remove("other", "a")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 3}, "max_tokens"),
        ({"max_completion_tokens": 3}, "max_completion_tokens"),
        ({"n_predict": 3}, "n_predict"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"messages": MESSAGES}, "messages"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"input": [{"role": "user", "content": "a"}, {"role": "user", "content": "\ud83d"}]}, "input[1].content"),
        ({"input": "\ud83d"}, "input"),
        ({"instructions": "\ud83d"}, "instructions"),
        ({"chat_template_kwargs": {"a": "\ud83d"}}, "chat_template_kwargs.a"),
        (
            {"tools": [{"type": "function", "name": "f", "parameters": {"title": "\ud83d"}}]},
            "tools[0].parameters.title",
        ),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"input": [3]}, "input[0]"),
        ({"input": [{"role": "tool", "content": "a"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": 3}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
        ({"input": [{"type": "function_call", "name": "a"}]}, "input[0].arguments"),
        ({"input": [{"type": "function_call_output", "output": "a"}]}, "input[0].call_id"),
        ({"input": [{"role": "user", "content": "a"}] * 5000}, "input"),
        ({"instructions": 3}, "instructions"),
        ({"max_output_tokens": -1}, "max_output_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "x"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": 3}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"text": 3}, "text"),
        ({"text": {"format": 3}}, "text.format"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_schema", "schema": {"not": {}}}}}, "text.format.schema.not"),
        ({"text": {"format": {"type": "json_schema", "schema": {}, "strict": 3}}}, "text.format.strict"),
        ({"reasoning": 3}, "reasoning"),
        ({"metadata": {"a": 3}}, "metadata.a"),
        ({"metadata": 3}, "metadata"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"include": 3}, "include"),
        ({"model": 3}, "model"),
        ({"stream": 3}, "stream"),
        ({"store": 3}, "store"),
    ],
)
def test_what_is_refused(app: Gate, fields: Any, param: str) -> None:
    answer = call(app, "POST", PATH, {**BODY, **fields})
    assert answer.status == 400, answer.body
    assert answer.error["param"] == param, answer.error


def test_a_full_context(app: Gate) -> None:
    for stream in (False, True):
        answer = call(app, "POST", PATH, {**BODY, "input": "word " * 3000, "stream": stream})
        assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")


def test_ignored_fields_are_named(app: Gate) -> None:
    fields = {"max_output_tokens": 1, "text": {"verbosity": "low"}, "nonsense": 1, "prompt_cache_retention": "24h"}
    fields |= {"reasoning": {"summary": "auto"}}
    answer = call(app, "POST", PATH, {**BODY, **fields})
    named = "nonsense, prompt_cache_retention, reasoning.summary, text.verbosity"
    assert (answer.status, answer.headers["pellucid-ignored"]) == (200, named)
