"""Hermes 2 Pro, Qwen 2.5 and 3, Granite 4 and many others:

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Paris"}}
    </tool_call>

Sources: NousResearch/Hermes-Function-Calling; the templates of Qwen/Qwen3-0.6B and ibm-granite/granite-4.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pellucid.text.dialects.dialect import Dialect, Marker, Shape
from pellucid.text.dialects.json_calls import read_calls
from pellucid.text.dialects.reader import Reader, Wait

__all__ = ["Generic", "Hermes", "Nemotron"]

_OPEN, _CLOSE = Marker("<tool_call>"), Marker("</tool_call>")


class Hermes(Dialect):
    name = "hermes"
    marks: ClassVar[tuple[tuple[str, ...], ...]] = ((_OPEN,), ('"arguments', '\\"arguments'))
    opens = triggers = (_OPEN,)
    tags = (_OPEN, _CLOSE)

    def read_call(self, r: Reader, opened: str, tools: Mapping[str, Any]) -> Wait[bool]:
        return (yield from read_calls(r, len(opened), (_CLOSE,)))

    def shape(self, name: str) -> Shape:
        return Shape((_OPEN, f'\n{{"name": "{name}", "arguments": '), ("}\n", _CLOSE))


class Generic(Hermes):
    """For templates without support for tools: as Hermes, with the tools in the system message."""

    name = "generic"
    marks = ()
    results_as_user = True


class Nemotron(Dialect):
    """``<TOOLCALL>[{"name": "f", "arguments": {...}}]</TOOLCALL>``. Source: the template of Nemotron Nano 9B v2."""

    name = "nemotron"
    marks = (("<TOOLCALL>",),)
    opens = triggers = (Marker("<TOOLCALL>"),)
    tags = (Marker("<TOOLCALL>"), Marker("</TOOLCALL>"))
    first, last, joint = (Marker("<TOOLCALL>"), "["), ("]", Marker("</TOOLCALL>")), (", ",)

    def read_call(self, r: Reader, opened: str, tools: Mapping[str, Any]) -> Wait[bool]:
        return (yield from read_calls(r, len(opened), ("</TOOLCALL>",)))

    def shape(self, name: str) -> Shape:
        return Shape((f'{{"name": "{name}", "arguments": ',), ("}",))
