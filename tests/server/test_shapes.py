"""Answers with reasoning and calls in the forms of Anthropic, of OpenAI's responses and of Ollama: however a stream is
cut, its events say what the whole answer says."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.openai.fields import Call
from pellucid.openai.parts import Part, merged
from pellucid.results import Piece, ToolCallDelta
from pellucid.server import shapes as shapes_of
from pellucid.server.messages import MessageShape, message_call
from pellucid.server.ollama import OllamaChat, chat
from pellucid.server.record import Record
from pellucid.server.responses import ResponseShape, response_call
from pellucid.server.settings import Settings
from pellucid.server.shapes import Shape, dumps

ASKED = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 9}
USED = {
    "prompt_tokens": 5,
    "completion_tokens": 9,
    "total_tokens": 14,
    "prompt_tokens_details": {"cached_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
ARGUMENTS = ('{"city": "東京", "n": [1, 2]}', "{}", '{"a": {"b": "\\u00e9"}}')
ANSWERS = [
    ("", "Hello there.", 0, "eos"),
    ("Let me think.", "Hello there.", 0, "stop"),
    ("Let me think.", "", 1, "eos"),
    ("", "I look.", 2, "eos"),
    ("Hm.", "I look.", 3, "eos"),
    ("", "", 1, "length"),
    ("Hm, and", "", 0, "length"),
    ("", "", 0, "eos"),
]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES, st.integers(1, 3))
def test_json_in_parts_is_the_same(value: Any, depth: int) -> None:
    many = [value] * 150
    for _ in range(depth):
        many = [{"a": many, "b": value}, []]
    for one in (value, many):
        assert dumps(one, apart=True) == dumps(one)
    with pytest.raises(ValueError):
        dumps({"a": [[[[math.nan]]]]}, apart=True)


def test_json_in_parts_is_written_a_few_items_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As no thread runs while json writes one."""
    sizes: list[int] = []
    whole = shapes_of.compact

    def noted(value: Any) -> str:
        found = whole(value)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(shapes_of, "compact", noted)
    logprobs = [{"token": "a", "logprob": -1.5, "top": [["b", -2.5]] * 20}] * 5000
    answer: dict[str, Any] = {"choices": [{"index": i, "logprobs": {"content": logprobs}} for i in range(3)]}
    assert len(dumps(answer, apart=True)) > 3_000_000 and max(sizes) < 20_000
    sizes.clear()
    answer = {"data": [{"index": i, "embedding": [0.1234567890123456] * 4096} for i in range(100)]}
    assert len(dumps(answer, apart=True)) > 3_000_000 and max(sizes) < 20_000
    sizes.clear()
    answer = {"tokens": [{"id": 1, "piece": "a"}] * 150_000, "token_strs": ["a"] * 150_000}
    assert len(dumps(answer, apart=True)) > 3_000_000 and max(sizes) < 20_000
    assert len(sizes) < 10_000  # each of them takes time


def shapes() -> Iterator[tuple[type[Shape], Call]]:
    settings = Settings()
    yield MessageShape, message_call(dict(ASKED), settings)
    yield ResponseShape, response_call({"input": "a"}, settings)
    yield OllamaChat, chat({"messages": ASKED["messages"]}, settings)


def made(kind: type[Shape], call: Call) -> Shape:
    return kind(None, Record(id="0" * 24, model="m"), "fp", call)  # type: ignore[arg-type]


def deltas(calls: int) -> list[ToolCallDelta]:
    return [ToolCallDelta(i, f"call_{i}", f"f{i}", ARGUMENTS[i]) for i in range(calls)]


def pieces(reasoning: str, text: str, calls: int, finish: Any, r: random.Random) -> Iterator[Part]:
    """The answer in parts that are cut anywhere."""
    for name, whole in (("reasoning", reasoning), ("text", text)):
        while whole:
            n = r.randint(1, len(whole))
            yield Part(text=whole[:n]) if name == "text" else Part(reasoning=whole[:n])
            whole = whole[n:]
    for one in deltas(calls):
        rest, first = one.arguments, r.choice((True, False))
        n = r.randint(1, len(rest)) if first else 0
        yield Part(calls=[one._replace(arguments=rest[:n])])
        rest = rest[n:]
        while rest:
            n = r.randint(1, len(rest))
            yield Part(calls=[ToolCallDelta(one.index, None, None, rest[:n])])
            rest = rest[n:]
    yield Part(finish=finish)


def joined(parts: list[Part], r: random.Random) -> list[Part]:
    """Some neighbours together, as where the client lags."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        later = last is not None and (last.calls and (part.text or part.reasoning) or last.text and part.reasoning)
        if last is None or later or r.random() < 0.5:
            found.append(part)
            continue
        last.reasoning += part.reasoning
        last.text += part.text
        last.calls = last.calls + part.calls
        last.finish = part.finish
    return found


def events(data: bytes) -> list[Any]:
    return [json.loads(line[6:]) for line in data.decode().split("\n") if line.startswith("data: ")]


def folded(kind: type[Shape], data: bytes) -> Any:
    if kind is MessageShape:
        return folded_message(events(data))
    if kind is ResponseShape:
        return folded_response(events(data))
    lines = [json.loads(line) for line in data.decode().splitlines()]
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    for line in lines:
        given = line["message"]
        message["content"] += given["content"]
        if "thinking" in given:
            message["thinking"] = message.get("thinking", "") + given["thinking"]
        if "tool_calls" in given:
            message["tool_calls"] = message.get("tool_calls", []) + given["tool_calls"]
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    return {"message": message, "done_reason": lines[-1]["done_reason"]}


def folded_message(found: list[Any]) -> Any:
    message = found[0]["message"]
    inputs: dict[int, str] = {}
    going: int | None = None
    for event in found[1:]:
        kind = event["type"]
        if kind == "content_block_start":
            assert going is None and event["index"] == len(message["content"])
            going = event["index"]
            message["content"].append(event["content_block"])
        elif kind == "content_block_delta":
            assert event["index"] == going
            delta, block = event["delta"], message["content"][event["index"]]
            if delta["type"] == "input_json_delta":
                inputs[event["index"]] = inputs.get(event["index"], "") + delta["partial_json"]
            else:
                name = delta["type"].removesuffix("_delta")
                block[name] += delta[name]
        elif kind == "content_block_stop":
            assert event["index"] == going
            going = None
        elif kind == "message_delta":
            message |= event["delta"]
            message["usage"] = event["usage"]
    assert going is None and found[-1]["type"] == "message_stop"
    for index, text in inputs.items():
        message["content"][index]["input"] = json.loads(text)
    return message


def folded_response(found: list[Any]) -> Any:
    """The response at its end, whose items are those that the events built up."""
    items: list[Any] = []
    for number, event in enumerate(found):
        assert event["sequence_number"] == number
        kind = event["type"].removeprefix("response.")
        at = event.get("output_index")
        if kind == "output_item.added":
            assert at == len(items)
            items.append(event["item"])
        elif kind == "content_part.added":
            items[at]["content"].append(event["part"])
        elif kind in ("output_text.delta", "reasoning_text.delta"):
            items[at]["content"][event["content_index"]]["text"] += event["delta"]
        elif kind == "function_call_arguments.delta":
            items[at]["arguments"] += event["delta"]
        elif kind in ("output_text.done", "reasoning_text.done"):
            assert items[at]["content"][event["content_index"]]["text"] == event["text"]
        elif kind == "function_call_arguments.done":
            assert items[at]["arguments"] == event["arguments"]
        elif kind == "output_item.done":
            items[at]["status"] = event["item"]["status"]
            assert items[at] == event["item"]
    last = found[-1]
    assert last["type"] == f"response.{last['response']['status']}" and last["response"]["output"] == items
    return last["response"]


def plain(kind: type[Shape], answer: Any) -> Any:
    """Without times."""
    if kind is MessageShape:
        return answer
    if kind is ResponseShape:
        return {name: value for name, value in answer.items() if not name.endswith("_at")}
    return {name: answer[name] for name in ("message", "done_reason")}


@pytest.mark.parametrize(("reasoning", "text", "calls", "finish"), ANSWERS)
@pytest.mark.parametrize("number", range(3))
def test_streams_are_the_whole(number: int, reasoning: str, text: str, calls: int, finish: Any) -> None:
    kind, call = list(shapes())[number]
    whole = Part(text=text, reasoning=reasoning, calls=deltas(calls), finish=finish)
    expected = plain(kind, made(kind, call).answer([whole], USED))
    for seed in range(100):
        r = random.Random(seed)
        shape = made(kind, call)
        data = shape.begin(1, [], 5)
        for part in joined(list(pieces(reasoning, text, calls, finish, r)), r):
            data += shape.more(0, part)
        data += shape.end(USED)
        assert plain(kind, folded(kind, data)) == expected, seed


# "r", "t": more reasoning, more text; "c": a call, which later pieces go on with.
ORDERS = ["tct", "ctc", "rtct", "crt", "trtc", "cctrcct", "rcrcrt", "tccct"]


def in_order(order: str, r: random.Random) -> list[Piece]:
    found: list[Piece] = []
    calls = 0
    for at, one in enumerate(order):
        if one == "c":
            rest = ARGUMENTS[calls % 3]
            n = r.randint(0, len(rest))
            parts = [ToolCallDelta(calls, f"call_{calls}", "f", rest[:n]), ToolCallDelta(calls, None, None, rest[n:])]
            found += [Piece("", [], [], tool_calls=(part,)) for part in parts]
            calls += 1
            continue
        said = f"{one} of {at}."
        n = r.randint(1, len(said) - 1)
        found += [Piece(*((s, [], []) if one == "t" else ("", [], [])), reasoning=s if one == "r" else "")
                  for s in (said[:n], said[n:])]  # fmt: skip
    return [*found, Piece("", [], [], finish_reason="eos", prompt_tokens=5)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("number", range(2))
def test_what_came_stays_in_its_order(number: int, order: str) -> None:
    kind, call = list(shapes())[number]
    for seed in range(50):
        r = random.Random(seed)
        given = [(0, piece) for piece in in_order(order, r)]
        whole = plain(kind, made(kind, call).answer([merged(given)[0]], USED))
        names = {"thinking": "r", "reasoning": "r", "text": "t", "message": "t", "tool_use": "c", "function_call": "c"}
        items = whole["content" if kind is MessageShape else "output"]
        assert "".join(names[item["type"]] for item in items) == order
        shape = made(kind, call)
        data = shape.begin(1, [], 5)
        while given:
            n = r.randint(1, len(given))
            data += shape.more(0, merged(given[:n])[0])
            given = given[n:]
        assert plain(kind, folded(kind, data + shape.end(USED))) == whole, seed


def test_what_the_whole_says() -> None:
    part = Part(text="I look.", reasoning="Hm.", calls=deltas(2), finish="eos")
    message, response, line = (made(kind, call).answer([part], USED) for kind, call in shapes())
    assert message["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "call_0", "name": "f0", "input": {"city": "東京", "n": [1, 2]}},
        {"type": "tool_use", "id": "call_1", "name": "f1", "input": {}},
    ]
    assert message["stop_reason"] == "tool_use" and message["usage"]["cache_read_input_tokens"] == 2
    assert [item["type"] for item in response["output"]] == ["reasoning", "message", "function_call", "function_call"]
    assert response["output"][2] == {
        **response["output"][2],
        "call_id": "call_0",
        "name": "f0",
        "arguments": ARGUMENTS[0],
    }
    assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": 3} and response["status"] == "completed"
    assert line["message"]["thinking"] == "Hm." and line["done_reason"] == "stop"
    assert [call["function"]["arguments"] for call in line["message"]["tool_calls"]] == [
        json.loads(a) for a in ARGUMENTS[:2]
    ]


def test_arguments_that_were_cut_off() -> None:
    part = Part(calls=[ToolCallDelta(0, "call_0", "f", '{"a": "b')], finish="length")
    message, response, line = (made(kind, call).answer([part], USED) for kind, call in shapes())
    assert message["content"][0]["input"] == {"INVALID_JSON": '{"a": "b'} and message["stop_reason"] == "max_tokens"
    assert (response["output"][0]["arguments"], response["status"]) == ('{"a": "b', "incomplete")
    assert line["message"]["tool_calls"][0]["function"]["arguments"] == {"INVALID_JSON": '{"a": "b'}


def test_no_reader_finds_another_line_in_an_answer() -> None:
    """Clients cut what they receive into lines as Unicode has them."""
    value = {"a": "\u2028b\u2029c\x85d\x0b\x0c\x1c"}
    found = dumps(value)
    assert len(found.decode().splitlines()) == 1 and json.loads(found) == value
