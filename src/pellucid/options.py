"""Types of what callers give: prompts, messages, and the options of each call as keywords."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pellucid.sampling import DEFAULTS, Integer, OnFull, SamplingKeywords, SamplingOptions, SharedKeywords

__all__ = [
    "CHAT_DEFAULTS",
    "GENERATE_DEFAULTS",
    "TEMPLATE_DEFAULTS",
    "ChatOptions",
    "Conversations",
    "GenerateOptions",
    "Ids",
    "Kv",
    "Messages",
    "Part",
    "Precision",
    "Prompt",
    "Prompts",
    "Quantity",
]

Ids = Sequence[Integer] | npt.NDArray[np.integer[Any]] | Iterable[Integer]
Prompt = str | Ids
Prompts = Iterable[str] | Iterable[Ids]
Messages = Sequence[Mapping[str, Any]]
Conversations = Iterable[Messages]

Kv = Literal["auto", "f32", "f16", "bf16", "int8"]
Precision = Literal["default", "high"]
Quantity = Literal[
    "embeddings",
    "hidden",
    "q",
    "k",
    "v",
    "scores",
    "attention",
    "attention_out",
    "mlp_out",
    "neurons",
    "head_out",
    "logits",
]
Part = Literal["attention", "mlp"]


class GenerateOptions(SamplingKeywords, total=False):
    """The keywords of ``generate`` and ``stream``: ``options`` (a :class:`SamplingOptions`), and all that it takes,
    which win over it. For functions that pass them on: ``def f(**options: Unpack[GenerateOptions])``."""

    options: SamplingOptions | None


class ChatOptions(SharedKeywords, total=False):
    """The keywords of ``chat``: those of ``generate``, and those of ``Model.chat_prompt``. ``on_full`` may also be
    "trim": leave out the oldest turns of a conversation that does not fit the context."""

    options: SamplingOptions | None
    on_full: OnFull | Literal["trim"] | None
    tools: Sequence[Mapping[str, Any]] | None
    template: str | None
    documents: Sequence[Mapping[str, Any]] | None
    variables: Mapping[str, Any] | None
    add_generation_prompt: bool | None


TEMPLATE_DEFAULTS: dict[str, Any] = {
    "tools": None,
    "template": None,
    "documents": None,
    "variables": None,
    "add_generation_prompt": True,
}
GENERATE_DEFAULTS: dict[str, Any] = {"options": None, **DEFAULTS}
CHAT_DEFAULTS: dict[str, Any] = {**TEMPLATE_DEFAULTS, **GENERATE_DEFAULTS, "max_tokens": None}
