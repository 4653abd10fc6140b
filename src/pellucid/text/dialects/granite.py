"""Granite 3: a list after a tag.

    <|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris"}}]

Some versions write ``<tool_call>`` instead. Thoughts are in ``<think>``, and the answer then in ``<response>``. Granite
4 uses the format of Hermes.
Sources: the template of ibm-granite/granite-3.3-2b-instruct; vLLM's tests of its granite parser.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.text.dialects.dialect import Dialect, Marker, Shape
from pellucid.text.dialects.json_calls import read_calls
from pellucid.text.dialects.reader import Reader, Wait

__all__ = ["Granite"]

_TAG = Marker("<|tool_call|>")


class Granite(Dialect):
    name = "granite"
    marks = ((_TAG,), ("<|start_of_role|>",))
    opens = (_TAG, "<tool_call>")
    triggers = (_TAG,)
    layout = ("<response>", "</response>")
    tags = (_TAG,)
    first, last, joint = (_TAG, "["), ("]",), (", ",)

    def read_call(self, r: Reader, opened: str, tools: Mapping[str, Any]) -> Wait[bool]:
        return (yield from read_calls(r, len(opened), ("</tool_call>",)))

    def shape(self, name: str) -> Shape:
        return Shape((f'{{"name": "{name}", "arguments": ',), ("}",))
