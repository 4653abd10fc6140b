"""Random JSON schemas of what can be kept."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

NAMES = st.sampled_from(["a", "name", "x y", "é", '"', "0", "not", "properties"]) | st.text(max_size=4)
NUMBERS = st.integers(-(10**6), 10**6) | st.sampled_from([-2.5, 0.0, 0.25, 1e-3, 12.75])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.sampled_from([1.5, -0.001, 1e20])
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)
PATTERNS = ["^[a-c]+$", "x", "^(yes|no)$", r"^\d{2,4}-[A-Z]$", "^.{3}$", "(ab)*c", r"\w\s", "^$", "[^a-z]"]
FORMATS = ["date", "time", "date-time", "uuid", "ipv4", "email", "hostname"]


@st.composite
def numbers(draw: st.DrawFn) -> dict[str, Any]:
    low, high = sorted([draw(NUMBERS), draw(NUMBERS)])
    schema: dict[str, Any] = {"type": draw(st.sampled_from(["integer", "number"]))}
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["minimum", "exclusiveMinimum"]))] = low
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["maximum", "exclusiveMaximum"]))] = high + 2
    if schema["type"] == "integer" and draw(st.integers(0, 4)) == 0:
        schema["multipleOf"] = draw(st.integers(1, 12))
    return schema


@st.composite
def strings(draw: st.DrawFn) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    kind = draw(st.sampled_from(["length", "pattern", "format", "free"]))
    if kind == "length":
        schema["minLength"] = draw(st.integers(0, 4))
        schema["maxLength"] = schema["minLength"] + draw(st.integers(0, 9))
    elif kind == "pattern":
        schema["pattern"] = draw(st.sampled_from(PATTERNS))
    elif kind == "format":
        schema["format"] = draw(st.sampled_from(FORMATS))
    return schema


def _about(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    @st.composite
    def objects(draw: st.DrawFn) -> dict[str, Any]:
        properties = draw(st.dictionaries(NAMES, inner, max_size=4))
        schema: dict[str, Any] = {"type": "object", "properties": properties}
        if properties:
            schema["required"] = draw(st.lists(st.sampled_from(sorted(properties)), unique=True, max_size=4))
        more = draw(st.sampled_from(["", "none", "any", "such"]))
        if more:
            schema["additionalProperties"] = {"none": False, "any": True}.get(more, None)
            if more == "such":
                schema["additionalProperties"] = draw(inner)
        return schema

    @st.composite
    def arrays(draw: st.DrawFn) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "array"}
        if draw(st.booleans()):
            schema["prefixItems"] = draw(st.lists(inner, min_size=1, max_size=3))
        schema["items"] = draw(inner | st.just(False))
        if schema["items"] is not False:
            schema["minItems"] = draw(st.integers(0, 3))
            schema["maxItems"] = schema["minItems"] + draw(st.integers(0, 3))
        return schema

    several = st.lists(inner, min_size=1, max_size=3)
    return objects() | arrays() | st.builds(lambda some: {"anyOf": some}, several)


def schemas() -> st.SearchStrategy[Any]:
    """As they are; and with parts that `$ref` names, once within themselves."""
    leaves = st.one_of(
        numbers(),
        strings(),
        st.sampled_from(
            [{"type": "null"}, {"type": "boolean"}, {"type": ["string", "null"]}, {"$ref": "#/$defs/list"}]
        ),
        st.builds(lambda value: {"const": value}, VALUES),
        st.builds(lambda values: {"enum": values}, st.lists(VALUES, min_size=1, max_size=4)),
    )
    made = st.recursive(leaves, _about, max_leaves=8)
    chain = {"type": "object", "properties": {"next": {"$ref": "#/$defs/list"}}, "additionalProperties": False}
    return made.map(lambda schema: {**schema, "$defs": {"list": chain}})
