"""Command R7B and Command A, and Command R+ before them.

    <|START_THINKING|>I will look it up.<|END_THINKING|><|START_ACTION|>[
        {"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Paris"}}
    ]<|END_ACTION|>

Answers are in ``<|START_RESPONSE|>``. Command R+ writes ``Action:`` and a list in a block of JSON, where the tool
"directly-answer" means no call.
Sources: the templates of CohereForAI/c4ai-command-r7b-12-2024 and c4ai-command-r-plus; vLLM's cohere_command parser.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.text.dialects.dialect import Dialect, Marker, Shape, Thinking
from pellucid.text.dialects.json_calls import read_calls
from pellucid.text.dialects.reader import Reader, Wait

__all__ = ["CommandR", "CommandRPlus"]

_OPEN, _CLOSE = Marker("<|START_ACTION|>"), Marker("<|END_ACTION|>")


class CommandR(Dialect):
    name = "command r7b"
    marks = ((_OPEN,),)
    opens = triggers = ends_thinking = (_OPEN,)
    layout = tuple(map(Marker, ("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>")))
    thinks = Thinking("<|START_THINKING|>", "<|END_THINKING|>", "<|END_THINKING|>", anywhere=True)
    tags = (_OPEN, _CLOSE, *layout, Marker(thinks.opens), Marker(thinks.closes))
    first, last, joint = (_OPEN, "["), ("]", _CLOSE), (", ",)

    def read_call(self, r: Reader, opened: str, tools: Mapping[str, Any]) -> Wait[bool]:
        return (yield from read_calls(r, len(opened), (_CLOSE,)))

    def shape(self, name: str) -> Shape:
        return Shape((f'{{"tool_name": "{name}", "parameters": ',), ("}",))


class CommandRPlus(Dialect):
    name = "command r+"
    marks = (("Action:",), ("<|CHATBOT_TOKEN|>",), ('"tool_name"',))
    opens = ("Action:",)
    triggers, declines = ("Action: ```json",), "directly-answer"
    first, last, joint = ("Action:\n```json\n[",), ("]\n```",), (", ",)

    def read_call(self, r: Reader, opened: str, tools: Mapping[str, Any]) -> Wait[bool]:
        at = yield from r.space(len(opened))
        fence = yield from r.looking_at(("```json", "["), at)
        if fence is None:
            return False
        return (yield from read_calls(r, at + (0 if fence == "[" else len(fence)), ("```",), known=tools))

    def shape(self, name: str) -> Shape:
        return Shape((f'{{"tool_name": "{name}", "parameters": ',), ("}",))
