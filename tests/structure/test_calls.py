"""Calls of tools with random schemas, in every family's form: what their grammar allows is read as a call whose
arguments the schema allows, however it is cut. Without a model."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pellucid.errors import GrammarError
from pellucid.structure import Structure
from pellucid.text.dialects import ALL, Dialect, Parser
from pellucid.text.dialects.lark import calls_grammar
from tests.structure.test_structured import drawn
from tests.structure.walks import grammars, validator, walk
from tests.text.dialects.reading import read

FREE = ("qwen coder", "seed-oss", "glm")  # texts between tags are bound by nothing but their end


def objects(n: int) -> list[Any]:
    """Schemas of objects, with names of every kind."""
    found = [schema for _, schema in drawn(n * 8, 3) if schema.get("type") == "object"]
    assert len(found) >= n
    return found[:n]


@pytest.fixture(scope="module")
def schemas(request: pytest.FixtureRequest) -> list[Any]:
    return objects(100 if request.config.getoption("nightly") else 8)


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_random_tools(one: Dialect, schemas: list[Any]) -> None:
    some, ended = grammars(), 0
    for seed, schema in enumerate(schemas):
        try:
            bound = some.compile(Structure("grammar", calls_grammar(one, [("f", schema, True)], {})))
        except GrammarError:  # as for an answer with this schema
            with pytest.raises(GrammarError):
                some.compile(Structure("schema", json.dumps(schema)))
            continue
        text = walk(bound, seed, 600)
        if text is None:
            continue
        ended += 1
        written, tools = text.decode(), {"f": schema}
        content, reasoning, calls = read(Parser(one, tools), written, [])
        assert (content, reasoning) == ("", "") and calls, (schema, written)
        assert read(Parser(one, tools), written, range(1, len(written))) == (content, reasoning, calls)
        for name, arguments in calls:
            assert name == "f"
            found = json.loads(arguments)
            assert isinstance(found, dict)
            if one.name not in FREE:
                assert not list(validator(schema).iter_errors(found)), (schema, written, arguments)
    assert ended > len(schemas) // 2


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
@pytest.mark.parametrize("strict", [True, False])
def test_integers_beyond_doubles_are_refused(one: Dialect, strict: bool) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 2**53 + 1}}}
    with pytest.raises(GrammarError, match=r"parameters.properties.a.maximum of 'f': 9007199254740993") as raised:
        calls_grammar(one, [("f", schema, strict)], {})
    assert raised.value.place == "tools"


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_parameters_are_settled(one: Dialect) -> None:
    table: dict[str, Any] = {"a": {"type": "integer", "format": "int8"}, "b": {"type": "array", "uniqueItems": False}}
    schema = {"type": "object", "properties": table, "required": ["a", "b"]}
    made = calls_grammar(one, [("f", schema, True)], {})
    assert '"maximum": 127' in made and "int8" not in made and "uniqueItems" not in made
    assert table["a"]["format"] == "int8"  # the caller's own is as it was
    grammars().compile(Structure("grammar", made))
