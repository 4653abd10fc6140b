"""Types of what callers pass: prompts, messages, and the keyword options of each call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypedDict

import numpy as np
import numpy.typing as npt

from pellucid.sampling import DEFAULTS, Integer, OnFull, SamplingKeywords, SamplingOptions, SharedKeywords

__all__ = [
    "CHAT_DEFAULTS",
    "GENERATE_DEFAULTS",
    "TEMPLATE_DEFAULTS",
    "ChatOptions",
    "Conversations",
    "Done",
    "GenerateOptions",
    "HeadPart",
    "Ids",
    "Input",
    "Kv",
    "MapOptions",
    "Messages",
    "Part",
    "Precision",
    "Prompt",
    "Prompts",
    "Quantity",
    "Raise",
    "Return",
    "ScoreOptions",
    "Tokens",
    "ToolChoice",
    "Tools",
]

Ids = Sequence[Integer] | npt.NDArray[np.integer[Any]] | Iterable[Integer]
Prompt = str | Ids
Prompts = Iterable[str] | Iterable[Ids] | Iterable[Prompt]
Messages = Sequence[Mapping[str, Any]]
Conversations = Iterable[Messages]
Tools = Sequence[Mapping[str, Any] | Callable[..., Any]]
ToolChoice = Literal["auto", "none", "required"] | Mapping[str, Any]

Kv = Literal["auto", "f32", "f16", "bf16", "int8"]
Precision = Literal["default", "high"]
Quantity = Literal[
    "embeddings",
    "hidden",
    "middle",
    "attention_in",
    "mlp_in",
    "final",
    "q_unrotated",
    "k_unrotated",
    "q",
    "k",
    "v",
    "scores",
    "attention",
    "attention_out",
    "mlp_out",
    "gate",
    "up",
    "neurons",
    "mixed",
    "head_out",
    "routes",
    "gates",
    "conv",
    "states",
    "logits",
]
Part = Literal["attention", "mlp"]
# For `map`: the order of results, and what happens to errors.
Input = Literal["input"] | None
Done = Literal["done"]
Raise = Literal["raise"] | None
Return = Literal["return"]
HeadPart = Literal["output", "q", "k", "v"]


class Tokens(Protocol):
    """Anything that holds token ids: a chat's prompt, a context, a trace."""

    @property
    def ids(self) -> list[int]: ...


class GenerateOptions(SamplingKeywords, total=False):
    """The keywords of ``generate`` and ``stream``: ``options`` (a :class:`SamplingOptions`) and everything that class
    accepts; individual keywords override ``options``. For functions that pass them on: ``def f(**options:
    Unpack[GenerateOptions])``."""

    options: SamplingOptions | None


class ChatOptions(SharedKeywords, total=False):
    """The keywords of ``chat``: those of ``generate`` and of ``Model.chat_prompt``. ``on_full`` may also be "trim":
    leave out the oldest turns of a conversation that does not fit the context."""

    options: SamplingOptions | None
    on_full: OnFull | Literal["trim"] | None
    tools: Tools | None
    tool_choice: ToolChoice | None
    parallel_tool_calls: bool | None
    template: str | None
    documents: Sequence[Mapping[str, Any]] | None
    variables: Mapping[str, Any] | None
    reasoning_effort: str | None
    thinking_budget: Integer | None
    add_generation_prompt: bool | None


class MapOptions(ChatOptions, total=False):
    """The keywords of ``map``, except ``order`` and ``on_error``, which decide what it yields."""

    at_once: Integer | None
    seeds: Iterable[Integer] | Integer | None


class ScoreOptions(TypedDict, total=False):
    """The keywords of ``score_map``, except ``order`` and ``on_error``."""

    at_once: Integer | None
    top: Integer | None
    window: Integer | None


TEMPLATE_DEFAULTS: dict[str, Any] = {
    "tools": None,
    "tool_choice": None,
    "parallel_tool_calls": True,
    "template": None,
    "documents": None,
    "variables": None,
    "reasoning_effort": None,
    "thinking_budget": None,
    "add_generation_prompt": True,
}
GENERATE_DEFAULTS: dict[str, Any] = {"options": None, **DEFAULTS}
CHAT_DEFAULTS: dict[str, Any] = {**TEMPLATE_DEFAULTS, **GENERATE_DEFAULTS, "max_tokens": None}
