"""Tools and reasoning in the library: what an answer's calls are, in every kind of call, and a round with the model."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

import pytest

from pellucid import Completion, Model, Piece, ToolCall
from pellucid.reply import read_asked
from pellucid.results import joined
from tests.generation.replayer import replaying, script
from tests.text.conversations import templates
from tests.text.dialects.recorded import ANSWERS, TOOLS

USER = [{"role": "user", "content": "What is the weather in Paris?"}]
DECLARED = [{"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in TOOLS.items()]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
# A template of each family with which the default model's tokenizer can write its prompts.
SOURCES = {
    "hermes": "qwen3", "nemotron": "nemotron-nano2", "llama": "llama3.1", "granite": "granite3.3",
    "mistral": "mistral-small3.2", "mistral list": "mistral-nemo", "command r7b": "command-r7b-tools",
    "command r+": "command-r-plus-tools", "deepseek": "deepseek-v2.5", "deepseek v3.1": "deepseek-v3.1",
    "kimi": "kimi-k2", "harmony": "gpt-oss", "qwen coder": "qwen3.5", "seed-oss": "seed-oss", "glm": "glm4.6",
    "lfm2": "lfm2", "generic": "smollm2",
}  # fmt: skip


def get_weather(city: str, days: int = 1, unit: Literal["C", "F"] = "C") -> str:
    """The weather in a city.

    Args:
        city: Its name, as people
            there know it.
        days: How many days.
    """
    return f"{city}: {days} days of sun, {unit}"


def replayed(model: Model, text: str, **options: Any) -> Completion:
    prompt = {k: v for k, v in options.items() if k in ("tools", "template", "tool_choice", "variables")}
    n = len(model.chat_prompt(USER, **prompt).ids)
    with replaying(model, {n: script(model, text)}):
        done: Completion = model.chat(USER, temperature=0, seed=1, **options)
    return done


@pytest.mark.parametrize("name", [name for name in ANSWERS if name in SOURCES or "thoughts" in name])
def test_every_family_through_the_scheduler(smol: Model, name: str) -> None:
    answer = ANSWERS[name]
    source = templates()[SOURCES[answer.dialect]]
    prompt = smol.chat_prompt(USER, tools=DECLARED, template=source).text.rstrip()
    begun = prompt.endswith(("<think>", "[THINK]", "<|START_THINKING|>"))
    if begun != answer.begun or ("thoughts" in name and "granite" not in name and prompt.endswith("</think>")):
        source = source.replace("{{- '<think>\\n' }}", "")  # the answer was recorded with another prompt
        prompt = smol.chat_prompt(USER, tools=DECLARED, template=source).text.rstrip()
        if prompt.endswith("<think>") != answer.begun:
            return
    done = replayed(smol, answer.text, tools=DECLARED, template=source)
    assert [(call.name, call.arguments) for call in done.tool_calls] == answer.calls
    if source in templates().values() and (answer.reasoning == "" or done.reasoning):
        assert done.reasoning == answer.reasoning and done.text == answer.content
    length = 9 if "mistral" in answer.dialect else 29
    assert all(
        len(call.id) == length and call.id[:5] == "call_"[: 5 * (length > 9)] or length == 9 for call in done.tool_calls
    )
    assert len({call.id for call in done.tool_calls}) == len(done.tool_calls)


def pieces_of(pieces: list[Piece]) -> tuple[str, str, tuple[ToolCall, ...]]:
    deltas = [call for piece in pieces for call in piece.tool_calls]
    first = [one for one in deltas if one.id is not None]
    assert [one.index for one in first] == sorted({one.index for one in deltas})
    text, reasoning = "".join(one.text for one in pieces), "".join(one.reasoning for one in pieces)
    return text, reasoning, joined(deltas)


def test_every_way_to_ask(smol: Model) -> None:
    """chat, streams, submit, map, contexts and asyncio give the same."""
    options: dict[str, Any] = {"tools": DECLARED, "template": templates()["qwen3"], "temperature": 0, "seed": 1}
    text = f"<think>\nHm.\n</think>\n\nI look.\n{CALL}"
    n = len(smol.chat_prompt(USER, tools=DECLARED, template=options["template"]).ids)
    with replaying(smol, {n: script(smol, text)}):
        done = smol.chat(USER, **options)
        assert (done.text, done.reasoning, done.finish_reason) == ("I look.", "Hm.", "eos")
        assert [(one.name, one.arguments) for one in done.tool_calls] == [("get_weather", '{"city": "Paris"}')]
        assert 0 < done.reasoning_tokens < len(done.ids)
        expected = done.text, done.reasoning, done.tool_calls
        with smol.chat(USER, stream=True, **options) as stream:
            assert pieces_of(list(stream)) == expected
            assert stream.text == done.text and stream.result().tool_calls == done.tool_calls
        request = smol.submit(messages=USER, **options)
        assert pieces_of(list(request)) == expected
        several = smol.chat([USER, USER], **{**options, "seed": [1, 2]})
        assert [one.tool_calls[0].arguments for one in several] == [done.tool_calls[0].arguments] * 2
        assert several[0].tool_calls == done.tool_calls != several[1].tool_calls  # ids follow from the seed
        (mapped,) = smol.map([USER], **options)
        assert mapped.tool_calls == done.tool_calls
        assert smol.context().chat(USER, **options).tool_calls == done.tool_calls
        awaited = asyncio.run(smol.achat(USER, **options))
        assert (awaited.text, awaited.reasoning, awaited.tool_calls) == expected
    message = done.message()
    assert message["tool_calls"] == [done.tool_calls[0].to_dict()] and message["reasoning_content"] == "Hm."
    result = {"role": "tool", "tool_call_id": done.tool_calls[0].id, "content": "Sun."}
    prompt = smol.chat_prompt([*USER, message, result], tools=DECLARED, template=options["template"]).text
    assert '"arguments": {"city": "Paris"}' in prompt and "Sun." in prompt
    assert json.loads(json.dumps(done.to_dict()))["tool_calls"][0]["function"]["name"] == "get_weather"


def test_without_tools_the_text_stays(smol: Model) -> None:
    cases: list[dict[str, Any]] = [{}, {"tools": DECLARED, "tool_choice": "none"}, {"tools": []}]
    for options in cases:
        done = replayed(smol, CALL, **options)
        assert done.text == CALL and done.tool_calls == () and done.reasoning == ""
    assert "get_weather" not in smol.chat_prompt(USER, tools=DECLARED, tool_choice="none").text


def test_one_call_at_most(smol: Model) -> None:
    done = replayed(smol, CALL + "\n" + CALL + " more", tools=DECLARED, parallel_tool_calls=False)
    assert len(done.tool_calls) == 1 and done.text == "" and done.finish_reason == "stop"


def test_a_call_that_is_cut_off(smol: Model) -> None:
    done = replayed(smol, CALL, tools=DECLARED, max_tokens=20)
    assert done.finish_reason == "length" and len(done.tool_calls) <= 1
    said = done.tool_calls[0].arguments if done.tool_calls else done.text
    assert '{"city": "Paris"}'.startswith(said) or CALL.startswith(said)


def test_functions_are_tools(smol: Model) -> None:
    prompt = smol.chat_prompt(USER, tools=[get_weather]).text
    assert '"name": "get_weather"' in prompt and "Its name, as people there know it." in prompt
    assert [one.name for one in replayed(smol, CALL, tools=[get_weather]).tool_calls] == ["get_weather"]


def test_variables(smol: Model) -> None:
    source = "{{ messages[0].content }} {{ reasoning_effort }} {{ thinking_budget }} {{ enable_thinking }}"
    given: dict[str, Any] = {"reasoning_effort": "low", "thinking_budget": 7, "variables": {"enable_thinking": False}}
    assert smol.chat_prompt(USER, template=source, **given).text.endswith("low 7 False")


@pytest.mark.parametrize(
    ("options", "error", "expected"),
    [
        ({"tools": "x"}, TypeError, "tools must be a list of dicts, not str"),
        ({"tools": [1]}, TypeError, "tools[0] must be a dict or a function with types, not int"),
        ({"tools": [{}]}, ValueError, "tools[0]: expected a name"),
        ({"tools": [{"type": "web_search"}]}, ValueError, 'tools[0]: expected {"type": "function"'),
        ({"tools": [{"name": "a b"}]}, ValueError, "tools[0]: expected a name"),
        ({"tools": [{"name": "f"}, {"name": "f"}]}, ValueError, "tools[1]: there is another tool with the name f"),
        ({"tools": [{"name": "f", "parameters": 1}]}, TypeError, "tools[0]: parameters must be a JSON schema"),
        (
            {"tools": [{"name": "f", "parameters": {"type": "string"}}]},
            ValueError,
            "tools[0]: its schema must be that of an object, not of type 'string'",
        ),
        ({"tools": [lambda x: x]}, TypeError, "tools[0]: <lambda>(x): expected a type"),
        ({"tool_choice": "required"}, ValueError, "tool_choice='required': expected tools beside it"),
        ({"tools": DECLARED, "tool_choice": "some"}, ValueError, "tool_choice='some': expected 'auto', 'none' or"),
        (
            {"tools": DECLARED, "tool_choice": {"type": "function", "function": {"name": "h"}}},
            ValueError,
            "not one of the tools",
        ),
        ({"tools": DECLARED, "parallel_tool_calls": 1}, TypeError, "parallel_tool_calls=1"),
        ({"thinking_budget": -1}, ValueError, "thinking_budget=-1"),
        ({"reasoning_effort": 1}, TypeError, "reasoning_effort=1"),
    ],
)
def test_errors_name_the_option(smol: Model, options: dict[str, Any], error: type[Exception], expected: str) -> None:
    with pytest.raises(error) as failed:
        smol.chat(USER, **options)
    assert expected in str(failed.value)


class Compared(str):
    """A text that counts how often it is compared."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Compared.compared += 1
        return str.__eq__(self, other)


def test_many_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name is not compared with all others: the largest body that the server takes would need most of an hour."""
    monkeypatch.setattr(Compared, "compared", 0)
    tools = [{"name": Compared(f"f{i}")} for i in range(400)]
    assert [one.name for one in read_asked({"tools": tools}).tools or ()] == [f"f{i}" for i in range(400)]
    assert Compared.compared < 40 * len(tools)
    with pytest.raises(ValueError, match=r"^tools\[400\]: there is another tool with the name f7$"):
        read_asked({"tools": [*tools, {"name": "f7"}]})
