"""Architectures: a file each, named as GGUF's general.architecture and Hugging Face's model_type.

A file has `config(source) -> Config`, which reads the sizes, and `block(plan, config, layer)`, which writes a layer's
operations. What they share is here.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, Protocol

from pellucid.arch.config import Config, Source
from pellucid.errors import UnsupportedModelError
from pellucid.plan import Plan

__all__ = ["Config", "Source", "build", "names"]


class _Architecture(Protocol):
    def config(self, source: Source) -> Config: ...
    def block(self, p: Plan, c: Config, i: int) -> None: ...


def names() -> list[str]:
    """The architectures that Pellucid runs."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "config")


def _module(architecture: str) -> Any:
    if architecture not in names():
        raise UnsupportedModelError(feature=f"architecture {architecture!r}", supported=", ".join(names()))
    return importlib.import_module(f"{__name__}.{architecture}")


def build(source: Source, formats: frozenset[str]) -> tuple[Config, Plan]:
    """Reads the configuration and writes the plan. Raises ModelFileError, UnsupportedModelError."""
    module: _Architecture = _module(source.architecture)
    c = module.config(source)
    p = Plan(source.tensors, c.vocab, c.dim, c.eps, formats, source.path)
    p.embed(c.embed_scale)
    for i in range(c.layers):
        module.block(p, c, i)
    p.head(c.logit_cap)
    return c, p
