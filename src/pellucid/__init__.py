"""Pellucid runs Transformer language models on ordinary CPUs: fast, exact and open to view.

from pellucid import Model

with Model.load("smollm2-135m") as model:
    print(model.generate("The capital of France is", max_tokens=32).text)
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False  # as type checkers know it: nothing is imported here, so that the command line can take a Ctrl-C
if TYPE_CHECKING:
    from typing import Any

    from pellucid import errors
    from pellucid.asynchronous import AsyncBatchStream, AsyncStream
    from pellucid.context import Context
    from pellucid.embedding import Ranked
    from pellucid.info import ModelInfo, Operation
    from pellucid.look import Attribution, Attributions, Lens, LensTable, Score, Trace
    from pellucid.model import Edit, Model
    from pellucid.options import ChatOptions, GenerateOptions
    from pellucid.results import Completion, NextToken, Piece, Timings, TokenLogprob, ToolCall, ToolCallDelta
    from pellucid.sampling import SamplingOptions
    from pellucid.schedule.request import Request
    from pellucid.schedule.stats import RequestStats, Stats
    from pellucid.streams import BatchStream, Stream
    from pellucid.tokenizer import Tokenizer

__all__ = [
    "AsyncBatchStream",
    "AsyncStream",
    "Attribution",
    "Attributions",
    "BatchStream",
    "ChatOptions",
    "Completion",
    "Context",
    "Edit",
    "GenerateOptions",
    "Lens",
    "LensTable",
    "Model",
    "ModelInfo",
    "NextToken",
    "Operation",
    "Piece",
    "Ranked",
    "Request",
    "RequestStats",
    "SamplingOptions",
    "Score",
    "Stats",
    "Stream",
    "Timings",
    "TokenLogprob",
    "Tokenizer",
    "ToolCall",
    "ToolCallDelta",
    "Trace",
    "errors",
]

_MODULES = {
    **dict.fromkeys(
        ("Completion", "NextToken", "Piece", "Timings", "TokenLogprob", "ToolCall", "ToolCallDelta"), "results"
    ),
    **dict.fromkeys(("ChatOptions", "GenerateOptions"), "options"),
    "SamplingOptions": "sampling",
    "Request": "schedule.request",
    **dict.fromkeys(("RequestStats", "Stats"), "schedule.stats"),
    **dict.fromkeys(("BatchStream", "Stream"), "streams"),
    **dict.fromkeys(("AsyncBatchStream", "AsyncStream"), "asynchronous"),
    **dict.fromkeys(("ModelInfo", "Operation"), "info"),
    "Context": "context",
    "Ranked": "embedding",
    **dict.fromkeys(("Edit", "Model"), "model"),
    "Tokenizer": "tokenizer",
    **dict.fromkeys(("Attribution", "Attributions", "Lens", "LensTable", "Score", "Trace"), "look"),
}


def __getattr__(name: str) -> Any:
    """A public name's module is loaded when the name is first used: importing the package costs next to nothing."""
    import importlib

    if name == "errors":
        return importlib.import_module("pellucid.errors")
    if name not in _MODULES:
        raise AttributeError(f"module 'pellucid' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"pellucid.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
