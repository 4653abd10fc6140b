"""What `llm` loads: the plugin, or nothing where `llm` is older than the plugin needs.

The older ones pass on what a plugin raises, so that every command of theirs would end with it.
"""

from __future__ import annotations

import warnings

try:
    from pellucid.adapters.llm import register_commands, register_embedding_models, register_models
except ImportError as error:
    warnings.warn(f"Pellucid's plugin for llm is left out: {error}", stacklevel=1)
else:
    __all__ = ["register_commands", "register_embedding_models", "register_models"]
