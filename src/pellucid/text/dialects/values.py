"""Arguments that are not written in JSON, converted to JSON by the types that a tool's schema declares."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pellucid.text.dialects.reader import whole_characters

__all__ = ["Literal", "alternatives", "declared", "key", "quoted", "types", "value", "whole"]

_KINDS = {"str": "string", "bool": "boolean", "int": "integer", "float": "number", "NoneType": "null"}
_WORDS = {"true": "true", "false": "false", "null": "null", "none": "null"}
_MOST_DEPTH = 60
_MOST_BRANCHES = 200  # of a schema
_BRANCHES = ("$ref", "anyOf", "oneOf", "allOf")
_TOLD = ("title", "description", "default", "examples", "$comment", "$defs", "definitions")  # without constraints


def declared(schema: Any, name: str) -> frozenset[str]:
    """The JSON types that a schema of an object declares for a property; none if it does not specify any."""
    schema = whole(schema)
    properties = schema.get("properties")
    return types(properties.get(name) if isinstance(properties, Mapping) else None, schema)


def whole(schema: Any) -> Mapping[str, Any]:
    """An object's schema, merged with what it refers to if that leaves a single alternative."""
    if not isinstance(schema, Mapping):
        return {}
    found = alternatives(schema, schema) if any(word in schema for word in _BRANCHES) else [schema]
    return found[0] if len(found) == 1 else schema


def types(schema: Any, root: Any) -> frozenset[str]:
    """The JSON types that a schema declares; none if it does not specify any. root: the schema that its references
    refer to."""
    found: set[str] = set()
    seen: set[int] = set()  # references may go in circles
    left = [schema]
    while left:
        one = left.pop()
        if not isinstance(one, Mapping) or id(one) in seen:
            continue
        seen.add(id(one))
        reference, kind, values = one.get("$ref"), one.get("type"), one.get("enum")
        if isinstance(reference, str) and reference.startswith("#/"):
            left.append(_referred(reference, root))
        elif isinstance(kind, str):
            found.add(kind)
        elif isinstance(kind, (list, tuple)):
            found.update(part for part in kind if isinstance(part, str))
        elif "const" in one:
            found.add(_type(one["const"]))
        elif isinstance(values, (list, tuple)):
            found.update(map(_type, values))
        else:
            branches = (one.get(word) for word in ("anyOf", "oneOf", "allOf"))
            left += [part for several in branches if isinstance(several, (list, tuple)) for part in several]
    return frozenset(found)


def alternatives(schema: Any, root: Any) -> list[Mapping[str, Any]]:
    """Schemas one of which a value must match, with references and branches expanded. If that makes too many, or some
    contradict each other, these stay unexpanded. root: the schema that its references refer to."""
    steps = 0

    def apart(one: Any) -> list[Mapping[str, Any]]:
        nonlocal steps
        steps += 1
        if not isinstance(one, Mapping):
            return [{}]
        several: list[Any] = [one[word] for word in ("anyOf", "oneOf") if word in one]
        every = one.get("allOf", [])
        several += [[part] for part in every] if isinstance(every, (list, tuple)) else [None]
        if "$ref" in one:
            several.append([_referred(str(one["$ref"]), root)])
        made = [{k: v for k, v in one.items() if k not in _BRANCHES}]
        for branches in several:
            if not isinstance(branches, (list, tuple)) or steps > _MOST_BRANCHES:
                return [one]
            parts = [part for branch in branches for part in apart(branch)]
            if len(made) * len(parts) > _MOST_BRANCHES or any(_differ(a, b) for a in made for b in parts):
                return [one]
            made = [{**b, **a} for a in made for b in parts]
        return list(made)

    return apart(schema)


def _differ(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two schemas have a keyword with different values, which must both hold."""
    return any(a[k] != b[k] for k in a.keys() & b.keys() if k not in _TOLD)


def _referred(reference: str, root: Any) -> Any:
    node = root
    for part in reference[2:].split("/"):
        node = node.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(node, Mapping) else None
    return node


def _type(value: Any) -> str:
    return _KINDS.get(type(value).__name__, "object" if isinstance(value, Mapping) else "array")


def quoted(text: str) -> str:
    """A text inside a JSON string, without its quotes."""
    return json.dumps(whole_characters(text), ensure_ascii=False)[1:-1]


def key(name: str, first: bool) -> str:
    """A key of an object, with the punctuation before it."""
    return f'{"{" if first else ", "}"{quoted(name)}": '


def value(text: str, kinds: frozenset[str]) -> str:
    """A bare text written by a model as a JSON value: of a declared type if possible, written the same way; else a
    string."""
    bare = text.strip()
    written = _WORDS.get(bare.lower(), bare)
    kind = _kind(written)
    if kind == "string" and not kinds and _is_text(bare):
        return bare
    fits = kind in kinds or (kind == "integer" and "number" in kinds) or (kind == "number" and "integer" in kinds)
    if kind != "string" and (fits or (not kinds and written == bare)):
        return written
    if kind == "string" and bare[:1] in ("{", "[") and kinds & {"object", "array"}:
        literal = Literal(bare)  # a dict or list in Python's syntax
        found = literal.value()
        if found is not None and literal.ended():
            return found
    return f'"{quoted(text)}"'


def _kind(text: str) -> str:
    """The JSON type of a text; "string", if it is not JSON."""
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return "string"
    return _type(found)


def _is_text(text: str) -> bool:
    """Whether a text is a JSON string."""
    try:
        return text[:1] == '"' and isinstance(json.loads(text), str)
    except ValueError:
        return False


def _no_constant(name: str) -> Any:
    raise ValueError(name)


class Literal:
    """Reads Python and JSON literals from a text, and writes them in JSON."""

    _ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "0": "\0", "a": "\a", "\n": ""}
    _CODES = {"x": 2, "u": 4, "U": 8}

    def __init__(self, text: str, at: int = 0) -> None:
        self.text = text
        self.at = at

    def space(self) -> str:
        """Skips white space -> the character after it; "" at the end."""
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def ended(self) -> bool:
        return not self.space()

    def take(self, mark: str) -> bool:
        """Reads a given character, if it is next."""
        found = self.space() == mark
        self.at += found
        return found

    def word(self) -> str:
        """Reads a name or a number."""
        start, text = self.at, self.text
        while self.at < len(text) and (text[self.at].isalnum() or text[self.at] in "_.+-"):
            self.at += 1
        return text[start : self.at]

    def value(self, depth: int = 0) -> str | None:
        """Reads a literal -> its JSON; None if there is none."""
        c = self.space()
        if c in ("'", '"'):
            text = self.string()
            return None if text is None else f'"{quoted(text)}"'
        if c in ("[", "(", "{"):
            return None if depth == _MOST_DEPTH else self._items(c, depth)
        word = self.word()
        if word.lower() in _WORDS:
            return _WORDS[word.lower()]
        sign, digits = ("-", word[1:]) if word.startswith("-") else ("", word.removeprefix("+"))
        plain = digits.lstrip("0") or "0" if digits.isdigit() and digits.isascii() else digits
        return sign + plain if plain and _kind(sign + plain) in ("integer", "number") else None

    def _items(self, opened: str, depth: int) -> str | None:
        """Reads a list, a tuple, a dict or a set."""
        self.at += 1
        close = {"[": "]", "(": ")", "{": "}"}[opened]
        parts: list[str] = []
        table: bool | None = None  # whether it has keys
        while not self.take(close):
            if parts and not self.take(","):
                return None
            if self.take(close):  # after a trailing comma
                break
            one = self.value(depth + 1)
            if one is None:
                return None
            keyed = opened == "{" and self.take(":")
            if table not in (None, keyed):
                return None
            table = keyed
            if keyed:
                found = self.value(depth + 1)
                if found is None:
                    return None
                one = f"{one if one.startswith(chr(34)) else json.dumps(one)}: {found}"
            parts.append(one)
        text = ", ".join(parts)
        return "{" + text + "}" if opened == "{" and table is not False else "[" + text + "]"

    def string(self) -> str | None:
        """Reads a string of Python or JSON, which may span lines -> its text; None if it does not end."""
        mark, text = self.text[self.at], self.text
        self.at += 1
        parts: list[str] = []
        while self.at < len(text):
            c = text[self.at]
            self.at += 1
            if c == mark:
                return whole_characters("".join(parts))
            if c != "\\":
                parts.append(c)
                continue
            c = text[self.at : self.at + 1]
            self.at += 1
            digits = text[self.at : self.at + self._CODES.get(c, 0)]
            if c in self._CODES and len(digits) == self._CODES[c]:
                try:
                    parts.append(chr(int(digits, 16)))
                    self.at += len(digits)
                    continue
                except (ValueError, OverflowError):
                    pass
            parts.append(self._ESCAPES.get(c, c if c in "\\'\"/" else "\\" + c))
        return None
