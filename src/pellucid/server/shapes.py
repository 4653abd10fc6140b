"""The forms of answers over HTTP: one object, or the bytes of a stream; here those of OpenAI's interface."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from starlette.responses import Response

from pellucid.core import Core
from pellucid.openai.fields import Call
from pellucid.openai.parts import Part
from pellucid.openai.shapes import ChatObjects, CompletionObjects, Objects
from pellucid.server.failures import Failure
from pellucid.server.record import Record

__all__ = ["ChatShape", "CompletionShape", "OpenAIShape", "Shape", "compact", "document", "dumps"]


SLICE = 64  # items of a list that are written at a time

# Unicode's line ends, at which some clients, such as httpx, split what they receive; JSON may contain them.
_LINE_ENDS = tuple((end.encode(), f"\\u{ord(end):04x}".encode()) for end in "\u0085\u2028\u2029")
compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def dumps(value: Any, apart: bool = False) -> bytes:
    """JSON in UTF-8, on one line for every reader. Lone surrogates, which a client may have sent in a name, are
    escaped. apart: encode it in parts, between which other threads can run; else they wait until all is encoded."""
    text = "".join(_parts(value, 0)) if apart else compact(value)
    data = text.encode("utf-8", "backslashreplace")
    for end, escaped in _LINE_ENDS:
        data = data.replace(end, escaped)
    return data


def document(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON document as the answer."""
    return Response(dumps(value), status, headers, "application/json")


def _parts(value: Any, depth: int) -> Iterator[str]:
    """The JSON of an answer, in parts. Long lists are split: tokens, log probabilities, numbers of embeddings."""
    if isinstance(value, dict) and value and depth < 4:
        for at, (name, item) in enumerate(value.items()):
            yield f"{',' if at else '{'}{compact(name)}:"
            yield from _parts(item, depth + 1)
        yield "}"
    elif isinstance(value, list) and value:
        for at in range(0, len(value), SLICE):
            some = value[at : at + SLICE]
            if depth > 2 or all(map(_is_flat, some)):
                yield ("," if at else "[") + compact(some)[1:-1]
                continue
            for i, item in enumerate(some, at):
                yield "," if i else "["
                yield from _parts(item, depth + 1)
        yield "]"
    else:
        yield compact(value)


def _is_flat(item: Any) -> bool:
    """Whether no list or object is in it."""
    if isinstance(item, dict):
        return not any(isinstance(one, (dict, list)) for one in item.values())
    return not isinstance(item, list)


class Shape:
    """An answer in the form that a client expects: one object, or the bytes of a stream.

    record: of the request. fingerprint: of the model as it runs. call: the parsed request. ``media``: content type of a
    stream; ``silence``: what is sent if there was nothing to send for a while; ``apart``: whether it is made in a
    thread.
    """

    media = b"text/event-stream; charset=utf-8"
    silence = b": ping\n\n"
    apart = False

    def __init__(self, core: Core, record: Record, fingerprint: str, call: Call) -> None:
        self.core = core
        self.record = record
        self.fingerprint = fingerprint
        self.call = call
        self.top = call.logprobs  # likeliest tokens asked for; None: no log probabilities

    def answer(self, parts: Sequence[Part], used: dict[str, Any]) -> dict[str, Any]:
        """The whole answer. parts: one for each choice. used: as `usage` gives it."""
        raise NotImplementedError

    def begin(self, choices: int, echoed: Sequence[Part], prompt_tokens: int) -> bytes:
        """The beginning of a stream. echoed: what precedes the text of each choice; empty: nothing."""
        return b""

    def more(self, index: int, part: Part) -> bytes:
        """The next part of a choice."""
        raise NotImplementedError

    def end(self, used: dict[str, Any]) -> bytes:
        """The end of a stream."""
        raise NotImplementedError

    def failed(self, told: Failure) -> bytes:
        """The end of a stream that went wrong."""
        return b"data: " + dumps(told.body()) + b"\n\n"


class OpenAIShape(Shape):
    """Objects with choices."""

    kind: type[Objects]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        record, call = self.record, self.call
        self._objects = self.kind(self.core, record.id, record.model, self.fingerprint, call.logprobs, call.token_ids)

    def answer(self, parts: Sequence[Part], used: dict[str, Any]) -> dict[str, Any]:
        return self._objects.answer(parts, used)

    def begin(self, choices: int, echoed: Sequence[Part], prompt_tokens: int) -> bytes:
        events = []
        for index in range(choices):
            opening = self._objects.opening(index)
            if opening is not None:
                events.append(self._event([opening]))
            if echoed:
                events.append(self.more(index, echoed[index]))
        return b"".join(events)

    def more(self, index: int, part: Part) -> bytes:
        return b"".join(self._event([choice]) for choice in self._objects.piece(index, part))

    def end(self, used: dict[str, Any]) -> bytes:
        return (self._event([], used) if self.call.usage else b"") + b"data: [DONE]\n\n"

    def _event(self, choices: list[dict[str, Any]], used: dict[str, Any] | None = None) -> bytes:
        return b"data: " + dumps(self._objects.event(choices, used, self.call.usage), self.apart) + b"\n\n"


class ChatShape(OpenAIShape):
    kind = ChatObjects


class CompletionShape(OpenAIShape):
    kind = CompletionObjects
