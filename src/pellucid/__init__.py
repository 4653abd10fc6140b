"""Pellucid runs Transformer language models on ordinary CPUs: fast, exact and open to view.

from pellucid import Model

with Model.load("smollm2-135m") as model:
    print(model.generate("The capital of France is", max_tokens=32).text)
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it; nothing is imported here, not even typing
if TYPE_CHECKING:
    from typing import Any

    from pellucid import errors
    from pellucid.context import Context
    from pellucid.generation import Completion, Piece, Timings, TokenLogprob
    from pellucid.info import ModelInfo, Operation
    from pellucid.look import Trace
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
    "Trace",
    "errors",
]

_MODULES = {
    "context": ("Context",),
    "generation": ("Completion", "Piece", "Timings", "TokenLogprob"),
    "info": ("ModelInfo", "Operation"),
    "look": ("Trace",),
    "model": ("Model",),
    "tokenizer": ("Tokenizer",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """A public name at its first use: so the command line can take a Ctrl-C before anything large is imported."""
    import importlib

    if name == "errors":
        return importlib.import_module("pellucid.errors")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"pellucid.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
