"""Architectures: one file each, named after GGUF's general.architecture.

A file has `config(source) -> Config`, which reads the sizes; `block(plan, config, layer)`, which adds a layer's
operations; `begin(plan, config)`, which adds operations before the first layer, if there are more than the embedding;
and `FOLDERS`, a table for each model_type of Hugging Face folders with such a model. Folders that also contain other
models are in wrappers.py.
This module does what they have in common. In particular, it refuses a model if anything that could affect its results
was not read.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Mapping
from typing import Any, Protocol

from pellucid.arch.config import DEFAULT_CONTEXT, Config, Source
from pellucid.errors import UnsupportedModelError
from pellucid.folder import Folder, Wrapper
from pellucid.plan import Plan
from pellucid.wrappers import WRAPPERS

__all__ = ["DEFAULT_CONTEXT", "Config", "Source", "build", "configure", "folder", "folders", "names"]

# Keys under an architecture's name that affect no result, whatever their value: `vocab_size` (the number of rows of the
# embedding is used instead), the epsilon of an unused norm (converters write both for Nemotron and ModernBERT), a note
# on how tensors were made, and parameters of rotations that are not supported.
_IGNORED = frozenset(
    {
        "attention.layer_norm_epsilon",
        "attention.layer_norm_rms_epsilon",
        "rope.scaling.finetuned",
        "rope.scaling.original_context_length",
        "tensor_data_layout",
        "vocab_size",
    }
)
# Tensors that may be left unread: inverse rotary frequencies, layers for multi-token prediction, and the encoders of
# images and audio.
_LEFT_OUT = re.compile(r"blk\.\d+\.(attn_rot_embd(\.weight)?|nextn\..+)|(mtp|nextn|v|a|mm)\..+")
# Files of architectures whose names have hyphens, which a module name cannot have.
_HYPHENS = (
    "command_r", "ernie4_5_moe", "falcon_h1", "gemma_embedding", "gpt_oss", "hunyuan_dense", "kimi_linear",
    "modern_bert",
    "nomic_bert",
)  # fmt: skip
# Imported here, while there are file descriptors: a folder that cannot be read would look empty.
_FILES = {
    "-".join(m.name.rsplit("_", 1)) if m.name in _HYPHENS else m.name: m.name
    for m in pkgutil.iter_modules(__path__)
    if m.name not in ("config", "mixture")
}


class _Architecture(Protocol):
    FOLDERS: Mapping[str, Folder]

    def config(self, source: Source) -> Config: ...
    def block(self, p: Plan, c: Config, i: int) -> None: ...


def names() -> list[str]:
    """The architectures that Pellucid runs."""
    return sorted(_FILES)


def _module(architecture: str) -> Any:
    if architecture not in names():
        raise UnsupportedModelError(feature=f"architecture {architecture!r}", supported=", ".join(names()))
    return importlib.import_module(f"{__name__}.{_FILES[architecture]}")


def _module_of(source: Source) -> _Architecture:
    kind = source.get_any("general.type", None)  # in GGUF files
    if kind not in (None, "model"):
        raise UnsupportedModelError(feature=f"general.type = {kind!r:.80}", supported="model")
    found: _Architecture = _module(source.architecture)
    return found


def folders() -> dict[str, tuple[str, Folder | Wrapper]]:
    """model_type of Hugging Face folders -> (architecture, table)."""
    found: dict[str, tuple[str, Folder | Wrapper]] = {
        kind: (name, table) for name in names() for kind, table in _module(name).FOLDERS.items()
    }
    return found | {kind: (found[wrapper.texts[0]][0], wrapper) for kind, wrapper in WRAPPERS.items()}


def folder(model_type: str) -> tuple[str, Folder | Wrapper]:
    """(architecture, table) of a Hugging Face folder's model_type. Raises UnsupportedModelError for an unknown one."""
    tables = folders()
    if model_type not in tables:
        raise UnsupportedModelError(feature=f"architecture {model_type!r}", supported=", ".join(sorted(tables)))
    return tables[model_type]


def configure(source: Source) -> Config:
    """Reads the configuration. Raises ModelFileError, UnsupportedModelError."""
    module = _module_of(source)
    return module.config(source)


def build(source: Source, formats: frozenset[str]) -> tuple[Config, Plan]:
    """Reads the configuration and builds the plan. Raises ModelFileError, UnsupportedModelError."""
    module = _module_of(source)
    c = module.config(source)
    p = Plan(source.tensors, formats, source.path, source.own_name, vocab=c.vocab, dim=c.dim, eps=c.eps, norms=c.norms)
    p.embed(c.embed_scale)
    if hasattr(module, "begin"):
        module.begin(p, c)
    for i in range(c.layers):
        module.block(p, c, i)
    p.head(c.logit_cap, scale=c.logit_scale, logits=not c.headless, norm=c.final_norm)
    for name, rows, k in (*c.dense, *c.scorer):
        p.matrix(name, rows, k)
    for name, rows, _ in c.scorer:
        p.bias(name, rows)
    if c.scorer_norm is not None:
        p.vector(c.scorer_norm, c.dim)
        p.bias(c.scorer_norm, c.dim)
    _check_all_was_read(source, p)
    return c, p


def _check_all_was_read(source: Source, p: Plan) -> None:
    prefix = f"{source.architecture}."
    for key in source.unread(prefix):
        if key.removeprefix(prefix) not in _IGNORED:
            raise source.refuse(key)
    for name in source.tensors:
        if name not in p.used and name not in source.used and not _LEFT_OUT.fullmatch(name):
            if name.endswith(".order"):  # not a tensor of the file itself
                module = source.own_name(f"{name.removesuffix('.order')}.weight").removesuffix(".weight")
                raise UnsupportedModelError(feature=f"{module} with columns in an order of its own (act-order)")
            raise UnsupportedModelError(feature=f"tensor {source.own_name(name)}, which no operation reads,")
