"""Grammars of calls in every family: whatever they allow is read as a call that the tool's schema allows. Tokens are
drawn at random from those that are allowed, without a model."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest

from pellucid import Piece, Tokenizer, ToolCall
from pellucid.errors import GrammarError
from pellucid.guide import Guide
from pellucid.reply import Reply, Spoken, read_asked
from pellucid.results import joined
from pellucid.structure import Structure
from pellucid.text.dialects import find, thinking
from pellucid.text.dialects.lark import calls_grammar
from pellucid.text.grammar import Grammar, Grammars
from pellucid.text.stream import TextStream
from tests.generation.test_tools import SOURCES
from tests.structure.walks import grammars, takes
from tests.text.conversations import templates

# Not endless, so that an answer ends within its tokens.
TEXT = {"type": "string", "maxLength": 12}
DAYS = {"type": "integer", "minimum": 1, "maximum": 7}
SMALL: dict[str, Any] = {
    "get_weather": {
        "type": "object",
        "properties": {"city": TEXT, "days": DAYS, "unit": {"enum": ["C", "F"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
    "get_time": {"type": "object", "properties": {}, "additionalProperties": False},
}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in SMALL.items()]
TAGGED = ("qwen coder", "seed-oss", "glm")  # arguments are not written in JSON


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Tokenizer:
    return Tokenizer.load(smollm2)


class Drawn:
    """An answer whose tokens are drawn at random."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        family: str,
        options: dict[str, Any],
        seed: int,
        first: str = "",
        prompt: str = "x",
        structure: Structure | None = None,
        most: int = 150,
    ) -> None:
        rng = random.Random(seed)
        core: Any = SimpleNamespace(
            engine=SimpleNamespace(vocab=tokenizer.vocab_size), need_tokenizer=lambda: tokenizer
        )
        source = templates()[SOURCES[family]]
        reply = Reply(tokenizer.piece, tokenizer.chat(source).specials, source, prompt, read_asked(options))
        self.guide = Guide(core, reply, structure, tokenizer.eog, True, False)
        drawn: list[Any] = []
        forced: Sequence[int] = tokenizer.encode(first, add_special=False)
        self.guide.follow(drawn)
        self.ended = False
        while not self.guide.complete and len(drawn) < most and not self.ended:
            token = forced[len(drawn)] if len(drawn) < len(forced) else self._draw(rng)
            self.ended = token in tokenizer.eog
            if not self.ended:
                drawn.append((token, None, []))
                self.guide.follow(drawn)
        self.ids = [one[0] for one in drawn]
        text, spoken = TextStream(reply.piece), Spoken(reply, [1], seed, structure is not None)
        pieces = [spoken.piece(Piece(text.push(id), [id], [])) for id in self.ids]
        pieces.append(spoken.piece(Piece(text.flush(), [], [], "stop")))
        self.text = "".join(one.text for one in pieces)
        self.reasoning = "".join(one.reasoning for one in pieces)
        self.calls: tuple[ToolCall, ...] = joined(call for one in pieces for call in one.tool_calls)

    def _draw(self, rng: random.Random) -> int:
        self.guide.fill()
        allowed = np.flatnonzero(np.unpackbits(self.guide.words.view(np.uint8), bitorder="little"))
        assert len(allowed)
        return int(rng.choice(allowed))


def check(family: str, drawn: Drawn) -> None:
    assert drawn.text == "" and len(drawn.calls) == 1
    (call,) = drawn.calls
    assert drawn.guide.complete
    jsonschema.validate(json.loads(call.arguments), SMALL[call.name])


@pytest.mark.parametrize("family", SOURCES)
def test_a_call_is_required(tokenizer: Tokenizer, family: str) -> None:
    for seed in range(6):
        options = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
        check(family, Drawn(tokenizer, family, {**options, "thinking_budget": 3}, seed))


@pytest.mark.parametrize("family", SOURCES)
def test_one_by_its_name(tokenizer: Tokenizer, family: str) -> None:
    for name in SMALL:
        choice = {"type": "function", "function": {"name": name}}
        drawn = Drawn(tokenizer, family, {"tools": TOOLS, "tool_choice": choice, "thinking_budget": 0}, 1)
        check(family, drawn)
        assert drawn.calls[0].name == name


# Texts stand as they are there, also where a value may be something else.
WIDE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "or_none": {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]},
        "name": {"type": "string", "minLength": 1, "maxLength": 4},
        "kind": {"$ref": "#/$defs/Kind", "description": "Which."},
        "both": {"type": ["string", "integer"], "maxLength": 2, "minimum": 0, "maximum": 3},
        "mixed": {"enum": ["a b", 3, None]},
        "one": {"const": "</x>/y"},
        "all": {"allOf": [{"type": "string"}, {"minLength": 2}, {"maxLength": 3}]},
    },
    "required": ["or_none", "name", "kind", "both", "mixed", "one", "all", "flag"],
    "additionalProperties": {"type": "boolean"},
    "$defs": {"Kind": {"enum": ["red", "blue"], "type": "string"}},
}


@pytest.mark.parametrize("family", TAGGED)
def test_texts_that_are_not_in_json(tokenizer: Tokenizer, family: str) -> None:
    schema = {**WIDE, "properties": {**WIDE["properties"], "flag": {"type": "boolean"}}}
    for own in (schema, {"$ref": "#/$defs/All", "$defs": {**WIDE["$defs"], "All": schema}}):
        tool = {"type": "function", "function": {"name": "f", "strict": True, "parameters": own}}
        options = {"tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
        for seed in range(4):
            drawn = Drawn(tokenizer, family, options, seed, most=400)
            assert drawn.guide.complete and drawn.text == ""
            jsonschema.validate(json.loads(drawn.calls[0].arguments), own)


@pytest.mark.parametrize("family", TAGGED)
def test_a_text_does_not_hold_what_ends_it(family: str) -> None:
    one = find(templates()[SOURCES[family]])
    schema = {"properties": {"a": {"type": "string"}}, "required": ["a"]}
    bound = grammars().compile(Structure("grammar", calls_grammar(one, [("f", schema, False)], {})))
    shape = one.shape("f")
    assert shape.values is not None
    before, after = shape.values("a")
    first, last = "".join((*one.first, *shape.before, before)), "".join((after, *shape.after, *one.last))
    assert takes(bound, f"{first}x{last}") and takes(bound, first + last)
    for tag in one.value_ends:
        assert takes(bound, f"{first}x{tag[:-1]}y{last}") and not takes(bound, f"{first}x{tag}y{last}")


@pytest.mark.parametrize("family", TAGGED)
def test_listed_values_that_hold_what_ends_them(tokenizer: Tokenizer, family: str) -> None:
    for end in find(templates()[SOURCES[family]]).value_ends:
        for others in (["x"], []):
            schema = {"type": "object", "properties": {"a": {"enum": [f"a{end}", *others]}}, "required": ["a"]}
            tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
            options = {"tools": tools, "tool_choice": "required", "parallel_tool_calls": False}
            if others:
                for seed in range(4):
                    assert json.loads(Drawn(tokenizer, family, options, seed).calls[0].arguments) == {"a": "x"}
            else:
                with pytest.raises(GrammarError, match=r"tools\[0\]: no value of 'a' can be written"):
                    Drawn(tokenizer, family, options, 1)


@pytest.mark.parametrize("family", TAGGED)
@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"properties": {"a": {"type": "string", "pattern": "^a"}}}, 'the keywords "pattern" cannot be enforced'),
        ({"properties": {"a": {"type": "string", "format": "date", "not": {}}}}, '"format", "not"'),
        ({"properties": {"a": {"anyOf": [{"$ref": "#/properties/a"}, {"type": "string"}]}}}, '"anyOf"'),
        ({"properties": {}, "minProperties": 1}, '"minProperties"'),
        ({"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, '"anyOf"'),
    ],
)
def test_what_cannot_be_kept_of_them(tokenizer: Tokenizer, family: str, schema: dict[str, Any], expected: str) -> None:
    function = {"name": "f", "parameters": {"type": "object", **schema}}
    options = {"tool_choice": "required", "parallel_tool_calls": False}
    with pytest.raises(GrammarError, match=re.escape(expected)) as raised:
        Drawn(
            tokenizer, family, {"tools": [{"type": "function", "function": {**function, "strict": True}}], **options}, 1
        )
    assert raised.value.place == "tools[0]"
    Drawn(tokenizer, family, {"tools": [{"type": "function", "function": function}], **options}, 1, most=20)


@pytest.mark.parametrize("wrong", [0, 41, 99])
def test_the_wrong_one_of_many_tools_is_found_by_halves(
    tokenizer: Tokenizer, wrong: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may take half a second to compile."""
    compiled: list[int] = []
    compile = Grammars.compile

    def counted(self: Grammars, structure: Structure) -> Grammar:
        compiled.append(1)
        return compile(self, structure)

    monkeypatch.setattr(Grammars, "compile", counted)
    tools: list[Any] = [{"name": f"f{i}", "strict": True, "parameters": {"type": "object"}} for i in range(100)]
    tools[wrong]["parameters"] = {"type": "object", "not": {}}
    with pytest.raises(GrammarError) as raised:
        Drawn(tokenizer, next(iter(SOURCES)), {"tools": tools, "tool_choice": "required"}, 1)
    assert raised.value.place == f"tools[{wrong}]" and len(compiled) < 12


FOUND = {name: find(templates()[source]) for name, source in SOURCES.items()}
TRIGGERED = [(name, trigger) for name, one in FOUND.items() if not one.declines for trigger in one.triggers]


@pytest.mark.parametrize(("family", "trigger"), TRIGGERED)
def test_what_follows_the_beginning_of_a_call(tokenizer: Tokenizer, family: str, trigger: str) -> None:
    begun = f"<|channel|>commentary {trigger}" if family == "harmony" else trigger
    for seed in range(4):
        check(family, Drawn(tokenizer, family, {"tools": TOOLS, "parallel_tool_calls": False}, seed, begun))


@pytest.mark.parametrize("family", ["generic", "hermes", "glm", "granite"])
def test_a_tag_that_is_only_spoken_of_hides_no_call(tokenizer: Tokenizer, family: str) -> None:
    """Where one token ends it and goes on as no call does."""
    trigger = find(templates()[SOURCES[family]]).triggers[0]
    said = f'Say "{trigger}" first.'
    assert b'>"' in map(tokenizer.piece, tokenizer.encode(said, add_special=False))
    for seed in range(4):
        begun = f"{said} {trigger}"
        drawn = Drawn(tokenizer, family, {"tools": TOOLS, "parallel_tool_calls": False}, seed, begun)
        assert drawn.text == said
        drawn.text = ""
        check(family, drawn)


@pytest.mark.parametrize("much", [0, 200])
def test_a_recipient_within_a_message_is_text(tokenizer: Tokenizer, much: int) -> None:
    said = f"<|channel|>final<|message|>{'Well, ' * much}I write to=functions.get_time to call it."
    options = {"tools": TOOLS, "parallel_tool_calls": False}
    for seed in range(3):
        drawn = Drawn(tokenizer, "harmony", options, seed, said, most=3 * much + 60)
        assert drawn.calls == () and "to=functions.get_time to call it." in drawn.text
        begun = f"{said}<|end|><|start|>assistant<|channel|>commentary to=functions."
        drawn = Drawn(tokenizer, "harmony", options, seed, begun, most=3 * much + 300)
        assert len(drawn.calls) == 1 and drawn.text.endswith("to=functions.get_time to call it.")


@pytest.mark.parametrize("space", ["", " ", "\n", " \n"])
def test_white_space_in_the_beginning_of_a_call(tokenizer: Tokenizer, space: str) -> None:
    options = {"tools": TOOLS, "parallel_tool_calls": False}
    declined = 0
    for seed in range(6):
        drawn = Drawn(tokenizer, "command r+", options, seed, f"Action:{space}```json")
        if drawn.calls:
            check("command r+", drawn)
        else:  # the model says that it calls none
            declined += 1
            assert json.loads(drawn.text.split("```json")[1].strip("`")) == [
                {"tool_name": "directly-answer", "parameters": {}}
            ]
    assert declined < 6


@pytest.mark.parametrize("family", SOURCES)
def test_calls_or_a_text_with_a_structure(tokenizer: Tokenizer, family: str) -> None:
    structure = Structure("schema", '{"type": "array", "items": {"enum": [1, "<tool_call>"]}, "maxItems": 2}')
    options = {"tools": TOOLS, "parallel_tool_calls": False, "thinking_budget": 2}
    texts = calls = 0
    for seed in range(12):
        drawn = Drawn(tokenizer, family, options, seed, structure=structure)
        assert drawn.guide.complete
        if drawn.calls:
            calls += 1
            check(family, drawn)
        else:
            texts += 1
            assert all(one in (1, "<tool_call>") for one in json.loads(drawn.text))
    assert texts and calls


@pytest.mark.parametrize("family", SOURCES)
@pytest.mark.parametrize("key", ["tags", "name"])
def test_calls_or_an_object(tokenizer: Tokenizer, family: str, key: str) -> None:
    """A call may begin as an object does."""
    schema = {"type": "object", "properties": {key: {"enum": ["x"]}}, "required": [key], "additionalProperties": False}
    structure = Structure("schema", json.dumps(schema))
    options = {"tools": TOOLS, "parallel_tool_calls": False, "thinking_budget": 1}
    texts = calls = 0
    for seed in range(12):
        drawn = Drawn(tokenizer, family, options, seed, structure=structure)
        if drawn.calls:
            calls += 1
            check(family, drawn)
        else:
            texts += 1
            assert json.loads(drawn.text) == {key: "x"}
    assert texts and calls


@pytest.mark.parametrize("family", SOURCES)
def test_tags_within_a_text_with_a_structure_are_text(tokenizer: Tokenizer, family: str) -> None:
    """Those that the tokenizer spells as text."""
    one = find(templates()[SOURCES[family]])
    thinks = thinking(one, templates()[SOURCES[family]])
    tags = [*one.opens, *one.tags, *one.layout, *((thinks.opens, thinks.closes) if thinks is not None else ())]
    value = {"tags": [f"a{tag}b" for tag in tags]}
    structure = Structure("schema", json.dumps({"const": value}))
    texts = 0
    for seed in range(12):
        options = {"tools": TOOLS, "parallel_tool_calls": False, "thinking_budget": 1}
        drawn = Drawn(tokenizer, family, options, seed, structure=structure, most=800)
        if not drawn.calls:
            texts += 1
            assert json.loads(drawn.text) == value and drawn.guide.complete
    assert texts


def test_several_calls(tokenizer: Tokenizer) -> None:
    """Required: after each call, another may follow, or the end."""
    counts = set()
    for seed in range(12):
        drawn = Drawn(tokenizer, "hermes", {"tools": TOOLS, "tool_choice": "required"}, seed)
        counts.add(len(drawn.calls))
        assert drawn.text == "" or not drawn.ended
    assert max(counts) > 1


@pytest.mark.parametrize("joint", ["; ", ", ", "\n"])
def test_a_second_call_where_the_first_begins_the_answer(tokenizer: Tokenizer, joint: str) -> None:
    for seed in range(4):
        one = '{"name": "get_time", "parameters": {}}'
        drawn = Drawn(tokenizer, "llama", {"tools": TOOLS}, seed, f'{one}{joint}{{"name": "', most=60)
        first, second = drawn.calls  # then any text follows
        assert (first.name, first.arguments) == ("get_time", "{}")
        jsonschema.validate(json.loads(second.arguments), SMALL[second.name])


def test_text_is_free(tokenizer: Tokenizer) -> None:
    drawn = Drawn(tokenizer, "hermes", {"tools": TOOLS}, 3, "Hello <tool_cal> {")
    drawn.guide.fill()
    assert int(np.unpackbits(drawn.guide.words.view(np.uint8)).sum()) == tokenizer.vocab_size


def test_a_budget_ends_reasoning(tokenizer: Tokenizer) -> None:
    for budget in (0, 1, 9):
        drawn = Drawn(tokenizer, "hermes", {"thinking_budget": budget}, 4, prompt="<think>\n")
        said = tokenizer.decode(drawn.ids)
        closing = tokenizer.encode("\n</think>\n\n", add_special=False)
        assert "</think>" in said and "</think>" not in drawn.reasoning + drawn.text
        assert tokenizer.decode(drawn.ids[: budget + len(closing)]).count("</think>") == 1


def test_reasoning_begins_once(tokenizer: Tokenizer) -> None:
    """A second tag is content, and a call after it is bound."""
    options = {"tools": TOOLS, "parallel_tool_calls": False, "thinking_budget": 20}
    for seed in range(4):
        drawn = Drawn(tokenizer, "hermes", options, seed, "<think>a</think>\n<think> <tool_call>")
        assert (drawn.text, drawn.reasoning) == ("<think>", "a")
        drawn.text = ""
        check("hermes", drawn)


BROKEN_OFF = [
    name for name, source in SOURCES.items()
    if (one := find(templates()[source])).ends_thinking and thinking(one, templates()[source]) is not None
]  # fmt: skip


@pytest.mark.parametrize("family", BROKEN_OFF)
def test_a_call_may_end_reasoning(tokenizer: Tokenizer, family: str) -> None:
    """It is bound, and the budget of what it ended puts nothing into it."""
    source = templates()[SOURCES[family]]
    tags, tag = thinking(find(source), source), find(source).ends_thinking[0]
    assert tags is not None
    for choice in ("auto", "required"):
        options = {"tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": False, "thinking_budget": 24}
        for seed in range(4):
            drawn = Drawn(tokenizer, family, options, seed, f"Hm. {tag}", prompt=tags.opens)
            assert drawn.reasoning == "Hm."
            check(family, drawn)


def test_an_interrupted_guide_goes_on(tokenizer: Tokenizer) -> None:
    """Its state follows from what was drawn."""
    options = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
    drawn = Drawn(tokenizer, "hermes", options, 5)
    whole: list[Any] = [(id, None, []) for id in drawn.ids]
    guide: Any = Drawn(tokenizer, "hermes", options, 5).guide
    guide._moving = True
    guide.follow(whole)
    assert guide.complete and guide.ids == drawn.ids
