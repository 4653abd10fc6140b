"""Conversations that outgrow the context: their oldest turns are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pellucid.core import Core
from pellucid.errors import ContextFullError
from pellucid.text.turns import turns

if TYPE_CHECKING:
    from pellucid.text.chat import ChatPrompt

__all__ = ["trimmed"]

ROOM = 512  # tokens left for the answer if max_tokens is not given; at most a quarter of the context


def trimmed(
    core: Core, messages: Sequence[Mapping[str, Any]], name: str, max_tokens: int | None, own: Mapping[str, Any]
) -> tuple[ChatPrompt, int]:
    """(the prompt of a conversation without its oldest turns, number of messages left out): leaves out as few turns as
    possible so that the answer fits, too. name, own: as in ``Core.chat_prompt``.

    Raises ContextFullError if the last turn alone does not fit, with max_tokens tokens after it; and what
    ``Core.laid_out`` raises.
    """
    prompt = core.laid_out(messages, name, **own)
    # The last token generated needs no room.
    available = core.context_length + 1
    room = min(ROOM, core.context_length // 4) if max_tokens is None else max(max_tokens, 1)
    if len(prompt.ids) + room <= available:
        return prompt, 0
    first, starts = turns(messages)
    low, high = 1, len(starts)  # the number of turns to leave out; high: one more than possible
    found = None
    while low < high:
        middle = (low + high) // 2
        rest = [*messages[:first], *messages[starts[middle] :]]
        tried = core.laid_out(rest, name, **own)
        if len(tried.ids) + room <= available:
            found, high = (tried, starts[middle] - first), middle
        else:
            prompt, low = tried, middle + 1
    if found is not None:
        return found
    # `prompt` is that of the last turn: the last one tried, or the whole conversation if it is a single turn.
    least = 1 if max_tokens is None else room
    if len(prompt.ids) + least <= available:
        return prompt, starts[-1] - first if starts else 0
    which = "the conversation" if name == "messages" else f"the conversation {name}"
    raise ContextFullError(
        f"the last turn of {which} does not fit the context" + (f" with max_tokens={max_tokens}" if max_tokens else ""),
        needed=len(prompt.ids) + least - 1,
        available=core.context_length,
    )
