"""How a model's hidden states become an embedding: plain data, and its arithmetic in NumPy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["POOLINGS", "Dense", "Embedder", "Messages", "Norm", "normalized"]

Floats = npt.NDArray[np.float32]

# Which hidden states make the embedding: of the last token, of the first token, or the mean of all.
POOLINGS = ("last", "first", "mean")
_PAIR = ("query", "document")  # roles that templates of rerankers know


@dataclass(frozen=True, eq=False)
class Norm:
    """LayerNorm (Ba et al. 2016) of a vector of float64."""

    weight: Floats
    bias: Floats | None
    eps: float

    def __call__(self, x: Any) -> Any:
        x = x - np.mean(x)
        y = x / np.sqrt(np.mean(np.square(x)) + self.eps) * self.weight
        return y if self.bias is None else y + self.bias


@dataclass(frozen=True, eq=False)
class Dense:
    """A layer applied to a pooled vector: norm(act(weight x + bias))."""

    weight: Floats  # (out, in)
    bias: Floats | None = None  # (out)
    tanh: bool = False
    gelu: bool = False
    norm: Norm | None = None

    def __call__(self, x: Floats) -> Floats:
        """(in) -> (out); sums are in float64, in ascending order, so that no bit depends on a library or on other
        texts."""
        y = np.einsum("ij,j->i", self.weight, x, dtype=np.float64, casting="safe", optimize=False)
        if self.bias is not None:
            y = y + self.bias
        y = np.tanh(y) if self.tanh else y
        if self.gelu:
            y = np.array([0.5 * v * (1.0 + math.erf(v / math.sqrt(2.0))) for v in y.tolist()])
        out: Floats = (y if self.norm is None else self.norm(y)).astype(np.float32)
        return out


@dataclass(frozen=True)
class Messages:
    """How texts become user messages, and prompts system messages, for the chat template.

    ``parts``: content is a list of parts; otherwise text. ``asks``: the template adds the beginning of an answer.
    """

    parts: bool = False
    asks: bool = False

    def of(self, text: str, prompt: str) -> list[dict[str, Any]]:
        """The messages; without a system message if the prompt is empty."""
        given = [(role, said) for role, said in (("system", prompt), ("user", text)) if said or role == "user"]
        return [
            {"role": role, "content": [{"type": "text", "text": said}] if self.parts else said} for role, said in given
        ]

    def of_pair(self, query: str, document: str, prompt: str) -> list[dict[str, Any]]:
        """As `of`, for a query and a document, whose roles have these names."""
        before = self.of("", prompt)[:-1]
        return before + [
            {**self.of(said, "")[0], "role": role} for role, said in zip(_PAIR, (query, document), strict=True)
        ]


@dataclass(frozen=True, eq=False)
class Embedder:
    """What a model's files specify for its use as an embedder.

    ``pooling``: one of POOLINGS; None: not specified. ``dense``: the layers after pooling. ``prompts``: texts put
    before a text, by name; ``prompt``: the name of the default one. ``messages``: texts go through the chat template;
    None: they do not. ``dimensions``: the default number of columns to keep; None: all. ``scorer``: the layers that
    score a pair of texts, from the hidden state of the first token; ``sigmoid``: whether a sigmoid follows them; None:
    the model decides; ``typed``: whether the tokens of the second text have their own type. ``answers``: the tokens
    whose logits score a pair of texts, the first for and the second against; without a second, the logit of the first
    alone counts; None: the files name none.
    """

    pooling: str | None = None
    dense: tuple[Dense, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    prompt: str | None = None
    messages: Messages | None = None
    dimensions: int | None = None
    scorer: tuple[Dense, ...] = ()
    sigmoid: bool | None = None
    typed: bool = True
    answers: tuple[int, int | None] | None = None


def normalized(x: Floats) -> Floats:
    """A vector divided by its length; zeros stay zeros."""
    length: Any = np.sqrt(np.sum(np.square(x, dtype=np.float64)))
    out: Floats = (x / length).astype(np.float32) if length > 0 else x
    return out
