"""The dicts that a `Llama` gives, ours or llama-cpp-python's, and their keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["answers", "keys"]

ASK = [{"role": "user", "content": "Name a colour."}]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 9}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]
CHOICE = {"type": "function", "function": {"name": "weather"}}


def answers(llama: Any, embedder: Any) -> dict[str, Any]:
    """One of each kind. llama: loaded with logits_all; embedder: with embedding and pooling_type=1."""
    text: Any = {"max_tokens": 3, "temperature": 0.0}
    call: Any = {"tools": TOOLS, "tool_choice": CHOICE, "temperature": 0.0, "max_tokens": 40}
    return {
        "completion": llama("The capital of France is", **text),
        "logprobs": llama("The capital of France is", logprobs=2, **text),
        "pieces": list(llama("The capital of France is", stream=True, **text)),
        "chat": llama.create_chat_completion(ASK, logprobs=True, top_logprobs=2, **text),
        "chat pieces": list(llama.create_chat_completion(ASK, stream=True, **text)),
        "call": llama.create_chat_completion(ASK, **call),
        "call pieces": list(llama.create_chat_completion(ASK, stream=True, **call)),
        "embedding": embedder.create_embedding(["Owls hunt.", "Swallows fly."]),
    }


def keys(value: Any) -> dict[str, set[str]]:
    """Place in the dict -> the keys there, of all elements of lists together. `top_logprobs` of completions has texts
    as keys."""
    found: dict[str, set[str]] = {}
    for place, names in _walk(value, ""):
        if not place.endswith("logprobs.top_logprobs"):
            found.setdefault(place, set()).update(names)
    return found


def _walk(value: Any, place: str) -> Iterator[tuple[str, set[str]]]:
    if isinstance(value, dict):
        yield place, set(value)
        for name, inner in value.items():
            yield from _walk(inner, f"{place}.{name}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner, place)
