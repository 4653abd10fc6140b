"""Grammars of calls, in Lark's syntax as llguidance reads it: the names of tools, and what their schemas allow."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from pellucid.errors import GrammarError, shown
from pellucid.text.dialects.dialect import Dialect, Shape, spaced
from pellucid.text.dialects.values import alternatives, declared, types, whole
from pellucid.text.schema import DATED, settled

__all__ = ["calls_grammar"]

# Without white space, an object cannot be endless.
_COMPACT = {"item_separator": ",", "key_separator": ":", "whitespace_flexible": False, "whitespace_pattern": None}
# Limits on arguments that are not written in JSON, and on texts among them.
_UNKEPT = ("pattern", "format", "not", "if", "then", "else", "$ref", "$dynamicRef", "anyOf", "oneOf", "allOf")
_UNKEPT_OF_OBJECTS = (
    *_UNKEPT[2:],
    *("minProperties", "maxProperties", "patternProperties", "propertyNames", "unevaluatedProperties"),
    *("dependencies", "dependentRequired", "dependentSchemas"),
)


def calls_grammar(
    dialect: Dialect,
    tools: Iterable[tuple[str, Mapping[str, Any], bool]],
    specials: Mapping[str, int],
    *,
    ends: Container[int] = (),
    trigger: str = "",
    several: bool = True,
    content: str | None = None,
) -> str:
    """The grammar of one call of one of the tools, or of several calls.

    tools: (name, schema of the parameters, whether all of it must be enforced). specials: tags that are single tokens.
    ends: tokens that end an answer; no grammar contains them. trigger: the beginning of a call that is already written.
    content: the beginning of content, which may take the place of calls and has its own grammar, @content; None: only
    calls are allowed.
    """
    made = _Maker(dialect, specials, ends)
    names = []
    for i, (name, schema, strict) in enumerate(tools):
        schema = _settled(name, schema, strict)
        shape = dialect.shape(name)
        arguments = made.arguments(i, {**schema, "type": "object"}, shape, strict)
        body = f"{arguments} {made.parts(shape.after)}"
        made.rules.append(f"call_{i}: {made.parts(shape.before)} {body}")
        if trigger and not dialect.first:
            made.rules.append(f"rest_{i}: {made.parts(_after(shape.before, trigger))} {body}")
        names.append(i)
    made.rules.append("call: " + " | ".join(f"call_{i}" for i in names))
    if not trigger or dialect.first:
        first = made.parts(_after(dialect.first, trigger) if trigger else dialect.first)
        more = f"({made.parts(dialect.joint)} call)*" if several and not (dialect.single and trigger) else ""
        calls = f"call {more}"
        if trigger and dialect.declines:
            shape = dialect.shape(dialect.declines)
            made.rules.append(f"none: {made.parts((*shape.before, '{}', *shape.after))}")
            calls = f"({calls} | none)"
        start = f"start: {first} {calls} {made.parts(dialect.last)}"
        if content is not None:
            start += f" | {made.parts([content])} @content"
    else:
        start = "start: " + " | ".join(f"rest_{i}" for i in names)
    return "\n".join([start, *made.rules]) + "\n"


def _after(parts: Sequence[str], trigger: str) -> list[str]:
    """What follows the trigger."""
    found, seen, mark = [], "", spaced(trigger)
    for part in parts:
        before, seen = seen, seen + part
        if mark.search(before):
            found.append(part)
        elif match := mark.search(seen):
            found += filter(None, [seen[match.end() :]])
    return found


class _Maker:
    def __init__(self, dialect: Dialect, specials: Mapping[str, int], ends: Container[int]) -> None:
        self.rules: list[str] = []
        self._ends = ends
        self._ends_of_values = dialect.value_ends
        self._specials = specials
        tags = sorted(specials, key=len, reverse=True)
        self._tags = re.compile("(" + "|".join(map(re.escape, tags)) + ")") if tags else None

    def parts(self, parts: Sequence[str]) -> str:
        """Concatenates texts. Tags that are single tokens are referred to by number."""
        return " ".join(filter(None, (self._spelled(one) for one in parts)))

    def _spelled(self, text: str) -> str:
        pieces = [text] if self._tags is None else self._tags.split(text)
        return " ".join(
            f"<[{self._specials[one]}]>" if one in self._specials else json.dumps(one, ensure_ascii=False)
            for one in pieces
            if one and self._specials.get(one, -1) not in self._ends
        )

    def arguments(self, i: int, schema: dict[str, Any], shape: Shape, strict: bool) -> str:
        """The name of a rule, or an expression, for the arguments of the i-th tool."""
        if shape.values is None:
            self.rules.append(f"arguments_{i}: {_json(schema, strict)}")
            return f"arguments_{i}"
        schema = dict(whole(schema))
        _check_kept(schema, _UNKEPT_OF_OBJECTS, strict)
        properties, needed = schema.get("properties"), schema.get("required")
        table = properties if isinstance(properties, Mapping) else {}
        given = needed if isinstance(needed, (list, tuple)) else ()
        required = list(dict.fromkeys(name for name in given if isinstance(name, str)))
        names = [*required, *(name for name in table if name not in required)]
        schema["properties"] = {**dict.fromkeys(names, True), **table}
        for j, name in enumerate(names):
            before, after = shape.values(name)
            self.rules.append(
                f"argument_{i}_{j}: {self._spelled(before)} {self._value(i, j, name, schema, after, strict)}"
            )
        if not shape.between:
            return " ".join(f"argument_{i}_{j}{'' if name in required else '?'}" for j, name in enumerate(names))
        return self._list(i, len(names), len(required), self._spelled(shape.between))

    def _list(self, i: int, n: int, required: int, between: str) -> str:
        """Arguments with a separator: the required ones, then any of the others, in order."""
        if not n:
            return ""
        for j in range(n - 1, required - 1, -1):  # beginning with this one, if it is there
            later = "" if j == n - 1 else f" | list_{i}_{j + 1}"
            more = "" if j == n - 1 else f" ({between} list_{i}_{j + 1})?"
            self.rules.append(f"list_{i}_{j}: argument_{i}_{j}{more}{later}")
        first = f" {between} ".join(f"argument_{i}_{j}" for j in range(required))
        if required == n:
            return first
        return f"{first} ({between} list_{i}_{required})?" if required else f"list_{i}_0?"

    def _value(self, i: int, j: int, name: str, schema: dict[str, Any], after: str, strict: bool) -> str:
        """A value followed by `after`: text as it is, everything else in JSON."""
        own = schema["properties"][name]
        shared: dict[str, Any] = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
        if not after or "string" not in declared(schema, name):
            return f"{_json({**shared, **own} if isinstance(own, Mapping) else {}, strict)} {self._spelled(after)}"
        parts: list[str] = []
        for k, one in enumerate(alternatives(own, schema)):
            listed, kinds = _listed(one), types(one, schema)
            if listed is not None:
                written = (value if isinstance(value, str) else json.dumps(value) for value in listed)
                kept = (text for text in written if not any(end in text for end in self._ends_of_values))
                parts += (f"{json.dumps(text, ensure_ascii=False)} {self._spelled(after)}" for text in kept)
                continue
            if not kinds or "string" in kinds:
                parts.append(self._text(f"value_{i}_{j}_{k}", one, after, strict))
            if others := sorted(kinds - {"string"}):
                parts.append(f"{_json({**shared, **one, 'type': others}, strict)} {self._spelled(after)}")
        if not parts:
            text = f"no value of {shown(name)} can be written: each contains a tag that would end it"
            raise GrammarError(text, place="tools")
        return f"({' | '.join(parts)})"

    def _text(self, rule: str, schema: Mapping[str, Any], after: str, strict: bool) -> str:
        """A text followed by `after`. Raises GrammarError."""
        _check_kept(schema, _UNKEPT, strict)
        low, high = _length(schema, "minLength") or 0, _length(schema, "maxLength")
        text = f"/(.|\\n){{{low},{'' if high is None else high}}}/"
        for end in self._ends_of_values:
            text += " & ~/(.|\\n)*" + re.escape(end).replace("/", r"\/") + "(.|\\n)*/"
        if any(tag in after for tag in self._specials):
            self.rules.append(f"{rule.upper()}: {text}")
            return f"{rule.upper()} {self._spelled(after)}"
        self.rules.append(f"{rule}[lazy]: ({text}) {json.dumps(after, ensure_ascii=False)}")
        return rule


def _listed(schema: Mapping[str, Any]) -> list[Any] | None:
    """The values that a schema allows, if it lists them."""
    listed = [schema["const"]] if "const" in schema else schema.get("enum")
    return list(listed) if isinstance(listed, (list, tuple)) and listed else None


def _settled(name: str, schema: Mapping[str, Any], strict: bool) -> Mapping[str, Any]:
    """The parameters of a tool, rewritten by `settled`. Raises GrammarError."""
    try:
        found: Mapping[str, Any] = settled(schema, "parameters", strict)
        return found
    except GrammarError as error:
        raise GrammarError(f"{error.place} of {shown(name)}: {error.message}", place="tools") from None


def _check_kept(schema: Mapping[str, Any], unkept: Sequence[str], strict: bool) -> None:
    """Raises GrammarError if all of a schema must be enforced and it has any of these keywords."""
    own = schema.get("pattern") not in DATED.values()  # that of a format is not the client's
    lost = ", ".join(f'"{word}"' for word in unkept if word in schema and (own or word != "pattern"))
    if strict and lost:
        raise GrammarError(f"the keywords {lost} cannot be enforced in arguments that are not JSON", place="tools")


def _length(schema: Mapping[str, Any], word: str) -> int | None:
    value = schema.get(word)
    if value is None:
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and 0 <= value < math.inf and value == int(value)):
        raise GrammarError(f"{word}={shown(value)}: expected a number of characters", place="tools")
    return int(value)


def _json(schema: Mapping[str, Any], strict: bool) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": {**_COMPACT, "lenient": not strict}}, ensure_ascii=False)
