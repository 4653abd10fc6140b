"""OpenAI's objects, from what was generated."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from typing import Any

from pellucid.core import Core
from pellucid.openai.offsets import Offsets
from pellucid.openai.parts import Part
from pellucid.results import FinishReason, TokenLogprob, ToolCall, ToolCallDelta

__all__ = [
    "FINISH",
    "ChatObjects",
    "CompletionObjects",
    "Objects",
    "arguments_of",
    "call_delta",
    "call_object",
    "finish",
    "is_whole",
    "token_object",
    "token_objects",
    "usage",
]

FINISH: dict[FinishReason, str] = {
    "eos": "stop",
    "stop": "stop",
    "length": "length",
    "context": "length",
    "cancelled": "length",
}
LEAST = -9999.0  # a log probability in place of -infinity, which JSON lacks


def token_object(core: Core, id: int, piece: str, logprob: float) -> dict[str, Any]:
    """A token and its log probability."""
    return {"token": piece, "logprob": max(logprob, LEAST), "bytes": list(core.piece(id, special=True))}


def token_objects(core: Core, part: Part, top: int) -> list[dict[str, Any]]:
    """The tokens of a part, without the one that ended the text, each with its `top` likeliest."""
    return [
        {
            **token_object(core, token.id, token.piece, token.logprob),
            "top_logprobs": [token_object(core, *likely) for likely in token.top[:top]],
        }
        for token in part.logprobs[: len(part.ids)]
    ]


def usage(
    prompt: int, new: int, cached: int, reasoning: int = 0, drafted: int = 0, accepted: int = 0
) -> dict[str, Any]:
    """The object `usage`. drafted: guesses at new tokens that were verified; accepted: those that were right."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": new,
        "total_tokens": prompt + new,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {
            "reasoning_tokens": reasoning,
            "accepted_prediction_tokens": accepted,
            "rejected_prediction_tokens": drafted - accepted,
        },
    }


def finish(part: Part, arguments: str | None) -> str:
    """Why a choice ended. arguments: of its last call; None: there was none. A stop string may have cut it off."""
    reason = FINISH[part.finish or "cancelled"]
    if reason != "stop" or arguments is None or (part.finish == "stop" and not is_whole(arguments)):
        return reason
    return "tool_calls"


def call_object(call: ToolCall) -> dict[str, Any]:
    """A whole call."""
    return call.to_dict()


def call_delta(delta: ToolCallDelta) -> dict[str, Any]:
    """A new part of a call; its id and name are only in the first event."""
    function: dict[str, Any] = {"arguments": delta.arguments}
    if delta.name is None:
        return {"index": delta.index, "function": function}
    return {"index": delta.index, "id": delta.id, "type": "function", "function": {"name": delta.name, **function}}


def _reasoning(text: str) -> dict[str, Any]:
    """Reasoning, by both names that clients know."""
    return {"reasoning_content": text, "reasoning": text}


def _object(arguments: str) -> dict[str, Any] | None:
    try:
        found = json.loads(arguments)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def is_whole(arguments: str) -> bool:
    """Whether arguments are an object, as those of a call are that was not cut off."""
    return _object(arguments) is not None


def arguments_of(call: ToolCall) -> dict[str, Any]:
    """The arguments of a call as an object; if they are not one, as when the answer was cut off, one that holds their
    text."""
    found = _object(call.arguments)
    return {"INVALID_JSON": call.arguments} if found is None else found


class Objects:
    """The objects of one answer: a whole one, or those of a stream.

    id: of the answer. model: its name. fingerprint: of the model as it runs. top: the number of likeliest tokens that
    are wanted; None: no log probabilities. token_ids: whether completions have those of their text.
    """

    whole = ""
    chunk = ""
    prefix = ""

    def __init__(
        self,
        core: Core,
        id: str,
        model: str,
        fingerprint: str | None = None,
        top: int | None = None,
        token_ids: bool = False,
    ) -> None:
        self.core = core
        self.top = top
        self.token_ids = token_ids
        self._common = {
            "id": self.prefix + id,
            "object": "",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def answer(self, parts: Sequence[Part], used: dict[str, Any]) -> dict[str, Any]:
        """The whole answer. parts: one for each choice. used: as `usage` gives it."""
        choices = [self.whole_choice(index, part) for index, part in enumerate(parts)]
        return {**self._common, "object": self.whole, "choices": choices, "usage": used}

    def event(self, choices: list[dict[str, Any]], used: dict[str, Any] | None, with_usage: bool) -> dict[str, Any]:
        """An event of a stream. with_usage: whether the events have that key."""
        found = {**self._common, "object": self.chunk or self.whole, "choices": choices}
        if with_usage:
            found["usage"] = used
        return found

    def opening(self, index: int) -> dict[str, Any] | None:
        """The choice of an event that begins it, or None."""
        return None

    def whole_choice(self, index: int, part: Part) -> dict[str, Any]:
        raise NotImplementedError

    def piece(self, index: int, part: Part) -> list[dict[str, Any]]:
        """The choices for a new part, each in an event of its own."""
        raise NotImplementedError


class ChatObjects(Objects):
    whole, chunk, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl-"

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._arguments: dict[int, str] = {}  # of each choice's last call

    def opening(self, index: int) -> dict[str, Any]:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def whole_choice(self, index: int, part: Part) -> dict[str, Any]:
        calls = part.tool_calls()
        message: dict[str, Any] = {"role": "assistant", "content": part.text, "refusal": None}
        if calls:
            message["content"] = part.text or None
            message["tool_calls"] = [call_object(one) for one in calls]
        if part.reasoning:
            message.update(_reasoning(part.reasoning))
        reason = finish(part, calls[-1].arguments if calls else None)
        return {"index": index, "message": message, "logprobs": self._logprobs(part), "finish_reason": reason}

    def piece(self, index: int, part: Part) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        logprobs = self._logprobs(part)
        deltas: list[dict[str, Any]] = [_reasoning(part.reasoning)] if part.reasoning else []
        if part.text:
            deltas.append({"content": part.text})
        if part.calls:
            found = part.deltas()
            deltas += [{"tool_calls": [call_delta(one)]} for one in found]
            for one in found:
                before = self._arguments.get(index, "") if one.name is None else ""
                self._arguments[index] = before + one.arguments
        if not deltas and logprobs and logprobs["content"]:
            deltas.append({"content": ""})
        for delta in deltas:
            events.append({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None})
            logprobs = None
        if part.finish is not None:
            reason = finish(part, self._arguments.get(index))
            events.append({"index": index, "delta": {}, "logprobs": None, "finish_reason": reason})
        return events

    def _logprobs(self, part: Part) -> dict[str, Any] | None:
        if self.top is None:
            return None
        content = [
            {
                **self._token(token.id, token.piece, token.logprob),
                "top_logprobs": [self._token(*one) for one in token.top[: self.top]],
            }
            for token in part.logprobs[: len(part.ids)]  # without the one that ended the text
        ]
        return {"content": content, "refusal": None}

    def _token(self, id: int, piece: str, logprob: float) -> dict[str, Any]:
        return {"id": id, **token_object(self.core, id, piece, logprob)}


class CompletionObjects(Objects):
    whole, prefix = "text_completion", "cmpl-"

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._offsets: dict[int, Offsets] = {}  # of each choice

    def whole_choice(self, index: int, part: Part) -> dict[str, Any]:
        return self._choice(index, part, FINISH[part.finish or "cancelled"])

    def piece(self, index: int, part: Part) -> list[dict[str, Any]]:
        ids = self.token_ids and part.ids
        if not part.text and not part.logprobs and not ids and part.finish is None:
            return []
        return [self._choice(index, part, None if part.finish is None else FINISH[part.finish])]

    def _choice(self, index: int, part: Part, reason: str | None) -> dict[str, Any]:
        logprobs = self._logprobs(index, part.text, part.logprobs)
        choice = {"index": index, "text": part.text, "logprobs": logprobs, "finish_reason": reason}
        return {**choice, "token_ids": part.ids} if self.token_ids else choice

    def _logprobs(self, index: int, text: str, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        """With the token that ended the text, as lm-evaluation-harness expects."""
        if self.top is None:
            return None
        offsets = self._offsets.setdefault(index, Offsets(self.core)).add(text, [token.id for token in tokens])
        found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": offsets}
        for token in tokens:
            first = token.logprob == math.inf  # a prompt's first token, which has none
            found["tokens"].append(self._spelled(token.id, token.piece))
            found["token_logprobs"].append(None if first else max(token.logprob, LEAST))
            top: dict[str, float] = {}
            for id, piece, logprob in (*token.top[: self.top], (token.id, token.piece, token.logprob)):
                top.setdefault(self._spelled(id, piece), max(logprob, LEAST))
            found["top_logprobs"].append(None if first else top)
        return found

    def _spelled(self, id: int, piece: str) -> str:
        """A token's text; OpenAI's form for bytes that are not a whole character, so that each has a unique name."""
        if "\ufffd" not in piece:
            return piece
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in self.core.piece(id, special=True))
