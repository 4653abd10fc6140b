"""Conversations with tools: every published template gets tools, calls and results in a form that it writes."""

from __future__ import annotations

import json
import tracemalloc
from functools import cache
from typing import Any

import pytest

from pellucid.errors import ChatTemplateError
from pellucid.text import Vocabulary
from pellucid.text.bpe import BpeTokenizer
from pellucid.text.chat import Chat, ChatTemplate
from pellucid.text.dialects import find
from pellucid.text.dialects.messages import Writer
from tests.text.conversations import TOKENS, TOOLS, templates

SECOND: Any = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
ARGUMENTS = '{"place":  "Zürich <ZH>", "days": 3}'


def call(name: str, arguments: Any, id: str = "call_abcdefghijklmnopqrstuvwx") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def result(text: str, id: str = "call_abcdefghijklmnopqrstuvwx") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": text}


@cache
def template(name: str) -> tuple[ChatTemplate, Writer]:
    source = templates()[name]
    made = ChatTemplate(source, TOKENS)
    return made, Writer(made, find(source), ())


def rendered(name: str, messages: list[dict[str, Any]], tools: Any = None) -> str:
    made, writer = template(name)
    prepared = writer.prepare(messages, tools)
    text, back = made.render(prepared.messages, tools=prepared.tools)
    return text.translate(back)


# llava-next takes no text that is not in parts.
EVERY = [name for name in templates() if name != "llava-next"]


@pytest.mark.parametrize("name", EVERY)
def test_tools_are_in_the_prompt(name: str) -> None:
    for before in ([], [{"role": "system", "content": "Be brief."}]):
        try:
            plain = rendered(name, [*before, user("Rain?")], None)
        except Exception:
            assert name in ("falcon", "gemma2") or before == [] or name in ("command-r-plus-tools", "hermes2-pro-tools")
            continue
        text = rendered(name, [*before, user("Rain?")], [*TOOLS, SECOND])
        assert "get_weather" in text and "get_time" in text and "A town's name" in text
        assert "Rain?" in text and ("Be brief." in text) == ("Be brief." in plain)


@pytest.mark.parametrize("name", EVERY)
def test_a_round_is_in_the_prompt(name: str) -> None:
    """A call, its result and what follows, in this order."""
    asks = {"role": "assistant", "content": None, "tool_calls": [call("get_weather", ARGUMENTS)]}
    talk = [user("Rain?"), asks, result("sun: 7"), {"role": "assistant", "content": "None."}, user("Sure?")]
    text = rendered(name, talk, [*TOOLS, SECOND])
    if name not in ("glm4-0414", "chatglm2"):
        after = text[text.rindex("Rain?") :] if name not in ("mistral-nemo", "mistral-v0.3") else text
        assert "get_weather" in after and "Zürich <ZH>" in after
        places = [after.index("Zürich"), after.index("sun: 7"), after.index("None."), after.index("Sure?")]
        assert places == sorted(places)


@pytest.mark.parametrize("name", EVERY)
def test_two_calls_at_once(name: str) -> None:
    calls = [call("get_weather", ARGUMENTS, "call_1"), call("get_time", "{}", "call_2")]
    asks = {"role": "assistant", "content": "", "tool_calls": calls}
    text = rendered(
        name, [user("Rain?"), asks, result("sun: 7", "call_1"), result("12:30", "call_2")], [*TOOLS, SECOND]
    )
    after = text[text.rindex("Rain?") :]
    if name not in ("glm4-0414", "chatglm2"):
        assert "get_time" in after and after.index("sun: 7") < after.index("12:30")


PARAMETERS: dict[str, Any] = {
    "text": {"type": "string"},
    "table": {"type": "object"},
    "numbers": {"type": "object", "additionalProperties": {"type": "number"}},
    "tables": {"type": "object", "additionalProperties": {"type": "object", "additionalProperties": False}},
    "closed": {"type": "object", "properties": {"a": {}}, "additionalProperties": False},
    "maybe": {"type": ["string", "null"]},
    "maybe_table": {"anyOf": [{"type": "object"}, {"type": "null"}]},
    "either": {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]},
    "several": {"type": ["object", "string"]},
    "referred": {"$ref": "#/$defs/count"},
    "listed": {"type": "array"},
    "nothing": {"type": "null"},
    "anything": {},
    "wrong": {"type": "file"},
    "one_of": {"enum": ["a", "b"], "description": "A letter."},
}


def schema_tool(properties: dict[str, Any], **more: Any) -> Any:
    schema = {"type": "object", "properties": properties, "$defs": {"count": {"type": "integer"}}, **more}
    return {"type": "function", "function": {"name": "get_weather", "parameters": schema}}


@pytest.mark.parametrize("name", EVERY)
def test_parameters_of_every_type_are_in_the_prompt(name: str) -> None:
    for parameter, schema in PARAMETERS.items():
        assert "get_weather" in rendered(name, [user("Rain?")], [schema_tool({parameter: schema})]), parameter


def test_types_in_the_form_of_python() -> None:
    """Of a tool that the template cannot write as it is, each parameter has one type or several that it knows."""
    text = rendered("command-r-plus-tools", [user("Rain?")], [schema_tool(PARAMETERS, required=list(PARAMETERS))])
    signature = text[text.index("get_weather(") + len("get_weather(") :].split(") ->")[0]
    assert signature == (
        "text: str, table: Dict[str, Any], numbers: Dict[str, float], tables: Dict[str, Dict[str, Any]], "
        "closed: Dict[str, Any], maybe: str, maybe_table: Dict[str, Any], either: Union[int,str], several: Any, "
        "referred: int, listed: List[Union[]], nothing: Any, anything: Any, wrong: Any, one_of: str"
    )
    assert "one_of (str): A letter." in text and "text (str): \n" in text
    deep: dict[str, Any] = {"type": "integer"}
    for _ in range(5000):
        deep = {"type": "object", "additionalProperties": deep}
    text = rendered("command-r-plus-tools", [user("Rain?")], [schema_tool({"deep": deep})])
    assert "deep: Optional[Dict[str, Dict[str, " in text and "Any]" in text
    kept = json.dumps(schema_tool({"a": {"type": "string"}})["function"]["parameters"])
    assert kept in rendered("hermes2-pro-tools", [user("Rain?")], [schema_tool({"a": {"type": "string"}})])


VERBATIM = "baichuan-m2 bielik3 granite4.0 hermes2-pro-tools nemotron-nano2 qwen3 smollm2 gemma3"


@pytest.mark.parametrize("name", VERBATIM.split())
def test_arguments_are_as_the_model_wrote_them(name: str) -> None:
    asks = {"role": "assistant", "content": "", "tool_calls": [call("get_weather", ARGUMENTS)]}
    assert ARGUMENTS in rendered(name, [user("Rain?"), asks, result("sun")], TOOLS)


@pytest.mark.parametrize("name", ["llama3.1", "qwen2.5", "kimi-k2", "glm4.6", "mistral-nemo", "gpt-oss"])
def test_arguments_are_an_object_where_the_template_wants_one(name: str) -> None:
    for arguments in (ARGUMENTS, json.loads(ARGUMENTS)):
        asks = {"role": "assistant", "content": "", "tool_calls": [call("get_weather", arguments)]}
        text = rendered(name, [user("Rain?"), asks, result("sun")], TOOLS)
        assert '\\"place\\"' not in text and "Zürich <ZH>" in text


def test_ids_are_those_of_the_family() -> None:
    talk = [user("Rain?"), {"role": "assistant", "tool_calls": [call("f", "{}"), call("g", "{}", "other")]}]
    talk += [result("a"), result("b", "other")]
    text = rendered("mistral-small3.2", talk, TOOLS)
    first, second = (text.split("[CALL_ID]")[i].split("[ARGS]")[0] for i in (1, 2))
    assert len(first) == len(second) == 9 and first != second
    assert text.index(f"[TOOL_RESULTS]{first}[TOOL_CONTENT]a") < text.index(f"[TOOL_RESULTS]{second}[TOOL_CONTENT]b")
    kept = [
        user("Rain?"),
        {"role": "assistant", "tool_calls": [call("f", "{}", "a1B2c3D4e")]},
        result("a", "a1B2c3D4e"),
    ]
    assert rendered("mistral-small3.2", kept, TOOLS).count("a1B2c3D4e") == 2
    assert "## Return of functions.g:1" in rendered("kimi-k2", talk, TOOLS)


def test_content_and_reasoning_beside_calls() -> None:
    asks = {"role": "assistant", "content": "I look.", "reasoning": "Hm.", "tool_calls": [call("f", "{}")]}
    text = rendered("gpt-oss", [user("Rain?"), asks, result("a")], TOOLS)
    assert "analysis<|message|>Hm.\n\nI look.<|end|>" in text
    assert "<think>\nHm.\n</think>\n\nI look.\n<tool_call>" in rendered(
        "qwen3", [user("Rain?"), asks, result("a")], TOOLS
    )
    assert "I look.\n<tool_call>" in rendered("smollm2", [user("Rain?"), asks, result("a")], TOOLS)


def test_calls_in_content_have_the_models_tokens(bpe_parts: dict[str, Any]) -> None:
    """Tags that the writer adds are tokens; the same tags in what users and tools say are text."""
    parts = dict(bpe_parts)
    parts["pieces"] = [*parts["pieces"], "<|tool_call_start|>", "<|tool_call_end|>"]
    import numpy as np

    parts["types"] = np.append(parts["types"], [3, 3]).astype(np.int32)
    tokenizer = BpeTokenizer(Vocabulary(**parts))
    start = tokenizer.special["<|tool_call_start|>"]
    chat = Chat(tokenizer, templates()["lfm2"])
    asks = {"role": "assistant", "content": "", "tool_calls": [call("f", '{"a": "<|tool_call_start|>"}')]}
    text, ids = chat.conversation([user("<|tool_call_start|>"), asks, result("<|tool_call_start|>")])
    assert ids.count(start) == 1 and text.count("<|tool_call_start|>") == 4
    assert "<|tool_call_start|>[f(a='<|tool_call_start|>')]<|tool_call_end|>" in text


def test_conversations_without_tools_are_as_before() -> None:
    made, writer = template("qwen3")
    talk = [user("Hello"), {"role": "assistant", "content": "Hi", "tool_calls": []}, user("And?")]
    without = [user("Hello"), {"role": "assistant", "content": "Hi"}, user("And?")]
    assert writer.prepare(talk, None).messages == without
    assert made.render(writer.prepare(without, None).messages) == made.render(without)


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ("x", 'messages[0]["tool_calls"] must be a list of dicts, not str'),
        ([1], 'messages[0]["tool_calls"][0] must be a dict with "function", not int'),
        ([{"function": 1}], 'messages[0]["tool_calls"][0]["function"] must be a dict, not int'),
        ([{"function": {}}], 'messages[0]["tool_calls"][0]: expected the name of a function'),
        ([{"function": {"name": "f", "arguments": [1]}}], "arguments must be JSON text or a dict, not list"),
    ],
)
def test_wrong_calls(calls: Any, expected: str) -> None:
    with pytest.raises((TypeError, ValueError)) as failed:
        rendered("qwen3", [{"role": "assistant", "content": "", "tool_calls": calls}])
    assert expected in str(failed.value)


@pytest.mark.parametrize("name", ["qwen2.5", "qwen3", "gpt-oss"])
def test_what_a_developer_says_is_in_the_prompt(name: str) -> None:
    """As the system's, where the template has no words of its own for it; with the system's."""
    said = {"content": "Answer in French."}
    own = rendered(name, [{"role": "developer", **said}, user("Hi")])
    assert "Answer in French." in own and own == rendered(name, [{"role": "system", **said}, user("Hi")])
    both = rendered(name, [{"role": "system", "content": "Be brief."}, {"role": "developer", **said}, user("Hi")])
    assert "Be brief." in both and "Answer in French." in both


# Which know results, and want the assistant's answer behind them.
ANSWERED = ("ministral3", "mistral-nemo", "mistral-small3.2", "mistral-v0.3")


@pytest.mark.parametrize("name", [one for one in EVERY if one not in ANSWERED])
def test_who_speaks_after_results(name: str) -> None:
    """Templates that refuse two messages of the user in a row do not see results as one of them."""
    said = [user("Weather?"), {"role": "assistant", "content": "", "tool_calls": [call("get_weather", ARGUMENTS)]}]
    text = rendered(name, [*said, result("fine, 21"), user("And tomorrow?")], TOOLS)
    assert text.index("fine, 21") < text.index("And tomorrow?")


@pytest.mark.parametrize("name", EVERY)
def test_two_messages_of_the_system(name: str) -> None:
    """Also where the template writes only the first."""
    first, second = ({"role": "system", "content": one} for one in ("Be brief.", "Answer in French."))
    if template(name)[1]._writes_system:
        text = rendered(name, [first, second, user("Hi")], TOOLS if name.endswith("-tools") else None)
        assert "Be brief." in text and "Answer in French." in text


def test_keys_of_tools_stay_in_their_order() -> None:
    text = rendered("qwen3", [user("Hi")], [SECOND])
    assert text.index('"name": "get_time"') < text.index('"parameters": {"type": "object", "properties": {}}')


@pytest.mark.live
@pytest.mark.parametrize("name", EVERY)
def test_tools_are_written_as_transformers_writes_them(name: str) -> None:
    """Also those without a description or parameters, where its template takes them; calls and results, too."""
    from transformers.utils.chat_template_utils import render_jinja_template

    def theirs(messages: list[dict[str, Any]], tool: Any) -> str:
        try:
            given = {"chat_template": templates()[name], "add_generation_prompt": True, **TOKENS}
            found: str = render_jinja_template([messages], tools=[tool], **given)[0][0]
        except Exception:  # of the template
            return ""
        return found

    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    said = {"description": "Says it."}
    for rest in ({}, said, {"parameters": schema}, {**said, "parameters": schema}, {"parameters": schema, **said}):
        tool = {"type": "function", "function": {"name": "get_it", **rest}}
        expected = theirs([user("Rain?")], tool)
        assert "get_it" not in expected or rendered(name, [user("Rain?")], [tool]) == expected
    asked = {"role": "assistant", "content": "", "tool_calls": [call("get_it", '{"a": 3}', "abcdefghi")]}
    talk = [
        user("Rain?"),
        asked,
        {**result("12 mm", "abcdefghi"), "name": "get_it"},
        {"role": "assistant", "content": "Yes."},
        user("And?"),
    ]
    known = []
    for arguments in ({"a": 3}, '{"a": 3}'):
        for content in ({"content": ""}, {"content": None}, {}):
            calls = {"role": "assistant", "tool_calls": [call("get_it", arguments, "abcdefghi")], **content}
            text = theirs([talk[0], calls, *talk[2:]], tool)
            known += [text] if "12 mm" in text and text.count("get_it") > 1 else []
    if known:  # Kimi has its own form of ids
        found = rendered(name, talk, [tool]).replace("functions.get_it:0", "abcdefghi")
        assert found in [text.replace("functions.get_it:0", "abcdefghi") for text in known]


def test_tools_as_they_are_given() -> None:
    """Where the template takes them; Llama's asks for parameters."""
    bare = {"type": "function", "function": {"name": "get_time"}}
    assert json.dumps(bare) in rendered("qwen3", [user("Hi")], [bare])
    for name in EVERY:
        try:
            rendered(name, [user("Hi")])
        except Exception:
            continue
        assert "get_time" in rendered(name, [user("Hi")], [bare]), name


def test_empty_arguments_are_an_object() -> None:
    asked = {"role": "assistant", "content": "", "tool_calls": [call("get_time", "")]}
    assert '"arguments": {}' in rendered("qwen3", [user("Hi"), asked, result("12:00")], TOOLS)


class Compared(str):
    """A text that counts how often it is compared."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Compared.compared += 1
        return str.__eq__(self, other)


@pytest.mark.parametrize("name", ["gpt-oss", "llama3.1"])
def test_many_calls_and_results(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a template with one call in a message. Each call is not compared with all results: the largest body that the
    server takes would need minutes."""
    monkeypatch.setattr(Compared, "compared", 0)
    ids = [Compared(f"c{i}") for i in range(100)]
    asks = {"role": "assistant", "content": "", "tool_calls": [call("f", "{}", id) for id in ids]}
    results = [result("stray", Compared("none")), *(result(f"of {id}", id) for id in reversed(ids))]
    _, writer = template(name)
    assert writer._dialect.single
    made = writer.prepare([user("Rain?"), asks, result("again", ids[3]), *results], TOOLS).messages
    assert Compared.compared < 20 * len(ids)
    said = [one["content"] for one in made if one["role"] == "tool"]
    expected = [f"of {id}" for id in ids]
    assert said == [*expected[:3], "again", *expected[3:], "stray"]


def test_what_follows_results_is_joined_once() -> None:
    """Joined one by one, as many messages as a request may have would take 5 s."""
    text = "x" * 4000
    given = [user("Rain?"), {"role": "assistant", "tool_calls": [call("f", "{}")]}, result("a"), *[user(text)] * 500]
    _, writer = template("gemma3")
    assert writer._alternates
    writer.prepare(given[:3], TOOLS)
    tracemalloc.start()
    try:
        last = writer.prepare(given, TOOLS).messages[-1]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert last == user("\n".join(["<tool_response>\na\n</tool_response>", *[text] * 500]))
    assert peak < 1.5 * len(last["content"])  # else there were two of them at a time


@pytest.mark.parametrize("error", [MemoryError, RecursionError])
def test_what_failed_by_chance_is_tried_again(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """If memory or stack is short, that does not say what the template writes."""
    source = templates()["qwen3"]
    made = ChatTemplate(source, TOKENS)
    writer = Writer(made, find(source), ())
    expected = template("qwen3")[1].prepare([user("Rain?")], TOOLS)
    with monkeypatch.context() as short:
        short.setattr(made._sandbox, "tick", raising(error))
        with pytest.raises(ChatTemplateError, match="memory|nested"):
            writer.prepare([user("Rain?")], TOOLS)
    assert writer.prepare([user("Rain?")], TOOLS) == expected


def raising(error: type[Exception]) -> Any:
    def fail(*_: Any) -> Any:
        raise error

    return fail
