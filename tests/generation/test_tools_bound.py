"""Calls that are bound to the tools' schemas, and reasoning with a budget."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from pellucid import Completion, Model
from pellucid.errors import GrammarError
from tests.generation.replayer import replaying, script
from tests.generation.test_guide import SMALL, TOOLS
from tests.generation.test_tools import SOURCES, USER
from tests.text.conversations import templates

GIVEN = TOOLS


def check(done: Completion, names: set[str]) -> None:
    assert done.text == "" and done.tool_calls
    for call in done.tool_calls:
        assert call.name in names
        jsonschema.validate(json.loads(call.arguments), SMALL[call.name])


def test_required_with_the_default_model(smol: Model) -> None:
    """A model of 135 million parameters, at temperature 1.5."""
    for seed in range(6):
        done = smol.chat(
            USER,
            tools=GIVEN,
            tool_choice="required",
            parallel_tool_calls=False,
            temperature=1.5,
            seed=seed,
            max_tokens=80,
        )
        check(done, set(SMALL))
        assert len(done.tool_calls) == 1 and done.finish_reason == "stop"


def test_a_round(smol: Model) -> None:
    done = smol.chat(USER, tools=GIVEN, tool_choice="required", parallel_tool_calls=False, temperature=0, max_tokens=80)
    results = [{"role": "tool", "tool_call_id": call.id, "content": "Sun."} for call in done.tool_calls]
    after = smol.chat([*USER, done.message(), *results], tools=GIVEN, tool_choice="none", temperature=0, max_tokens=20)
    assert after.tool_calls == () and after.text


def test_one_by_its_name(smol: Model) -> None:
    for name in SMALL:
        choice: dict[str, Any] = {"type": "function", "function": {"name": name}}
        done = smol.chat(USER, tools=GIVEN, tool_choice=choice, temperature=1.2, seed=3, max_tokens=80)
        check(done, {name})
        assert len(done.tool_calls) == 1


@pytest.mark.parametrize("family", ["generic", "hermes"])
def test_auto_binds_what_follows_the_beginning_of_a_call(smol: Model, family: str) -> None:
    from pellucid.text.dialects import find

    source = templates()[SOURCES[family]]
    trigger = find(source).triggers[0]
    n = len(smol.chat_prompt(USER, tools=GIVEN, template=source, variables={"enable_thinking": False}).ids)
    begun = script(smol, trigger)[:-1]
    with replaying(smol, {n: begun}, bound=True):
        done = smol.chat(
            USER, tools=GIVEN, template=source, temperature=1.0, seed=4, max_tokens=120, parallel_tool_calls=False,
            variables={"enable_thinking": False},
        )  # fmt: skip
    check(done, set(SMALL))


def test_auto_changes_nothing_before_a_call(smol: Model) -> None:
    options: dict[str, Any] = {"temperature": 0.9, "seed": 5, "max_tokens": 24}
    prompt = smol.chat_prompt(USER, tools=GIVEN).ids
    assert smol.chat(USER, tools=GIVEN, **options).ids == smol.generate(prompt, **options).ids


def test_logprobs_and_streams_are_the_same(smol: Model) -> None:
    options: dict[str, Any] = {
        "tools": GIVEN,
        "tool_choice": "required",
        "temperature": 1.0,
        "seed": 6,
        "max_tokens": 60,
    }
    done = smol.chat(USER, **options)
    scored = smol.chat(USER, logprobs=2, **options)
    assert (scored.ids, scored.tool_calls) == (done.ids, done.tool_calls) and len(scored.logprobs) == len(done.ids)
    with smol.chat(USER, stream=True, **options) as stream:
        assert stream.result().tool_calls == done.tool_calls
    several = smol.chat(USER, n=2, **options)
    assert several[0].tool_calls == done.tool_calls
    request = smol.submit(messages=USER, **options)
    found = request.result()
    assert isinstance(found, Completion) and found.tool_calls == done.tool_calls
    assert smol.context().chat(USER, **options).tool_calls == done.tool_calls


def test_a_budget_ends_reasoning(smol: Model) -> None:
    source = templates()["qwen3.5"]  # whose prompt begins it
    for budget in (0, 1, 7):
        done = smol.chat(USER, template=source, thinking_budget=budget, temperature=0, max_tokens=60)
        closing = len(smol.tokenize("\n</think>\n\n", add_special=False))
        assert budget <= done.reasoning_tokens <= budget + closing + 2
        text = smol.detokenize(done.ids)
        assert "</think>" in text and "</think>" not in done.reasoning
        assert text.startswith(done.reasoning) or done.reasoning.startswith(text.strip()[:3])
    free = smol.chat(USER, template=source, temperature=0, max_tokens=12)
    assert free.reasoning and free.text == "" and free.reasoning_tokens == 12


def test_a_budget_before_calls(smol: Model) -> None:
    done = smol.chat(
        USER, tools=GIVEN, tool_choice="required", template=templates()["qwen3.5"], thinking_budget=5, temperature=0,
        max_tokens=200, parallel_tool_calls=False,
    )  # fmt: skip
    assert done.reasoning and len(done.tool_calls) == 1


def test_a_schema_after_reasoning(smol: Model) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    done = smol.chat(
        USER, template=templates()["qwen3.5"], thinking_budget=4, schema=schema, temperature=0, max_tokens=60
    )
    assert json.loads(done.text)["ok"] in (True, False) and done.reasoning_tokens >= 4
    assert done.parsed == json.loads(done.text)


def test_schemas_that_cannot_be_kept(smol: Model) -> None:
    schema = {"type": "object", "properties": {"a": {"not": {"type": "string"}}}, "required": ["a"]}
    function: dict[str, Any] = {"name": "f", "parameters": schema}
    strict = [{"type": "function", "function": {**function, "strict": True}}]
    for choice in ("required", "auto"):
        with pytest.raises(GrammarError, match='^tools.1.: the keyword "not" cannot be enforced$'):
            smol.chat(USER, tools=[GIVEN[0], *strict], tool_choice=choice)
    wrong = [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "frob"}}}}}]
    with pytest.raises(GrammarError, match="^tools.0.: Invalid type: frob$"):
        smol.chat(USER, tools=wrong)
    done = smol.chat(
        USER, tools=[{"type": "function", "function": function}], tool_choice="required", max_tokens=40, temperature=0
    )
    assert done.tool_calls[0].name == "f"


OK: dict[str, Any] = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}


def test_tools_beside_a_schema(smol: Model) -> None:
    """The answer is calls, or a text by the schema; which of them is the model's choice, unless the caller makes it."""
    options: dict[str, Any] = {"tools": GIVEN, "schema": OK, "max_tokens": 80, "parallel_tool_calls": False}
    kinds = set()
    for seed in range(8):
        done = smol.chat(USER, **options, temperature=1.5, seed=seed)
        kinds.add(bool(done.tool_calls))
        if done.tool_calls:
            assert done.parsed is None
            check(done, set(SMALL))
        else:
            assert done.parsed == json.loads(done.text) and done.parsed["ok"] in (True, False)
    assert kinds == {True, False}
    check(smol.chat(USER, **options, tool_choice="required", temperature=0), set(SMALL))
    told = smol.chat(USER, **options, tool_choice="none", temperature=0)
    assert told.parsed["ok"] in (True, False) and told.tool_calls == ()
    with smol.chat(USER, **options, temperature=1.5, seed=1, stream=True) as stream:
        again = stream.result()
    assert (again.text, again.tool_calls) == _parts(smol.chat(USER, **options, temperature=1.5, seed=1))


def _parts(done: Completion) -> tuple[str, Any]:
    return done.text, done.tool_calls


def test_what_looks_like_a_call_in_a_structure_is_text(smol: Model) -> None:
    """Llama's calls are objects alone, so an object within the content could be one."""
    source = templates()[SOURCES["llama"]]
    call = '{"name":"get_time","parameters":{}}'
    done = smol.chat(USER, tools=GIVEN, template=source, choice=[f"{{ {call}"], temperature=0, seed=1, max_tokens=60)
    assert done.tool_calls or done.text == f"{{ {call}"
    for seed in range(4):
        schema = {"type": "array", "items": {"const": json.loads(call)}, "minItems": 1, "maxItems": 1}
        done = smol.chat(USER, tools=GIVEN, template=source, schema=schema, temperature=1.5, seed=seed, max_tokens=80)
        assert done.tool_calls or done.parsed == [json.loads(call)]


def test_errors_of_tools_and_of_a_schema_are_their_own(smol: Model) -> None:
    wrong = {"type": "object", "properties": {"a": {"not": {"type": "string"}}}, "required": ["a"]}
    strict = [{"type": "function", "function": {"name": "f", "parameters": wrong, "strict": True}}]
    with pytest.raises(GrammarError) as raised:
        smol.chat(USER, tools=strict, schema=OK)
    assert raised.value.place == "tools[0]"
    with pytest.raises(GrammarError) as raised:
        smol.chat(USER, tools=GIVEN, schema=wrong)
    assert raised.value.place == "schema.properties.a.not"
