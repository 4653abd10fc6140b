"""Calls written as JSON objects: ``{"name": "f", "arguments": {...}}``, one or a list of them."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Sequence

from pellucid.text.dialects.reader import Reader, Wait, whole_characters

__all__ = ["NAME", "read_calls", "read_object"]

NAME = re.compile(r"[\w.:/-]{1,128}", re.ASCII)
_NAMES = ("name", "tool_name")
_ARGUMENTS = ("arguments", "parameters")
_FIRST_KEYS = (*_NAMES, *_ARGUMENTS, "type", "id")  # the keys of an object without a tag
_LITERAL = re.compile(r"[\w.+-]*", re.ASCII)
_MOST_DEPTH = 60


def read_calls(
    r: Reader, at: int, closes: Sequence[str] = (), *, known: Container[str] | None = None, bare: bool = False
) -> Wait[bool]:
    """Reads one call or several, in a list or one after the other, from an offset on, with the tag that closes them ->
    whether there was one; if not, nothing is read.

    known: names, one of which a call must have. bare: there is no tag before it, so it must have arguments.
    """
    at = yield from r.space(at)
    listed = (yield from r.char(at)) == "["
    if listed:
        at = yield from r.space(at + 1)
    if not (yield from read_object(r, at, known, bare)):
        return False
    while not r.full:
        at = yield from r.space(0)
        if (yield from r.char(at)) in (",", ";"):
            at = yield from r.space(at + 1)
        if not (yield from read_object(r, at, known, bare)):
            break
    yield from _end(r, listed, closes)
    return True


def _end(r: Reader, listed: bool, closes: Sequence[str]) -> Wait[None]:
    """Reads the end of calls. Before a closing tag, surplus brackets are dropped."""
    at = yield from r.space(0)
    first = yield from r.char(at)
    n = at + 1 if first == ("]" if listed else ";") else 0
    if closes:
        while (yield from r.char(at)) in ("]", "}", ",", ";"):
            at = yield from r.space(at + 1)
        close = yield from r.looking_at(closes, at)
        if close is None:  # or its beginning, if the answer was cut off
            rest = r.peek(at, at + max(map(len, closes)))
            close = rest if rest and any(one.startswith(rest) for one in closes) else None
        n = n if close is None else at + len(close)
    r.layout(n)


def read_object(r: Reader, at: int, known: Container[str] | None = None, bare: bool = False) -> Wait[bool]:
    """Reads a call that is an object at an offset -> whether there was one; if not, nothing is read."""
    if (yield from r.char(at)) != "{":
        return False
    name: str | None = None
    given: str | None = None  # arguments before the name
    called = False
    at += 1
    while True:
        at = yield from r.space(at)
        c = yield from r.char(at)
        if c == "}":
            at += 1
            break
        if c == ",":
            at += 1
            continue
        key = yield from _text(r, at)
        if key is None:
            return called
        text, at = key
        if bare and text not in _FIRST_KEYS:
            return called
        at = yield from r.space(at)
        if (yield from r.char(at)) != ":":
            return called
        at = yield from r.space(at + 1)
        if text in _NAMES and name is None:
            value = yield from _text(r, at)
            if value is None:
                return called
            name, at = value
            if NAME.fullmatch(name) is None or (known is not None and name not in known):
                return False
        elif text in _ARGUMENTS and given is None and not called:
            if name is not None and (yield from r.char(at)) == "{":
                r.call(name, at)
                yield from r.arguments()
                called, at = True, 0
                continue
            end = yield from _value_end(r, at)
            if end < 0:
                return False
            given, at = r.peek(at, end), end
        else:
            end = yield from _value_end(r, at)
            if end < 0:
                return called
            at = end
    if called:
        r.layout(at)
        return True
    if name is None or (bare and given is None):
        return False
    r.call(name, at)
    r.argue(_plain(given))
    return True


def _plain(given: str | None) -> str:
    """Arguments as the JSON text of an object, if they are one; they may be in a string."""
    if given is None or given == "null":
        return "{}"
    if given.startswith('"'):
        try:
            text = json.loads(given, strict=False)
        except ValueError:
            return given
        return whole_characters(text) if text.lstrip().startswith("{") else given
    return given


def _text(r: Reader, at: int) -> Wait[tuple[str, int] | None]:
    """(the text of a JSON string at an offset, the offset after it); None if there is none."""
    if (yield from r.char(at)) != '"':
        return None
    end = yield from r.string_end(at)
    if end < 0:
        return None
    try:
        return whole_characters(json.loads(r.peek(at, end), strict=False)), end
    except ValueError:
        return None


def _value_end(r: Reader, at: int) -> Wait[int]:
    """The offset after a JSON value at an offset; -1 if there is none."""
    closing: list[str] = []
    while True:
        at = yield from r.space(at)
        c = yield from r.char(at)
        if c in ("{", "[") and c:
            if len(closing) == _MOST_DEPTH:
                return -1
            closing.append("}" if c == "{" else "]")
            at += 1
            continue
        if c == '"':
            at = yield from r.string_end(at)
            if at < 0:
                return -1
        elif c in ("}", "]", ",", ":") and c:
            if not closing or (c in "}]" and c != closing.pop()):
                return -1
            at += 1
        else:
            n = yield from _literal(r, at)
            if not n:
                return -1
            at += n
        if not closing:
            return at


def _literal(r: Reader, at: int) -> Wait[int]:
    """The length of a number, true, false or null at an offset."""
    n = 0
    while True:
        c = yield from r.char(at + n)
        if not c or _LITERAL.fullmatch(c) is None or n > 400:
            return n
        n += 1
