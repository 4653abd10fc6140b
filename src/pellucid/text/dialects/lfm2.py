"""LFM2: a list of calls in Python's syntax, or in JSON.

    <|tool_call_start|>[get_weather(city="Paris", days=3)]<|tool_call_end|>

Sources: the template of LiquidAI/LFM2-8B-A1B; vLLM's tests of its lfm2 parser.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pellucid.text.dialects.dialect import Dialect, Marker, Shape, Written
from pellucid.text.dialects.json_calls import NAME, read_calls
from pellucid.text.dialects.reader import Reader, Wait
from pellucid.text.dialects.values import Literal, quoted

__all__ = ["Lfm2"]

_OPEN, _CLOSE = Marker("<|tool_call_start|>"), Marker("<|tool_call_end|>")
_NAME = re.compile(r"[^\W\d]\w*")
_ARGUMENT = re.compile(rf"\s*({_NAME.pattern})\s*=(?!=)")
_PLAIN = re.compile(r"[\w\s.+,:=-]*")  # characters of literals and names, besides brackets and strings


class Lfm2(Dialect):
    name = "lfm2"
    marks = ((_OPEN, "<|tool_list_start|>"),)
    opens = triggers = ends_thinking = (_OPEN,)
    tags = (_OPEN, _CLOSE)
    first, last, joint = (_OPEN, "["), ("]", _CLOSE), (", ",)

    def read_call(self, r: Reader, opened: str, tools: Mapping[str, Any]) -> Wait[bool]:
        at = yield from r.space(len(opened))
        listed = (yield from r.char(at)) == "["
        inner = (yield from r.space(at + 1)) if listed else at
        if (yield from r.char(inner)) == "{":
            return (yield from read_calls(r, at, (_CLOSE,)))
        at, called = inner, False
        while (yield from self._one(r, at, tools)):
            called = True
            at = yield from r.space(0)
            if r.full or (yield from r.char(at)) != ",":
                break
            at = yield from r.space(at + 1)
        if called:
            at = yield from r.space(0)
            if (yield from r.char(at)) == "]":
                at = yield from r.space(at + 1)
            closed = yield from r.looking_at((_CLOSE,), at)
            r.layout(at + len(closed or ""))
        return called

    @staticmethod
    def _one(r: Reader, at: int, tools: Mapping[str, Any]) -> Wait[bool]:
        """Reads a call at an offset -> whether there was one."""
        head = yield from r.before(("(",), at, 128)
        if head is None or NAME.fullmatch(name := head[0].strip()) is None:
            return False
        start = at + len(head[0]) + 1
        end = yield from _closing(r, start)
        arguments = None if end < 0 else _arguments(r.peek(start, end), tools.get(name))
        if arguments is None:
            return False
        r.call(name, end + 1)
        r.argue(arguments)
        return True

    def shape(self, name: str) -> Shape:
        return Shape((f"{name}(",), (")",), lambda one: (f"{_keyword(one)}=", ""), ", ")

    def write_arguments(self, call: Written, shape: Shape) -> list[str]:
        try:
            found = json.loads(call.arguments)
        except (ValueError, RecursionError):
            found = None
        given = found.items() if isinstance(found, dict) else ()
        return [", ".join(f"{_keyword(name)}={one!r}" for name, one in given)]


def _keyword(name: str) -> str:
    """The name of an argument; a name that is not valid in Python is in quotes."""
    return name if _NAME.fullmatch(name) is not None else json.dumps(name, ensure_ascii=False)


def _closing(r: Reader, at: int) -> Wait[int]:
    """The offset of the bracket that closes arguments; -1 if there is none. Stops at the first character that no
    literal has outside its strings, such as the next tag, so that text that opens many calls is not read to its end for
    each one."""
    depth = 1
    while True:
        at = yield from r.past(_PLAIN, at)
        c = yield from r.char(at)
        if c and c in "'\"":
            at = yield from r.string_end(at)
            if at < 0:
                return -1
            continue
        if not c or c not in "([{)]}":
            return -1
        depth += 1 if c in "([{" else -1
        if not depth:
            return at if c == ")" else -1
        at += 1


def _arguments(text: str, schema: Any) -> str | None:
    """Arguments in JSON; those without names get the names in the tool's schema, in order. None if they are not
    arguments."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    names = list(properties) if isinstance(properties, Mapping) else []
    literal = Literal(text)
    parts: list[str] = []
    while not literal.ended():
        if parts and not literal.take(","):
            return None
        if literal.ended():
            break
        name = _named(literal)
        if name is None and len(parts) < len(names):
            name = names[len(parts)]
        found = literal.value()
        if found is None or name is None:
            return None
        parts.append(f'"{quoted(name)}": {found}')
    return "{" + ", ".join(parts) + "}"


def _named(literal: Literal) -> str | None:
    """Reads the name of an argument and the text between it and the value; None if there is none."""
    match = _ARGUMENT.match(literal.text, literal.at)
    if match is not None:
        literal.at = match.end()
        return match.group(1)
    start = literal.at
    name = literal.string() if literal.space() in ("'", '"') else None
    if name is None or not literal.take("="):
        literal.at, name = start, None
    return name
