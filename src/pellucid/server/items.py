"""Converts items of OpenAI's responses to messages of a chat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pellucid import checks
from pellucid.errors import WrongType, WrongValue
from pellucid.server.failures import refused

__all__ = ["add", "messages_of", "whole"]

ROLES = ("user", "assistant", "system", "developer")
PARTS = ("input_text", "output_text", "text")


def messages_of(given: Any, most: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Messages for `input`, a text or a list of items, and the place of each."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}], ["input"]
    if not isinstance(given, list):
        raise WrongType("input", ": expected a text or a list of items")
    if len(given) > most:
        raise WrongValue("input", f" has {len(given)} items: expected at most {most}")
    made: list[dict[str, Any]] = []
    places: list[str] = []
    for i, item in enumerate(given):
        add(made, item, f"[{i}]")
        places += [f"input[{i}]"] * (len(made) - len(places))
    return whole(made), places


def whole(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages that `add` made, with the parts of each turn of the model joined."""
    for message in made:
        for name, between in (("content", ""), ("reasoning_content", "\n")):
            if isinstance(message.get(name), list):
                message[name] = between.join(message[name])
    return made


def add(made: list[dict[str, Any]], item: Any, place: str) -> None:
    """Adds an item to the messages. What the model said and called in one turn becomes one message, whose texts are
    lists of parts until `whole` joins them: joined with each item, many items would take quadratic time."""
    if not isinstance(item, dict):
        raise WrongType("input", f"{place}: expected an object, not {type(item).__name__}")
    kind = item.get("type") or ("message" if "role" in item else None)
    if kind == "message":
        role = item.get("role")
        if role not in ROLES:
            raise WrongValue("input", f"{place}.role={checks.shown(role)}: expected {', '.join(ROLES)}")
        content = _content(item.get("content"), f"{place}.content", "" if role == "assistant" else "\n")
        if role == "assistant":
            _turn(made)["content"].append(content)
        else:
            made.append({"role": role, "content": content})
    elif kind == "function_call":
        names = {"name": "a function's name", "arguments": "JSON", "call_id": "the id of the call"}
        name, arguments, identity = (
            checks.string("input", item.get(field), expected, at=f"{place}.{field}")
            for field, expected in names.items()
        )
        call = {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}
        _turn(made).setdefault("tool_calls", []).append(call)
    elif kind == "function_call_output":
        identity = checks.string("input", item.get("call_id"), "the id of the call", at=f"{place}.call_id")
        output = _content(item.get("output"), f"{place}.output")
        made.append({"role": "tool", "tool_call_id": identity, "content": output})
    elif kind == "reasoning":
        texts = [t for name in ("content", "summary") for t in _texts(item.get(name) or [], f"{place}.{name}")]
        if texts:
            thoughts = _turn(made).setdefault("reasoning_content", [])
            if thoughts == [""]:
                thoughts.clear()
            thoughts += texts
    else:
        raise refused(f"input{place}.type", f"={checks.shown(kind)}: not supported", "unsupported_field")


def _turn(made: list[dict[str, Any]]) -> dict[str, Any]:
    """The message of the model's current turn, or of a new one."""
    if not made or made[-1]["role"] != "assistant":
        made.append({"role": "assistant", "content": []})
    return made[-1]


def _content(content: Any, place: str, between: str = "\n") -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise WrongType("input", f"{place}: expected a text or a list of parts")
    return between.join(_texts(content, place, PARTS))


def _texts(parts: Any, place: str, kinds: Sequence[str] = ("reasoning_text", "summary_text")) -> list[str]:
    if not isinstance(parts, list):
        raise WrongType("input", f"{place}: expected a list of parts")
    found = []
    for k, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "refusal" and "output_text" in kinds:
            found.append(checks.string("input", part.get("refusal"), "a text", at=f"{place}[{k}].refusal"))
            continue
        if kind not in kinds:
            shown = checks.shown(kind) if kind is not None else type(part).__name__
            raise WrongValue("input", f"{place}[{k}].type={shown}: expected {' or '.join(kinds)}")
        found.append(checks.string("input", part.get("text"), "a text", at=f"{place}[{k}].text"))
    return found
