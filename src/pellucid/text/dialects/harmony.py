"""gpt-oss: messages with a header, each in a channel.

    <|channel|>analysis<|message|>I look it up.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather
    <|constrain|>json<|message|>{"city": "Paris"}<|call|>

The analysis is reasoning; a message to functions.NAME is a call, whichever channel it is in; all others are content.
Source: openai/harmony, docs/format.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pellucid.text.dialects.dialect import Dialect, Marker, Shape, Thinking
from pellucid.text.dialects.json_calls import NAME
from pellucid.text.dialects.reader import Reader, Wait

__all__ = ["Harmony"]

_START, _CHANNEL, _MESSAGE, _CONSTRAIN, _END, _RETURN, _CALL = (
    Marker(f"<|{word}|>") for word in ("start", "channel", "message", "constrain", "end", "return", "call")
)
_STOPS = (_END, _RETURN, _CALL, _START, _CHANNEL)
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")


class Harmony(Dialect):
    name = "harmony"
    marks = ((_CHANNEL,), (_MESSAGE,))
    opens = (_START, _CHANNEL, " to=")
    triggers = ("to=functions.",)
    tags = (_START, _CHANNEL, _MESSAGE, _CONSTRAIN, _END, _RETURN, _CALL)
    joint = (_START, "assistant")
    single = says_or_thinks = True
    thinks = Thinking(
        "<|channel|>analysis<|message|>",
        _END,
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        anywhere=True,
        always=True,
    )

    def may_call(self, before: bytes, said: bool) -> bool:
        """Only within a header; the prompt has begun the first one."""
        header = max(before.rfind(tag.encode()) for tag in (_START, _CHANNEL))
        text = before.rfind(_MESSAGE.encode())
        return header > text or (header == text and not said)

    def read(self, r: Reader, tools: Mapping[str, Any] | None, thinking: Thinking | None) -> Wait[None]:
        r.thinking = False
        said: set[bool] = set()  # whether there was content; whether there was reasoning
        while not r.full:
            at = yield from r.space(0)
            head = None
            if (yield from r.looking_at((_START, _CHANNEL, "to="), at)) is not None:
                head = yield from r.before((_MESSAGE,), at, 256)
            if head is None:
                if (yield from r.char(at)) == "" and (said or not at):
                    return
                r.thinking = False
                yield from self._say(r, said)
                continue
            header, n = head[0], at + len(head[0]) + len(_MESSAGE)
            to = _RECIPIENT.search(header)
            name = to.group(1).removeprefix("functions.") if to is not None else ""
            if tools is not None and to is not None and NAME.fullmatch(name) and _called(to.group(1), header):
                r.call(name, n)
                yield from r.arguments(_STOPS)
                yield from self._close(r)
                continue
            r.layout(n)
            r.thinking = f"{_CHANNEL}analysis" in header or to is not None
            if r.either and not r.thinking:  # no tag within a text with a structure
                yield from r.until(())
                return
            yield from self._say(r, said)

    @staticmethod
    def _say(r: Reader, said: set[bool]) -> Wait[None]:
        """Reads the text of a message, as another paragraph after earlier ones."""
        if r.thinking in said:
            r.paragraph()
        said.add(r.thinking)
        while True:
            stop = yield from r.until(_STOPS)
            if stop in (_START, _CHANNEL):
                if (yield from r.before((_MESSAGE,), 0, 256)) is None:  # it does not begin a message
                    r.say(len(stop))
                    continue
            elif stop is not None:
                r.layout(len(stop))
            return

    @staticmethod
    def _close(r: Reader) -> Wait[None]:
        at = yield from r.space(0)
        closed = yield from r.looking_at((_END, _RETURN, _CALL), at)
        r.layout(at + len(closed or ""))

    def shape(self, name: str) -> Shape:
        return Shape((_CHANNEL, f"commentary to=functions.{name} ", _CONSTRAIN, "json", _MESSAGE), (_CALL,))


def _called(recipient: str, header: str) -> bool:
    """Whether the recipient is a function. Models sometimes leave out the prefix, but not for their built-in tools,
    which they call in the analysis channel."""
    return recipient.startswith("functions.") or ("." not in recipient and f"{_CHANNEL}commentary" in header)
