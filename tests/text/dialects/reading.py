"""Reads recorded answers in pieces."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pellucid.text.dialects import ALL, Dialect, Parser, Said, Thinking
from pellucid.text.dialects.dialect import THINK

__all__ = ["Result", "dialect", "read", "tags"]

Result = tuple[str, str, list[tuple[str, str]]]


def dialect(name: str) -> Dialect:
    return next(one for one in ALL if one.name == name)


def tags(one: Dialect) -> Thinking:
    return one.thinks or THINK


def read(parser: Parser, text: str, cuts: Iterable[int]) -> Result:
    """(content, reasoning, [(name, arguments)]) of a text that is cut at these places."""
    said: list[Said] = []
    start = 0
    for cut in [*cuts, len(text)]:
        said.append(parser.push(text[start:cut]))
        start = cut
    said.append(parser.finish())
    calls: dict[int, Any] = {}
    for one in said:
        for part in one.calls:
            assert (part.name is not None) == (part.index not in calls), part
            known = calls.setdefault(part.index, (part.name, []))
            known[1].append(part.arguments)
    assert sorted(calls) == list(range(len(calls)))
    whole = [(name, "".join(parts)) for name, parts in calls.values()]
    return "".join(one.content for one in said), "".join(one.reasoning for one in said), whole
