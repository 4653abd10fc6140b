"""Kimi K2.

    <|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{"city": "Paris"}
    <|tool_call_end|><|tool_calls_section_end|>

Sources: the template of moonshotai/Kimi-K2-Instruct; vLLM's tests of its kimi_k2 parser.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pellucid.text.dialects.dialect import Dialect, Marker, Shape
from pellucid.text.dialects.json_calls import NAME
from pellucid.text.dialects.reader import Reader, Wait

__all__ = ["Kimi"]

_FIRST, _LAST = Marker("<|tool_calls_section_begin|>"), Marker("<|tool_calls_section_end|>")
_OPEN, _CLOSE, _BETWEEN = (Marker(f"<|tool_call_{end}|>") for end in ("begin", "end", "argument_begin"))
_NUMBER = re.compile(r":\d+$")


class Kimi(Dialect):
    name = "kimi"
    marks = ((_FIRST,),)
    opens = ends_thinking = (_FIRST, _OPEN)
    triggers = (_FIRST,)
    tags = (_FIRST, _LAST, _OPEN, _CLOSE, _BETWEEN)
    first, last, joint = (_FIRST,), (_LAST,), ()

    def read_call(self, r: Reader, opened: str, tools: Mapping[str, Any]) -> Wait[bool]:
        at = (yield from r.space(len(opened))) if opened == _FIRST else 0
        called = False
        while (yield from r.looking_at((_OPEN,), at)) is not None:
            head = yield from r.before((_BETWEEN,), at + len(_OPEN), 160)
            name = "" if head is None else _NUMBER.sub("", head[0].strip()).removeprefix("functions.")
            if head is None or NAME.fullmatch(name) is None:
                break
            r.call(name, at + len(_OPEN) + len(head[0]) + len(_BETWEEN))
            yield from r.arguments((_CLOSE, _LAST))
            at = yield from r.space(0)
            closed = yield from r.looking_at((_CLOSE,), at)
            r.layout(at + len(closed or ""))
            called = True
            if r.full:
                break
            at = yield from r.space(0)
        if called and (yield from r.looking_at((_LAST,), (at := (yield from r.space(0))))) is not None:
            r.layout(at + len(_LAST))
        return called

    def shape(self, name: str) -> Shape:
        return Shape((_OPEN, f"functions.{name}:0", _BETWEEN), (_CLOSE,))

    def call_id(self, id: object, name: str, index: int) -> str | None:
        return f"functions.{name}:{index}" if name else None
