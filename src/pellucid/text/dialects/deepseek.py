"""DeepSeek V2.5, V3, R1 and V3.1, and models distilled from R1.

    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather
    ```json
    {"city": "Paris"}
    ```<｜tool▁call▁end｜><｜tool▁calls▁end｜>

V3.1 writes the name before ``<｜tool▁sep｜>`` and bare arguments after it. Both are read, whatever the template has.
Sources: the templates of deepseek-ai/DeepSeek-V3 and DeepSeek-V3.1; vLLM's tests of its deepseek parsers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pellucid.text.dialects.dialect import Dialect, Marker, Shape
from pellucid.text.dialects.json_calls import NAME
from pellucid.text.dialects.reader import Reader, Wait

__all__ = ["DeepSeek", "DeepSeek31"]

_FIRST, _LAST = Marker("<｜tool▁calls▁begin｜>"), Marker("<｜tool▁calls▁end｜>")
_OPEN, _CLOSE, _BETWEEN = Marker("<｜tool▁call▁begin｜>"), Marker("<｜tool▁call▁end｜>"), Marker("<｜tool▁sep｜>")


class DeepSeek(Dialect):
    name = "deepseek"
    marks: ClassVar[tuple[tuple[str, ...], ...]] = ((_FIRST,),)
    opens = ends_thinking = (_FIRST, _OPEN)
    triggers = (_FIRST,)
    tags = (_FIRST, _LAST, _OPEN, _CLOSE, _BETWEEN)
    first, last = (_FIRST,), (_LAST,)

    def read_call(self, r: Reader, opened: str, tools: Mapping[str, Any]) -> Wait[bool]:
        at = (yield from r.space(len(opened))) if opened == _FIRST else 0
        called = False
        while (yield from r.looking_at((_OPEN,), at)) is not None:
            head = yield from r.before((_BETWEEN,), at + len(_OPEN), 128)
            if head is None:
                break
            at += len(_OPEN) + len(head[0]) + len(_BETWEEN)
            name = head[0].strip()
            if name == "function" and (yield from r.char((yield from r.space(at)))) != "{":
                line = yield from r.before(("\n", "```", "{"), at, 128)
                if line is None:
                    break
                at += len(line[0])
                name = line[0].strip()
                at = yield from r.space(at)
                for mark in ("```", "json"):
                    at += len((yield from r.looking_at((mark,), at)) or "")
            if NAME.fullmatch(name) is None:
                break
            r.call(name, at)
            yield from r.arguments(("```", _CLOSE, _LAST))
            at = yield from r.space(0)
            if (yield from r.looking_at(("```",), at)) is not None:
                at = yield from r.space(at + 3)
            if (yield from r.looking_at((_CLOSE,), at)) is not None:
                at += len(_CLOSE)
            r.layout(at)
            called = True
            if r.full:
                break
            at = yield from r.space(0)
        if called and (yield from r.looking_at((_LAST,), (at := (yield from r.space(0))))) is not None:
            r.layout(at + len(_LAST))
        return called

    def shape(self, name: str) -> Shape:
        return Shape((_OPEN, "function", _BETWEEN, f"{name}\n```json\n"), ("\n```", _CLOSE))


class DeepSeek31(DeepSeek):
    name = "deepseek v3.1"
    marks = ((_FIRST,), ("tool['function']['name'] + '<｜tool▁sep｜>'",))
    joint = ()

    def shape(self, name: str) -> Shape:
        return Shape((_OPEN, name, _BETWEEN), (_CLOSE,))
