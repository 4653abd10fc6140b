"""Pellucid runs Transformer language models on ordinary CPUs: fast, exact and open to view.

from pellucid import Model

with Model.load("smollm2-135m") as model:
    print(model.generate("The capital of France is", max_tokens=32).text)
"""

from __future__ import annotations

from pellucid import errors
from pellucid.context import Context
from pellucid.generation import Completion, Piece, Timings, TokenLogprob
from pellucid.info import ModelInfo, Operation
from pellucid.model import Model
from pellucid.tokenizer import Tokenizer

__version__ = "0.1.0"

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
    "errors",
]
