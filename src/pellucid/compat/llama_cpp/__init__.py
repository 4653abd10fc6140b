"""llama-cpp-python's interface on top of Pellucid: `Llama` and what belongs to it.

Programs import it in place of `llama_cpp`, or call `install()` first, after which `import llama_cpp` finds it, even in
packages that are built on llama-cpp-python. Arguments that only change how llama.cpp computes are ignored, with one
warning; those that would change an answer and are not supported raise NotImplementedError, which names them.
"""

from __future__ import annotations

import sys
from typing import Any

from pellucid.compat.llama_cpp import llama, llama_cache, llama_chat_format, llama_grammar, llama_tokenizer, llama_types
from pellucid.compat.llama_cpp.arguments import (
    GGML_TYPE_BF16,
    GGML_TYPE_F16,
    GGML_TYPE_F32,
    GGML_TYPE_Q8_0,
    LLAMA_DEFAULT_SEED,
    LLAMA_POOLING_TYPE_CLS,
    LLAMA_POOLING_TYPE_LAST,
    LLAMA_POOLING_TYPE_MEAN,
    LLAMA_POOLING_TYPE_NONE,
    LLAMA_POOLING_TYPE_UNSPECIFIED,
    LLAMA_SPLIT_MODE_LAYER,
    LLAMA_SPLIT_MODE_NONE,
    LLAMA_SPLIT_MODE_ROW,
)
from pellucid.compat.llama_cpp.llama import *  # noqa: F403
from pellucid.compat.llama_cpp.llama import Llama, LlamaState
from pellucid.compat.llama_cpp.llama_cache import BaseLlamaCache, LlamaCache, LlamaDiskCache, LlamaRAMCache
from pellucid.compat.llama_cpp.llama_grammar import LlamaGrammar
from pellucid.compat.llama_cpp.llama_types import *  # noqa: F403

__all__ = [
    "GGML_TYPE_BF16",
    "GGML_TYPE_F16",
    "GGML_TYPE_F32",
    "GGML_TYPE_Q8_0",
    "LLAMA_DEFAULT_SEED",
    "LLAMA_POOLING_TYPE_CLS",
    "LLAMA_POOLING_TYPE_LAST",
    "LLAMA_POOLING_TYPE_MEAN",
    "LLAMA_POOLING_TYPE_NONE",
    "LLAMA_POOLING_TYPE_UNSPECIFIED",
    "LLAMA_SPLIT_MODE_LAYER",
    "LLAMA_SPLIT_MODE_NONE",
    "LLAMA_SPLIT_MODE_ROW",
    "BaseLlamaCache",
    "Llama",
    "LlamaCache",
    "LlamaDiskCache",
    "LlamaGrammar",
    "LlamaRAMCache",
    "LlamaState",
    "install",
]

__version__ = "0.3.36"  # the version whose interface it has

_PARTS = (llama, llama_cache, llama_chat_format, llama_grammar, llama_tokenizer, llama_types)


def install() -> None:
    """Makes `import llama_cpp` find this module, in this process. Raises RuntimeError if llama-cpp-python itself has
    already been imported."""
    here = sys.modules[__name__]
    if sys.modules.get("llama_cpp", here) is not here:
        raise RuntimeError("llama_cpp is imported already: expected install() before its first import")
    sys.modules["llama_cpp"] = here
    for part in _PARTS:
        sys.modules[f"llama_cpp.{part.__name__.rpartition('.')[2]}"] = part


def __getattr__(name: str) -> Any:
    if name.startswith(("llama_", "ggml_", "LLAMA_", "GGML_")):
        raise AttributeError(f"{name}: pellucid.compat.llama_cpp has the class Llama, not the functions of llama.cpp")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
