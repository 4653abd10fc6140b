"""EmbeddingGemma: Gemma 3 in which every token also attends to later ones (Schechter Vera et al. 2025).

Folders have the model_type gemma3_text; gemma3.py has their table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pellucid.arch import gemma3
from pellucid.arch.config import Config, Reader, Source
from pellucid.arch.gemma3 import block as block
from pellucid.folder import Folder


def config(source: Source) -> Config:
    c = gemma3.config(source, causal=False)
    return replace(c, dense=Reader(source).dense(c.dim))


FOLDERS: Mapping[str, Folder] = {}
