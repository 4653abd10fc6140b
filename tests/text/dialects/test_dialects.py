"""Every family's answers are read the same however they are cut; what is no call is content."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from typing import Any

import pytest

from pellucid.errors import GrammarError
from pellucid.text.dialects import ALL, Dialect, Parser, find, thinking
from pellucid.text.dialects.lark import calls_grammar
from pellucid.text.dialects.reader import Reader, Wait
from pellucid.text.dialects.tagged import QwenCoder
from pellucid.text.dialects.values import Literal, alternatives, declared, value
from tests.conftest import Some
from tests.text.conversations import templates
from tests.text.dialects.reading import Result, dialect, read, tags
from tests.text.dialects.recorded import ANSWERS, TOOLS, Answer

FAMILIES = {
    "command r+": "command-r-plus-tools",
    "command r7b": "command-r7b-tools",
    "deepseek": "deepseek-r1-qwen deepseek-r1-qwen3 deepseek-r1 deepseek-v2.5 deepseek-v3",
    "deepseek v3.1": "deepseek-v3.1",
    "glm": "glm4.6",
    "granite": "granite3.3",
    "harmony": "gpt-oss",
    "hermes": "baichuan-m2 bielik3 granite4.0 hermes2-pro-tools qwen2.5 qwen3-training qwen3 qwq",
    "kimi": "kimi-k2",
    "lfm2": "lfm2",
    "llama": "llama3.1 llama3.2",
    "mistral": "ministral3 mistral-small3.2",
    "mistral list": "mistral-nemo mistral-v0.3",
    "nemotron": "nemotron-nano2",
    "qwen coder": "qwen3.5",
    "seed-oss": "seed-oss",
    # These know no tools, or those of GLM 4 before 4.5.
    "generic": "chatglm2 cohere deepseek-v2 ernie4.5 falcon gemma2 gemma3 glm4-0414 glm4 internlm3 llama2 llama3"
    " llava-next minicpm mistral-v0.1 moonlight olmo2 phi3.5 phi3 qwen1 qwen2.5-vl smollm2 smollm3 solar vicuna yi"
    " zephyr",
}
REASONING = {
    "[THINK]": "ministral3",
    "<|START_THINKING|>": "command-r7b-tools",
    "<seed:think>": "seed-oss",
    "<|channel|>analysis<|message|>": "gpt-oss",
    "<think>": "baichuan-m2 bielik3 deepseek-r1-qwen deepseek-r1-qwen3 deepseek-r1 deepseek-v3.1 deepseek-v3 glm4.6"
    " granite3.3 nemotron-nano2 qwen3-training qwen3.5 qwen3 qwq smollm3",
}


def parsed(answer: Answer, cuts: range | list[int]) -> Result:
    one = dialect(answer.dialect)
    return read(Parser(one, TOOLS, thinking=tags(one), begun=answer.begun), answer.text, cuts)


def test_templates_are_of_their_families() -> None:
    expected = {name: family for family, names in FAMILIES.items() for name in names.split()}
    assert {name: find(source).name for name, source in templates().items()} == expected
    assert set(FAMILIES) == {one.name for one in ALL}


def test_templates_have_their_tags_of_reasoning() -> None:
    expected = {name: opens for opens, names in REASONING.items() for name in names.split()}
    found = {name: thinking(find(source), source) for name, source in templates().items()}
    assert {name: one.opens for name, one in found.items() if one is not None} == expected


@pytest.mark.parametrize("name", ANSWERS)
def test_recorded_answers_at_every_cut(name: str) -> None:
    answer = ANSWERS[name]
    whole = parsed(answer, [])
    assert whole == (answer.content, answer.reasoning, answer.calls)
    for cut in range(len(answer.text) + 1):
        assert parsed(answer, [cut]) == whole, answer.text[:cut]
    assert parsed(answer, range(1, len(answer.text))) == whole


def test_recorded_answers_at_random_cuts() -> None:
    """1,000 for each."""
    rng = random.Random(5)
    for name, answer in ANSWERS.items():
        whole = parsed(answer, [])
        for _ in range(1000):
            cuts = sorted(rng.choices(range(len(answer.text) + 1), k=rng.choice((2, 3, 5, 9))))
            assert parsed(answer, cuts) == whole, (name, cuts)


def test_every_family_is_recorded() -> None:
    assert {answer.dialect for answer in ANSWERS.values() if answer.calls} == {one.name for one in ALL}


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_what_is_written_is_read(one: object) -> None:
    """Calls in the form that is written for templates without one."""
    from pellucid.text.dialects import Dialect, Written

    assert isinstance(one, Dialect)
    given = [Written("get_weather", '{"city": "Zürich", "days": 3}'), Written("get_time", "{}")]
    text = "".join(one.write(given[:1] if one.single else given))
    content, reasoning, calls = read(Parser(one, TOOLS, thinking=tags(one)), text, range(1, len(text)))
    assert (content, reasoning) == ("", "")
    expected = given[:1] if one.single else given
    assert [(name, json.loads(text)) for name, text in calls] == [(n, json.loads(a)) for n, a in expected]
    assert text.replace(given[0].name, "") != text


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_no_text_that_begins_a_call_contains_another(one: object) -> None:
    """So that what is found first does not depend on where the text is cut."""
    from pellucid.text.dialects import Dialect

    assert isinstance(one, Dialect)
    known = tags(one)
    begins = (known.opens,) if known.anywhere and not known.always else ()
    for texts in ((*one.opens, *one.layout, *begins), (known.closes, *one.ends_thinking)):
        assert [(a, b) for a in texts for b in texts if a != b and a in b] == []


class Counting(Reader):
    """Counts the characters that are looked at beyond those that are read."""

    looked = 0

    def _count(self, n: int) -> None:
        type(self).looked += n

    def char(self, at: int) -> Wait[str]:
        self._count(1)
        return (yield from super().char(at))

    def past(self, characters: re.Pattern[str], at: int) -> Wait[int]:
        end = yield from super().past(characters, at)
        self._count(end - at)
        return end

    def string_end(self, at: int) -> Wait[int]:
        end = yield from super().string_end(at)
        self._count((end if end >= 0 else len(self._text) - self._at) - at)
        return end

    def before(self, stops: Sequence[str], at: int, most: int) -> Wait[tuple[str, str] | None]:
        found = yield from super().before(stops, at, most)
        self._count(most if found is None else len(found[0]))
        return found

    def peek(self, start: int, end: int) -> str:
        self._count(end - start)
        return super().peek(start, end)


BEGUN = (
    "", "{", "[", "[{", "[f(", "[f(a=", "[f(a='", '[f(a="', "[f(a='\\", """[f(a="'", b='""", "[f(a='\"', b=\"", "[f((",
    "f(", '{"', '{"name": ', '{"name": "f", "a": [', '{"a": ["', '{",": ["', '{"arguments": {"a": "', "[[", "\n",
    "```json\n[", "f\n", "<function=f>", "<parameter=a>", "f<arg_key>a", "assistant<|channel|>",
)  # fmt: skip


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_many_beginnings_are_read_in_time_that_grows_with_them(
    one: Dialect, some: Some[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of twice as many calls that begin and do not end, twice as many characters are looked at."""
    monkeypatch.setattr("pellucid.text.dialects.parser.Reader", Counting)

    def looked(text: str) -> int:
        Counting.looked = 0
        read(Parser(one, TOOLS), text, [])
        return Counting.looked

    for opened, begun in some([(opened, begun) for opened in one.opens for begun in BEGUN], one.name):
        few, many = (looked(f"{opened}{begun}" * n) for n in (300, 600))
        assert many <= 2.2 * few + 2000, (opened, begun, few, many)


def test_without_tools_calls_are_content() -> None:
    for name, answer in ANSWERS.items():
        if not answer.calls or answer.dialect in ("harmony", "command r7b") or "thoughts" in name:
            continue
        one = dialect(answer.dialect)
        content, _, calls = read(Parser(one, None, thinking=tags(one)), answer.text, range(1, len(answer.text)))
        assert calls == [] and answer.calls[0][0] in content, name


def test_one_call_at_most() -> None:
    for name, answer in ANSWERS.items():
        one = dialect(answer.dialect)
        parser = Parser(one, TOOLS, thinking=tags(one), begun=answer.begun, most=1)
        _, _, calls = read(parser, answer.text, range(1, len(answer.text)))
        assert calls == answer.calls[:1], name
        assert not answer.calls or parser.done, name


def test_quotes_around_the_name_of_an_argument() -> None:
    """They are dropped, unless they are a part of it."""
    tools = {"f": {"type": "object", "properties": {'"': {"type": "integer"}, "a": {"type": "integer"}}}}
    written = "<tool_call>\n<function=f>\n" + "".join(
        f"<parameter={name}>\n{i}\n</parameter>\n" for i, name in enumerate(('"', '"a"'))
    )
    text = written + "</function>\n</tool_call>"
    _, _, [(_, arguments)] = read(Parser(dialect("qwen coder"), tools), text, range(1, len(text)))
    assert json.loads(arguments) == {'"': 0, "a": 1}


def test_reasoning_is_known_while_it_lasts() -> None:
    parser = Parser(dialect("hermes"), None, thinking=tags(dialect("hermes")))
    seen = []
    for text in ("<think>", "Hm", ".", "</think>", "\n\nYes"):
        parser.push(text)
        seen.append(parser.thinking)
    assert seen == [True, True, True, False, False]


def test_text_comes_at_once() -> None:
    """But for white space, and what may begin a call."""
    parser = Parser(dialect("hermes"), TOOLS)
    assert [parser.push(text).content for text in ("Hel", "lo ", "<b", "> you")] == ["Hel", "lo", " <b", "> you"]
    parser = Parser(dialect("hermes"), TOOLS)
    parser.push('<tool_call>\n{"name": "get_weather", "arguments": ')
    pieces = [parser.push(text).calls for text in ('{"ci', 'ty": "P', 'aris"}', "}\n</tool_call>")]
    assert ["".join(part.arguments for part in one) for one in pieces] == ['{"ci', 'ty": "P', 'aris"}', ""]


SCHEMA = {
    "$defs": {"n": {"type": "integer"}},
    "properties": {
        "text": {"type": "string"},
        "number": {"$ref": "#/$defs/n"},
        "either": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "some": {"type": ["integer", "null"]},
        "listed": {"enum": ["a", 1]},
        "loop": {"$ref": "#/properties/loop"},
        "table": {"type": "object"},
        "yes": {"type": "boolean"},
    },
}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("text", "12", '"12"'),
        ("text", " null ", '" null "'),
        ("text", 'a "b"\n\\', '"a \\"b\\"\\n\\\\"'),
        ("number", " 12 ", "12"),
        ("number", "1.50", "1.50"),
        ("number", "many", '"many"'),
        ("number", "NaN", '"NaN"'),
        ("either", "null", "null"),
        ("either", "none of it", '"none of it"'),
        ("some", "None", "null"),
        ("listed", "1", "1"),
        ("listed", "a", '"a"'),
        ("table", '{"a": [1,  2]}', '{"a": [1,  2]}'),
        ("table", "{'a': True}", '{"a": true}'),
        ("yes", "True", "true"),
        ("yes", "false", "false"),
        ("loop", "3", "3"),
        ("unknown", "3", "3"),
        ("unknown", "None", '"None"'),
        ("unknown", "[1", '"[1"'),
        ("unknown", '"a b"', '"a b"'),
        ("unknown", '"a" b', '"\\"a\\" b"'),
        ("text", '"a"', '"\\"a\\""'),
    ],
)
def test_values_by_their_declared_types(name: str, text: str, expected: str) -> None:
    found = value(text, declared(SCHEMA, name))
    assert found == expected
    json.loads(found)


def test_types_of_schemas_that_refer_to_themselves() -> None:
    again = [{"$ref": "#/properties/x"}, {"$ref": "#/properties/y"}] * 30
    schema = {"properties": {"x": {"anyOf": [*again, {"type": "string"}]}, "y": {"oneOf": [*again, {"const": 1}]}}}
    assert declared(schema, "x") == declared(schema, "y") == {"string", "integer"}
    table = schema["properties"]["x"]
    assert alternatives(table, schema) == [table] and declared({"$ref": "#", **schema}, "x") == {"string", "integer"}
    deep: dict[str, object] = {"type": "null"}
    for _ in range(5000):
        deep = {"allOf": [deep]}
    assert declared({"properties": {"x": deep}}, "x") == {"null"} and alternatives(deep, deep)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (True, [{}]),
        ({"$ref": "#/$defs/n", "title": "N"}, [{"type": "integer", "title": "N"}]),
        ({"anyOf": [{"const": 1}, {"$ref": "#/$defs/n"}], "minimum": 0},
         [{"const": 1, "minimum": 0}, {"type": "integer", "minimum": 0}]),
        ({"allOf": [{"minLength": 1}, {"anyOf": [{"maxLength": 2}, {"enum": ["x"]}]}]},
         [{"minLength": 1, "maxLength": 2}, {"minLength": 1, "enum": ["x"]}]),
        ({"allOf": [{"minLength": 1}, {"minLength": 2}]}, None),  # as they are: both must be kept
        ({"anyOf": [{"maximum": 3}], "maximum": 4}, None),
        ({"anyOf": 3}, None),
        ({"allOf": 3}, None),
        ({"$ref": "#/$defs/none"}, [{}]),
    ],
)  # fmt: skip
def test_schemas_without_branches(schema: Any, expected: Any) -> None:
    assert alternatives(schema, SCHEMA) == ([schema] if expected is None else expected)


@pytest.mark.parametrize("length", [-1, 1.5, True, "3", [], float("inf"), float("nan")])
def test_lengths_that_are_none(length: object) -> None:
    """Of a text that stands in a call as it is; lengths in JSON are llguidance's to check."""
    schema = {"type": "object", "properties": {"text": {"type": "string", "maxLength": length}}}
    with pytest.raises(GrammarError, match="maxLength=.*: expected a number of characters"):
        calls_grammar(QwenCoder(), [("f", schema, False)], {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("'it\\'s \\u00e9 \\x41'", "it's é A"),
        ('"a\nb"', "a\nb"),
        ("007", 7),
        ("-0.5e3", -500.0),
        ("(1, 'a', None)", [1, "a", None]),
        ("{'a': {1: True}, \"b\": []}", {"a": {"1": True}, "b": []}),
        ("{}", {}),
        ("{1, 2}", [1, 2]),
        ("[1, 2,]", [1, 2]),
        ("'\\ud83d\\ude00'", "😀"),
        ("'\\ud83d'", "\ufffd"),
    ],
)
def test_literals_of_python(text: str, expected: object) -> None:
    literal = Literal(text)
    found = literal.value()
    assert found is not None and json.loads(found) == expected and literal.ended()


@pytest.mark.parametrize(
    "text", ["", "'a", "[1", "{'a': }", "f(x)", "inf", "1__0", "[" * 100 + "]" * 100, "{'a': 1, 2}"]
)
def test_what_is_no_literal(text: str) -> None:
    literal = Literal(text)
    assert literal.value() is None or not literal.ended()
