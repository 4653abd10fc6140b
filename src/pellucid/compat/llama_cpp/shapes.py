"""OpenAI's objects with the keys that llama-cpp-python gives them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["chat", "chat_event", "completion", "completion_events"]

_USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")
_CALL = ("role", "content", "function_call", "tool_calls")


def _common(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name not in ("system_fingerprint", "choices", "usage")}


def _usage(found: dict[str, Any]) -> dict[str, int]:
    return {name: found["usage"][name] for name in _USAGE}


def completion(found: dict[str, Any], ahead: int, echoed: str = "") -> dict[str, Any]:
    """ahead: characters before the new text. echoed: what the text begins with."""
    choices = [{**_choice(one, ahead), "text": echoed + one["text"]} for one in found["choices"]]
    return {**_common(found), "choices": choices, "usage": _usage(found)}


def _choice(found: dict[str, Any], ahead: int) -> dict[str, Any]:
    """found: with the ids of the tokens of its text."""
    choice = {name: value for name, value in found.items() if name != "token_ids"}
    return {**choice, "logprobs": _logprobs(found["logprobs"], ahead, len(found["token_ids"]))}


def _logprobs(found: dict[str, Any] | None, ahead: int, most: int) -> dict[str, Any] | None:
    """Without the token that ended the text. The likeliest tokens are, and the one that was drawn."""
    if found is None:
        return None
    found = {name: values[:most] for name, values in found.items()}
    drawn = zip(found["top_logprobs"], found["tokens"], found["token_logprobs"], strict=True)
    return {
        **found,
        "top_logprobs": [{**top, token: logprob} for top, token, logprob in drawn],
        "text_offset": [at + ahead for at in found["text_offset"]],
    }


def completion_events(found: dict[str, Any], ahead: int) -> Iterator[dict[str, Any]]:
    """An event; the end of the text is an event of its own, without text."""
    choice = _choice(found["choices"][0], ahead)
    reason, logprobs = choice["finish_reason"], choice["logprobs"]
    if choice["text"] or (logprobs is not None and logprobs["tokens"]):
        yield {**_common(found), "choices": [{**choice, "finish_reason": None}]}
    if reason is not None:
        yield {**_common(found), "choices": [{**choice, "text": "", "logprobs": None}]}


def chat(found: dict[str, Any]) -> dict[str, Any]:
    choices = []
    for one in found["choices"]:
        given = one["message"]
        message = {"role": given["role"], "content": given["content"]}
        if given.get("tool_calls"):
            message |= {"function_call": given["tool_calls"][0]["function"], "tool_calls": given["tool_calls"]}
        if given.get("reasoning_content"):
            message["reasoning_content"] = given["reasoning_content"]
        choices.append({**one, "message": message, "logprobs": _chat_logprobs(one["logprobs"])})
    return {**_common(found), "choices": choices, "usage": _usage(found)}


def chat_event(found: dict[str, Any], calls: dict[int, str]) -> dict[str, Any]:
    """calls: ids of the calls so far, by their numbers."""
    (choice,) = found["choices"]
    delta = choice["delta"]
    if "role" in delta:
        delta = {"role": delta["role"]}
    elif "tool_calls" in delta:
        (call,) = delta["tool_calls"]
        function = {"name": call["function"].get("name"), "arguments": call["function"]["arguments"]}
        id = calls.setdefault(call["index"], call.get("id", ""))
        whole = {"index": call["index"], "id": id, "type": "function", "function": function}
        delta = {"role": None, "content": None, "function_call": function, "tool_calls": [whole]}
    elif choice["finish_reason"] is not None and calls:
        delta = dict.fromkeys(_CALL)
    elif "reasoning_content" in delta:
        delta = {"reasoning_content": delta["reasoning_content"]}
    logprobs = _chat_logprobs(choice["logprobs"])
    return {**_common(found), "choices": [{**choice, "delta": delta, "logprobs": logprobs}]}


def _chat_logprobs(found: dict[str, Any] | None) -> dict[str, Any] | None:
    if found is None:
        return None
    content = []
    for token in found["content"]:
        drawn = {name: value for name, value in token.items() if name != "top_logprobs"}
        top = token["top_logprobs"]
        if all(one["id"] != drawn["id"] for one in top):
            top = [*top, drawn]
        content.append({**_without_id(drawn), "top_logprobs": [_without_id(one) for one in top]})
    return {**found, "content": content}


def _without_id(token: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in token.items() if name != "id"}
