"""Pellucid runs Transformer language models on ordinary CPUs: fast, exact and open to view.

from pellucid import Model

with Model.load("smollm2-135m") as model:
    print(model.generate("The capital of France is", max_tokens=32).text)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pellucid import errors
from pellucid.context import Context
from pellucid.generation import Completion, Piece, Timings, TokenLogprob
from pellucid.info import ModelInfo, Operation
from pellucid.model import Model
from pellucid.tokenizer import Tokenizer

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pellucid.look import Trace

__all__ = [
    "Completion",
    "Context",
    "Model",
    "ModelInfo",
    "Operation",
    "Piece",
    "Timings",
    "TokenLogprob",
    "Tokenizer",
    "Trace",
    "errors",
]


def __getattr__(name: str) -> Any:
    """What looking inside needs is loaded when it is first named."""
    if name == "Trace":
        from pellucid import look

        return look.Trace
    raise AttributeError(f"module 'pellucid' has no attribute {name!r}")
