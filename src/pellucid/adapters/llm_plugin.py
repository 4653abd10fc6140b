"""The module that `llm` loads: it has the plugin, or nothing if `llm` is older than the plugin needs.

Older versions pass on what a plugin raises, so that each of their commands would end with it.
"""

from __future__ import annotations

import warnings

try:
    from pellucid.adapters.llm import register_commands, register_embedding_models, register_models
except ImportError as error:
    warnings.warn(f"Pellucid's plugin for llm is left out: {error}", stacklevel=1)
else:
    __all__ = ["register_commands", "register_embedding_models", "register_models"]
