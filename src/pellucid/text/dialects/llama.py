"""Llama 3.1 and 3.2: a bare object with the key "parameters", or several with semicolons between them.

    {"name": "get_weather", "parameters": {"city": "Paris"}}

It may follow ``<|python_tag|>``. An object that does not name one of the tools is content.
Sources: the templates of meta-llama/Llama-3.1-8B-Instruct and Llama-3.2-3B-Instruct; vLLM's llama3_json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.text.dialects.dialect import Dialect, Marker, Shape
from pellucid.text.dialects.json_calls import read_calls
from pellucid.text.dialects.reader import Reader, Wait

__all__ = ["Llama"]

_TAG = Marker("<|python_tag|>")


class Llama(Dialect):
    name = "llama"
    marks = (('{"name": function name, "parameters"', _TAG), ("<|start_header_id|>",))
    opens = (_TAG, "{")
    triggers, trigger_first = ('{"name": "',), True
    tags = (_TAG,)
    joint = ("; ",)
    single = True

    def read_call(self, r: Reader, opened: str, tools: Mapping[str, Any]) -> Wait[bool]:
        at = len(opened) if opened == _TAG else 0
        return (yield from read_calls(r, at, known=tools, bare=True))

    def shape(self, name: str) -> Shape:
        # In parts as in JSON: llguidance's lexer could otherwise not tell the beginning from that of another object.
        return Shape(("{", '"name"', ":", f' "{name}", "parameters": '), ("}",))
