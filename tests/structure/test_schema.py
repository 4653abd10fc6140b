"""Schemas as they are settled before they are compiled, against jsonschema and pydantic."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, SecretStr, TypeAdapter

from pellucid.errors import GrammarError
from pellucid.structure import Structure
from pellucid.text.schema import settled
from tests.structure.walks import grammars, of, takes, validator, walk

G = grammars()
TAGGED = {"type": "object", "properties": {"tag": {"const": 1}}, "required": ["tag"]}
OTHER = {"type": "object", "properties": {"tag": {"const": 2}}, "required": ["tag"]}


@pytest.mark.parametrize(
    ("some", "good", "bad"),
    [
        ([{"const": 1, "title": "one"}, {"const": 2}, {"const": True}], ["1", "2", "true"], ["3", "false"]),
        ([{"type": "integer", "maximum": 0}, {"type": "integer", "exclusiveMinimum": 0}], ["0", "1", "-5"], ["0.5"]),
        ([{"type": "number", "maximum": 0.5}, {"minimum": 0.75, "type": "number"}], ["0.5", "0.75"], ["0.6"]),
        ([{"type": "string", "maxLength": 1}, {"type": "string", "minLength": 3}], ['"a"', '"abc"'], ['"ab"']),
        ([{"type": "array", "maxItems": 0}, {"type": "array", "minItems": 2}], ["[]", "[1,1]"], ["[1]"]),
        ([{"$ref": "#/$defs/tagged"}, {"type": "null"}], ['{"tag":1}', "null"], ['{"tag":2}']),
        ([{"$ref": "#/$defs/tagged"}, {"$ref": "#/$defs/other"}], ['{"tag":1}', '{"tag":2}'], ["{}", '{"tag":3}']),
        ([{"anyOf": [{"const": 1}, {"const": 2}]}, {"anyOf": [{"const": 3}, {"type": "null"}]}], ["1", "null"], ["4"]),
    ],
)
def test_one_of_alternatives_that_are_apart_is_kept(some: list[Any], good: list[str], bad: list[str]) -> None:
    schema = {"oneOf": some, "$defs": {"tagged": TAGGED, "other": OTHER}}
    check, bound = validator(schema), G.compile(of(schema))
    for text in good:
        assert check.is_valid(json.loads(text)) and takes(bound, text), text
    for text in bad:
        assert not check.is_valid(json.loads(text)) and not takes(bound, text), text


@pytest.mark.parametrize(
    "some",
    [
        [{"type": "integer", "minimum": 0}, {"type": "integer", "maximum": 0}],
        [{"type": "number", "maximum": 1}, {"type": "number", "minimum": 1, "exclusiveMinimum": False}],
        [{"const": 1}, {"const": 1.0}],
        [{"enum": ["a", 1]}, {"enum": [2, "a"]}],
        [{"properties": {"tag": {"const": 1}}}, {"properties": {"tag": {"const": 2}}}],
        [{"properties": {"tag": {"const": 1}}, "required": ["tag"]}, {"type": ["object", "null"], "required": ["a"]}],
        [
            TAGGED,
            {"type": "object", "required": ["tag"], "additionalProperties": False, "patternProperties": {"g": {}}},
        ],
        [{"$ref": "#/nowhere"}, {"type": "string", "minLength": 1}],
    ],
)
def test_one_of_alternatives_that_may_overlap_is_refused(some: list[Any]) -> None:
    with pytest.raises(GrammarError):
        G.compile(of({"oneOf": some}))


class Leaf(BaseModel):
    kind: Literal["leaf"] = "leaf"
    value: int = 0


class Node(BaseModel):
    kind: Literal["node"] = "node"
    left: Tree
    right: Tree


Tree = Annotated[Leaf | Node, Field(discriminator="kind")]
Node.model_rebuild()


def test_discriminators_with_defaults_are_written() -> None:
    """Without them pydantic knows no class, and the alternatives overlap."""
    reads = TypeAdapter(list[Tree])
    bound, check = G.compile(of(reads.json_schema())), validator(reads.json_schema())
    assert takes(bound, '[{"kind":"leaf","value":1}]') and not takes(bound, '[{"value":1}]')
    ended = 0
    for seed in range(30):
        text = walk(bound, seed)
        if text is not None:
            ended += 1
            assert check.is_valid(json.loads(text)) and reads.validate_json(text) is not None
    assert ended > 10


def test_keywords_that_describe_beside_a_reference_to_itself() -> None:
    node = {"properties": {"next": {"$ref": "#", "deprecated": True, "x-order": 1}}, "additionalProperties": False}
    bound = G.compile(of({"type": "object", **node}))
    assert takes(bound, '{"next":{"next":{}}}') and not takes(bound, '{"next":1}')
    named = {"properties": {"example": {"type": "integer"}}, "required": ["example"]}
    assert not takes(G.compile(of(named)), '{"example":"a"}')


def test_comparisons_of_many_alternatives_are_bounded() -> None:
    """The second would compare 3 ** 8 pairs at each of 40 levels."""
    hostile = {
        "type": "object",
        "required": list("abcdefgh"),
        "properties": {name: {"oneOf": [{"$ref": "#/$defs/a"}] * 3} for name in "abcdefgh"},
    }
    assert "anyOf" in settled({"oneOf": [{"const": i} for i in range(2500)]}, "schema")
    assert "oneOf" in settled({"oneOf": [{"$ref": "#/$defs/a"}] * 2, "$defs": {"a": hostile}}, "schema")


@pytest.mark.parametrize("form", ["date", "date-time"])
def test_dates_are_those_of_the_calendar(form: str) -> None:
    after = "" if form == "date" else "T10:59:59.5Z"
    every = [
        f"{year}-{day}" for year in ("0004", "1900", "2000", "2023", "2024") for day in ("02-28", "02-29", "12-31")
    ]
    for schema in ({"format": form}, {"format": form, "pattern": "-"}, {"format": form, "allOf": [{"minLength": 1}]}):
        bound = G.compile(of({"type": "string", **schema}))
        taken = {day for day in every if takes(bound, f'"{day}{after}"')}
        assert taken == set(every) - {"1900-02-29", "2023-02-29"}
        assert not takes(bound, f'"0000-01-01{after}"')


def test_times_are_read_by_python() -> None:
    for form in ("time", "date-time"):
        bound, before = G.compile(of({"type": "string", "format": form})), "2024-02-29T" * (form == "date-time")
        assert takes(bound, f'"{before}23:59:59Z"') and not takes(bound, f'"{before}23:59:60Z"')
    for made in (datetime.date, datetime.datetime, datetime.time):
        reads = TypeAdapter(made)
        bound = G.compile(of(reads.json_schema()))
        for seed in range(60):
            text = walk(bound, seed)
            assert text is None or reads.validate_json(text) is not None


def test_keys_that_could_count_twice_are_refused() -> None:
    free = {"type": "object", "additionalProperties": {"type": "integer"}}
    with pytest.raises(GrammarError, match="may be repeated") as raised:
        G.compile(of({"properties": {"a": {**free, "minProperties": 2}}}))
    assert raised.value.place == "schema.properties.a.minProperties"
    assert takes(G.compile(of({**free, "minProperties": 2}, strict=False)), '{"a":1,"b":2}')
    lenient = json.dumps({**free, "minProperties": 2, "x-guidance": {"lenient": True}})
    assert G.compile(Structure("grammar", f"start: %json {lenient}"))
    named = {"properties": {"a": {}}, "required": ["a"]}
    for kept in ({"minProperties": 1}, {"minProperties": 2, **named}):
        bound = G.compile(of({**free, **kept}))
        assert takes(bound, '{"a":1,"b":2}') and not takes(bound, "{}")


BOUNDS = [
    {"exclusiveMinimum": 0, "maximum": 0.5},
    {
        "minimum": 0,
        "exclusiveMinimum": True,
        "exclusiveMaximum": 0.5,
        "$schema": "http://json-schema.org/draft-04/schema#",
    },
    {"exclusiveMinimum": 2, "exclusiveMaximum": 2.05},
    {"allOf": [{"exclusiveMinimum": 1}, {"maximum": 1.25}]},
    {"minimum": -0.25, "exclusiveMaximum": 0},
    {"exclusiveMinimum": 0, "maximum": 0.5, "multipleOf": 0.1},
]


@pytest.mark.parametrize("schema", BOUNDS)
def test_exclusive_bounds_are_left_out(schema: dict[str, Any]) -> None:
    bound = G.compile(of({"type": "number", **schema}))
    check = validator({"type": "number", **schema})
    kept = 0
    for whole in ("-0", "0", "1", "2", "-1"):
        for part in ("", ".0", ".000", ".01", ".1", ".10", ".20", ".25", ".5", ".001"):
            valid, taken = check.is_valid(json.loads(whole + part)), takes(bound, whole + part)
            assert valid or not taken, whole + part
            kept += taken
    assert kept


def test_exclusive_bounds_of_many_digits() -> None:
    most = 2**40 + 0.5
    bound = G.compile(of({"type": "number", "exclusiveMinimum": 2**40, "maximum": most}))
    assert takes(bound, str(most)) and not takes(bound, str(2**40)) and not takes(bound, str(2**40 + 1))


@pytest.mark.parametrize("more", [{}, {"additionalProperties": {"type": "string"}}, {"required": ["é", "z"]}])
def test_a_key_has_one_spelling(more: dict[str, Any]) -> None:
    """By escapes another would be a key that has a schema of its own, with a value of another."""
    schema = {"type": "object", "properties": {"é": {"type": "integer"}, "a": {"type": "integer"}}, **more}
    bound, start = G.compile(of(schema)), '{"é":1,"z":"s",' if "required" in more else "{"
    assert takes(bound, start + '"b":"s"}') and takes(bound, start + r'"\"\n\u0001":"s","😀":"s"}')
    for key in (r"\u00e9", r"\u0061", "a", r"\u0062", r"\ud800"):
        assert not takes(bound, f'{start}"{key}":"s"}}'), key
    assert takes(G.compile(of({"properties": {"more": schema}})), '{"x":1}')


def test_formats_that_ask_nothing() -> None:
    class Login(BaseModel):
        password: SecretStr
        photo: bytes
        folder: Path

    bound = G.compile(of(Login.model_json_schema()))
    assert takes(bound, '{"password":"a b","photo":"\u00e9","folder":"x/y"}')


@pytest.mark.parametrize(
    "schema, place, reason",
    [
        (
            {"items": {"type": "string", "format": "base64"}},
            "schema.items.format",
            "unknown format: base64; expected one of",
        ),
        (
            {"properties": {"a": {"type": "string", "pattern": "a"}, "b": {"type": "string", "pattern": "^[[]a]$"}}},
            "schema.properties.b.pattern",
            "not a regular expression in Rust's syntax: unclosed character class",
        ),
        ({"anyOf": [{"type": "string", "pattern": "(?=a)"}]}, "schema.anyOf[0].pattern", "look-around"),
        ({"type": "string", "pattern": "(\na"}, "schema.pattern", "unclosed group"),
    ],
)
def test_errors_name_the_keyword(schema: dict[str, Any], place: str, reason: str) -> None:
    with pytest.raises(GrammarError) as failed:
        G.compile(of(schema))
    assert failed.value.place == place and reason in str(failed.value) and "\n" not in str(failed.value)


def test_errors_of_expressions_are_short() -> None:
    with pytest.raises(GrammarError) as failed:
        G.compile(Structure("regex", "(a"))
    assert str(failed.value) == "regex: not a regular expression in Rust's syntax: unclosed group"


@pytest.mark.parametrize(
    ("schema", "bad", "good"),
    [
        ({"format": "uint8", "minimum": -1, "exclusiveMinimum": True}, "-1", "0"),
        ({"format": "uint8", "exclusiveMinimum": True}, "-1", "0"),
        ({"format": "int8", "minimum": -128, "exclusiveMinimum": True}, "-128", "-127"),
        ({"format": "uint8", "maximum": 300, "exclusiveMaximum": True}, "256", "255"),
        ({"format": "uint8", "maximum": 255, "exclusiveMaximum": True}, "255", "254"),
    ],
)
def test_exclusive_bounds_of_draft_4_beside_those_of_a_format(schema: Any, bad: str, good: str) -> None:
    bound = G.compile(of({"type": "integer", **schema}))
    assert takes(bound, good) and not takes(bound, bad)


@pytest.mark.parametrize("multiple", [0.25, 0.125, 0.04, 0.0375, 0.5, 2.5, 1.28, 3, 20])
@pytest.mark.parametrize("more", [{}, {"allOf": [{"multipleOf": 0.5}]}, {"anyOf": [{"minimum": 1}, {"maximum": 0}]}])
def test_multiples_with_fewer_digits(multiple: float, more: Any) -> None:
    for schema in ({"multipleOf": multiple, **more}, {"type": ["number", "null"], "multipleOf": multiple, **more}):
        check, bound = validator(schema), G.compile(of(schema))
        for n in range(-30, 31):
            for value in (n * multiple, n * multiple / 2):
                text = repr(int(value) if value == int(value) else round(value, 6))
                assert takes(bound, text) == check.is_valid(json.loads(text)), text
