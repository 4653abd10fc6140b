"""Mistral: up to version 7 of its tokenizer, a list after a tag; later, a tag, a name and arguments for each call.

    [TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}]
    [TOOL_CALLS]get_weather[CALL_ID]a1B2c3D4e[ARGS]{"city": "Paris"}

Both are read, whatever the template has; ``[CALL_ID]`` and ``[ARGS]`` may be absent. Reasoning is in ``[THINK]``.
Sources: the templates of Mistral 7B v0.3, Nemo, Small 3.2 and Ministral 3; vLLM's tests of its mistral parser.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pellucid.text.dialects.dialect import Dialect, Marker, Shape, Thinking
from pellucid.text.dialects.ids import short_id
from pellucid.text.dialects.json_calls import NAME, read_calls
from pellucid.text.dialects.reader import Reader, Wait

__all__ = ["Mistral", "MistralList"]

_TAG, _ID, _ARGUMENTS = Marker("[TOOL_CALLS]"), Marker("[CALL_ID]"), Marker("[ARGS]")


class Mistral(Dialect):
    name = "mistral"
    marks: ClassVar[tuple[tuple[str, ...], ...]] = ((_TAG,), (_ARGUMENTS,))
    opens = triggers = ends_thinking = (_TAG,)
    tags = (_TAG, _ID, _ARGUMENTS, Marker("[THINK]"), Marker("[/THINK]"))
    joint: ClassVar[tuple[str, ...]] = ()
    id_length, id_prefix = 9, ""
    thinks = Thinking("[THINK]", "[/THINK]", "[/THINK]", anywhere=True)

    def read_call(self, r: Reader, opened: str, tools: Mapping[str, Any]) -> Wait[bool]:
        at = yield from r.space(len(opened))
        if (yield from r.char(at)) in ("[", "{") and (yield from r.looking_at((_ID, _ARGUMENTS), at)) is None:
            return (yield from read_calls(r, at))
        found = yield from r.before((_ID, _ARGUMENTS, "{"), at, 128)
        if found is None or NAME.fullmatch(name := found[0].strip()) is None:
            return False
        at += len(found[0])
        if found[1] == _ID:
            after = yield from r.before((_ARGUMENTS, "{"), at + len(_ID), 64)
            if after is None:
                return False
            at += len(_ID) + len(after[0])
            found = after
        r.call(name, at + (len(_ARGUMENTS) if found[1] == _ARGUMENTS else 0))
        yield from r.arguments((_TAG,))
        r.layout(0)
        return True

    def shape(self, name: str) -> Shape:
        return Shape((_TAG, name, _ARGUMENTS), ())

    def call_id(self, id: object, name: str, index: int) -> str | None:
        return short_id(id)


class MistralList(Mistral):
    name = "mistral list"
    marks = ((_TAG,),)
    first, last, joint = (_TAG, "["), ("]",), (", ",)

    def shape(self, name: str) -> Shape:
        return Shape((f'{{"name": "{name}", "arguments": ',), ("}",))
