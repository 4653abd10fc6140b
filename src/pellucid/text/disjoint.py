"""Whether JSON schemas have no value in common, so that a `oneOf` of them is an `anyOf`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any, TypeAlias, TypeGuard
from urllib.parse import unquote

__all__ = ["Disjoint", "is_number"]

MOST = 200_000  # comparisons for a schema, some 0.2 s
DEEPEST = 40  # references and properties that lead to each other
_Node: TypeAlias = Mapping[str, Any]
_SIZES = {"string": ("minLength", "maxLength"), "array": ("minItems", "maxItems")}
_KINDS = frozenset(["null", "boolean", "number", "string", "array", "object"])


class Disjoint:
    """Whether schemas within `root` have no value in common. False where that is not found: by their types, values,
    bounds and lengths, and the properties that an object must have."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._left = MOST
        self._known: dict[int, frozenset[Any] | None] = {}
        self._resolves = not _has_bases(root)

    def all(self, schemas: Sequence[Any]) -> bool:
        """Each of the schemas from each other one."""
        return self._listed(schemas, 0) or all(self._two(one, other, 0) for one, other in combinations(schemas, 2))

    def _listed(self, schemas: Sequence[Any], depth: int) -> bool:
        """Whether each lists other values, or values of a property that all must have: many are found at once."""
        every = [list(self._parts(one, depth)) for one in schemas]
        if not all(every) or depth > DEEPEST:
            return False
        listed = [next(filter(None, map(self._values, parts)), None) for parts in every]
        if None not in listed:
            some = [one for one in listed if one is not None]
            return len(frozenset().union(*some)) == sum(map(len, some))
        if any(not any(_kinds(node) == {"object"} for node in parts) for parts in every):
            return False
        needed = [{name for node in parts for name in _required(node)} for parts in every]
        return any(
            self._listed([_properties(parts, name) for parts in every], depth + 1)
            for name in sorted(needed[0].intersection(*needed[1:]))
        )

    def _two(self, one: Any, other: Any, depth: int) -> bool:
        self._left -= 1
        if self._left < 0 or depth > DEEPEST:
            return False
        if one is False or other is False:
            return True
        mine, others = list(self._parts(one, depth)), list(self._parts(other, depth))
        kinds = _KINDS.intersection(*map(_kinds, mine), *map(_kinds, others))
        if all(self._kind(kind, mine, others, depth) for kind in kinds):
            return True
        for nodes, against in ((mine, other), (others, one)):
            for node in nodes:
                for key in ("anyOf", "oneOf"):
                    some = node.get(key)
                    if isinstance(some, list) and all(self._two(a, against, depth + 1) for a in some):
                        return True
        return False

    def _parts(self, schema: Any, depth: int) -> Iterator[_Node]:
        """The objects all of which a value must satisfy."""
        if not isinstance(schema, dict) or depth > DEEPEST or self._left < 0:
            return
        self._left -= 1
        yield schema
        if "$ref" in schema:
            yield from self._parts(self.named(schema["$ref"]), depth + 1)
        if isinstance(schema.get("allOf"), list):
            for one in schema["allOf"]:
                yield from self._parts(one, depth + 1)

    def named(self, reference: Any) -> Any:
        """What a reference within the root leads to; None: unknown."""
        if not isinstance(reference, str) or not self._resolves or not (reference == "#" or reference.startswith("#/")):
            return None
        found = self._root
        for step in unquote(reference[1:]).split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict):
                found = found.get(step)
            elif isinstance(found, list) and step.isdecimal() and int(step) < len(found):
                found = found[int(step)]
            else:
                return None
        return found

    def _values(self, node: _Node) -> frozenset[Any] | None:
        """The values that a schema lists, where none is an array or an object."""
        listed = [node["const"]] if "const" in node else node.get("enum")
        if not isinstance(listed, list):
            return None
        if id(node) not in self._known:  # a node of the root, which stays
            plain = not any(isinstance(one, (list, dict)) for one in listed)
            self._known[id(node)] = frozenset((isinstance(one, bool), one) for one in listed) if plain else None
        return self._known[id(node)]

    def _kind(self, kind: str, mine: list[_Node], others: list[_Node], depth: int) -> bool:
        """Whether no value of a kind satisfies all of both."""
        self._left -= len(mine) * len(others)
        for one, other in product(mine, others):
            values, listed = self._values(one), self._values(other)
            if values is not None and listed is not None and values.isdisjoint(listed):
                return True
            if kind == "number" and _apart(_bounds(one), _bounds(other)):
                return True
            if kind in _SIZES and _apart(_sizes(one, kind), _sizes(other, kind)):
                return True
        if kind != "object":
            return False
        names = dict.fromkeys(name for node in (*mine, *others) for name in _required(node))
        return any(self._two(_properties(mine, name), _properties(others, name), depth + 1) for name in names)


def _has_bases(root: Any) -> bool:
    """Whether a schema within the root has an `$id`: references inside it start from there."""
    todo = list(root.values() if isinstance(root, dict) else [])
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            if isinstance(node.get("$id", node.get("id")), str):
                return True
            todo += node.values()
        elif isinstance(node, list):
            todo += node
    return False


def is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _kinds(node: _Node) -> frozenset[str]:
    given = node.get("type")
    types = [given] if isinstance(given, str) else given
    kinds = _KINDS
    if isinstance(types, list):
        kinds = frozenset("number" if one == "integer" else one for one in types if isinstance(one, str))
    if "const" in node:
        return kinds & {_kind_of(node["const"])}
    listed = node.get("enum")
    return kinds.intersection(map(_kind_of, listed)) if isinstance(listed, list) and len(listed) < 100 else kinds


def _kind_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    for kind, name in ((str, "string"), (list, "array"), (dict, "object")):
        if isinstance(value, kind):
            return name
    return "number"


def _sizes(node: _Node, kind: str) -> tuple[float, float, bool, bool]:
    """As `_bounds`, of the lengths of texts or lists."""
    least, most = _SIZES[kind]
    return _number(node, least, 0), _number(node, most, math.inf), False, False


def _number(node: _Node, key: str, default: float) -> float:
    value = node.get(key)
    return value if is_number(value) else default


def _bounds(node: _Node) -> tuple[float, float, bool, bool]:
    """Of numbers: least, most, and whether these are left out."""
    value = node.get("const")
    if is_number(value):
        return value, value, False, False
    least, most = _number(node, "minimum", -math.inf), _number(node, "maximum", math.inf)
    above, below = _number(node, "exclusiveMinimum", -math.inf), _number(node, "exclusiveMaximum", math.inf)
    # In draft 4 an exclusive bound is True, beside the bound.
    no_least = node.get("exclusiveMinimum") is True or above >= least
    no_most = node.get("exclusiveMaximum") is True or below <= most
    return max(least, above), min(most, below), no_least, no_most


def _apart(one: tuple[float, float, bool, bool], other: tuple[float, float, bool, bool]) -> bool:
    """Whether no number lies between the bounds of both."""
    for (_, most, _, open_end), (least, _, open_start, _) in ((one, other), (other, one)):
        if most < least or (most == least and (open_end or open_start)):
            return True
    return False


def _required(node: _Node) -> list[str]:
    names = node.get("required")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _properties(nodes: Sequence[_Node], name: str) -> dict[str, Any]:
    return {"allOf": [_property(node, name) for node in nodes]}


def _property(node: _Node, name: str) -> Any:
    """The schema of a property, or one that allows more."""
    table = node.get("properties")
    if isinstance(table, dict) and name in table:
        return table[name]
    return True if node.get("patternProperties") else node.get("additionalProperties", True)
