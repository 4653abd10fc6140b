"""The turns of a conversation: the messages that may only be dropped together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["turns"]

_SYSTEM = ("system", "developer")


def turns(messages: Sequence[Mapping[str, Any]]) -> tuple[int, list[int]]:
    """(number of system messages at the beginning, index at which each turn begins).

    A turn is a message of the user and everything after it, from the assistant and from tools, up to the user's next
    message. Messages between those of the system and the first one of the user are a turn, too.
    """
    roles = [message["role"] for message in messages]
    first = next((i for i, role in enumerate(roles) if role not in _SYSTEM), len(roles))
    return first, [i for i, role in enumerate(roles) if i == first or (i > first and role == "user")]
