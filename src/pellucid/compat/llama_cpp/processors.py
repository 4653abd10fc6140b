"""Functions that change what is drawn, and that end a text. Calls do not accept them; programs may import, create and
call them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "LogitsProcessor",
    "LogitsProcessorList",
    "MinTokensLogitsProcessor",
    "StoppingCriteria",
    "StoppingCriteriaList",
]

Ids = npt.NDArray[np.intc]
Logits = npt.NDArray[np.float32]
LogitsProcessor = Callable[[Ids, Logits], Logits]
StoppingCriteria = Callable[[Ids, Logits], bool]


class LogitsProcessorList(list[Any]):
    """Processors, each of which gets the result of the one before it."""

    def __call__(self, input_ids: Ids, scores: Logits) -> Logits:
        for process in self:
            scores = process(input_ids, scores)
        return scores


class StoppingCriteriaList(list[Any]):
    """Whether one of them ends the text."""

    def __call__(self, input_ids: Ids, logits: Logits) -> bool:
        return any(ends(input_ids, logits) for ends in self)


class MinTokensLogitsProcessor:
    """Prevents the end of the text before so many new tokens."""

    def __init__(self, min_tokens: int, token_eos: int) -> None:
        self.min_tokens, self.token_eos = min_tokens, token_eos
        self.prompt_tokens: int | None = None

    def __call__(self, input_ids: Ids, scores: Logits) -> Logits:
        if self.prompt_tokens is None:  # at the first call
            self.prompt_tokens = len(input_ids)
        if len(input_ids) < self.prompt_tokens + self.min_tokens:
            scores[self.token_eos] = -np.inf
        return scores
