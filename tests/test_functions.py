"""Python functions as tools: their declarations, and how calls run them."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import json
from typing import Annotated, Any, Literal, NamedTuple, Optional, TypedDict

import pytest

from pellucid.functions import declare, run


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0


class Pair(NamedTuple):
    a: int
    b: str = ""


class Table(TypedDict):
    name: str


def documented(city: str, days: int = 2) -> str:
    """The weather.

    Of any city.

    Args:
        city (str): Its name,
            in full.
        days: How many: at most 7.

    Returns:
        text: A sentence.
    """
    return f"{city} {days}"


def sphinx(a: Annotated[int, "A number."], b: str) -> int:
    """Adds.

    :param a: not this
    :param str b: A text
        of lines.
    :returns: a sum
    """
    return a


def every(
    text: str,
    number: float,
    flag: bool,
    any: Any,
    choice: Literal["a", "b"],
    mixed: Literal["a", 1, None],
    colour: Colour,
    maybe: Optional[int],  # noqa: UP045  (as users write it)
    either: int | list[str],
    some: tuple[int, ...],
    two: tuple[int, str],
    unique: set[str],
    table: dict[str, int],
    point: Point,
    pair: Pair,
    typed: Table,
    *,
    named: bytes | None = None,
) -> None:
    pass


def test_documentation() -> None:
    made = declare(documented)["function"]
    assert (made["name"], made["description"]) == ("documented", "The weather.\n\nOf any city.")
    assert made["parameters"] == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Its name, in full."},
            "days": {"type": "integer", "description": "How many: at most 7.", "default": 2},
        },
        "required": ["city"],
        "additionalProperties": False,
    }
    made = declare(sphinx)["function"]
    assert made["description"] == "Adds."
    assert [one["description"] for one in made["parameters"]["properties"].values()] == [
        "A number.",
        "A text of lines.",
    ]


def test_types() -> None:
    every.__annotations__.pop("named")
    with pytest.raises(TypeError, match=r"tools: every\(named\): expected a type"):
        declare(every)
    every.__annotations__["named"] = "bool"
    found = declare(every)["function"]["parameters"]["properties"]
    assert found["text"] == {"type": "string"} and found["number"] == {"type": "number"}
    assert found["flag"] == {"type": "boolean"} and found["any"] == {}
    assert found["choice"] == {"type": "string", "enum": ["a", "b"]}
    assert found["mixed"] == {"type": ["integer", "null", "string"], "enum": ["a", 1, None]}
    assert found["colour"] == {"type": "string", "enum": ["red", "blue"]}
    assert found["maybe"] == {"type": ["integer", "null"]}
    assert found["either"] == {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}]}
    assert found["some"] == {"type": "array", "items": {"type": "integer"}}
    assert found["two"]["prefixItems"] == [{"type": "integer"}, {"type": "string"}]
    assert found["unique"] == {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
    assert found["table"] == {"type": "object", "additionalProperties": {"type": "integer"}}
    assert found["point"]["required"] == ["x"] and found["pair"]["required"] == ["a"]
    assert found["typed"]["required"] == ["name"]
    json.dumps(found)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda: None, None),
        (lambda *a: None, "(a): expected a parameter that has a name"),
        (lambda a: None, "(a): expected a type"),
        (print, "expected"),
    ],
)
def test_functions_that_cannot_be_declared(function: Any, expected: str | None) -> None:
    if expected is None:
        assert declare(function)["function"]["parameters"]["properties"] == {}
        return
    with pytest.raises(TypeError, match="tools: ") as failed:
        declare(function)
    assert expected in str(failed.value)


def add(a: int, b: float = 0.5) -> float:
    return a + b


def move(point: Point, colour: Colour) -> Point:
    assert isinstance(point, Point) and isinstance(colour, Colour)
    return Point(point.x + 1, point.y)


def fails(a: int) -> None:
    raise RuntimeError("no\nluck")


KNOWN: dict[str, Any] = {"add": add, "move": move, "fails": fails, "documented": documented}


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("add", '{"a": 1}', "1.5"),
        ("add", '{"a": 1.0, "b": 2}', "3.0"),
        ("documented", '{"city": "Zürich"}', "Zürich 2"),
        ("move", '{"point": {"x": 1}, "colour": "red"}', '{"x": 2.0, "y": 0.0}'),
        ("other", "{}", "Error: there is no function other; there are: add, move, fails, documented"),
        ("add", "{", "Error: the arguments are not JSON"),
        ("add", "[1]", "Error: the arguments are not a JSON object"),
        ("add", "{}", "Error: the arguments do not fit: missing a required argument: 'a'"),
        ("add", '{"a": "x"}', "Error: the arguments do not fit: 'x': expected integer"),
        ("add", '{"a": true}', "Error: the arguments do not fit: True: expected integer"),
        ("add", '{"a": 1, "c": 2}', "Error: the arguments do not fit"),
        ("move", '{"point": {"x": 1}, "colour": "green"}', "Error: the arguments do not fit"),
        ("fails", '{"a": 1}', "Error: RuntimeError: no"),
    ],
)
def test_calls(name: str, arguments: str, expected: str) -> None:
    assert run(KNOWN, name, arguments).startswith(expected)


def test_what_ends_the_program_is_an_error_of_the_call() -> None:
    def leaves() -> None:
        raise SystemExit("bye")

    assert run({"leaves": leaves}, "leaves", "{}") == "Error: SystemExit: bye"


def test_asynchronous_functions_run_to_their_end() -> None:
    async def later(a: int) -> dict[str, int]:
        await asyncio.sleep(0)
        return {"a": a + 1}

    async def fails() -> None:
        raise ValueError("no luck")

    known: dict[str, Any] = {"later": later, "fails": fails}
    assert run(known, "later", '{"a": 1}') == '{"a": 2}'
    assert run(known, "fails", "{}") == "Error: ValueError: no luck"

    async def within() -> None:
        with pytest.raises(RuntimeError, match="later is asynchronous, and an event loop is running"):
            run(known, "later", '{"a": 1}')
        assert await asyncio.to_thread(run, known, "later", '{"a": 1}') == '{"a": 2}'

    asyncio.run(within())
