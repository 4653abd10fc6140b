"""Reading weights as tensors: GGUF files, Hugging Face folders, the catalogue."""

from __future__ import annotations

import importlib
import os
import stat
from typing import TYPE_CHECKING, Any

from pellucid._parsers import StringArray
from pellucid.errors import ModelFileError, WrongType, WrongValue, os_reason
from pellucid.weights.base import ModelFile, Tensor, open_regular, stat_file
from pellucid.weights.gguf import open_gguf

if TYPE_CHECKING:
    from pellucid.weights import catalog
    from pellucid.weights.huggingface import Find
    from pellucid.weights.safetensors import open_folder
    from pellucid.weights.store import Progress

__all__ = ["ModelFile", "StringArray", "Tensor", "catalog", "locate", "open_folder", "open_gguf", "open_model"]

_EXPECTED = "a GGUF file or a Hugging Face folder (config.json, model.safetensors)"


def __getattr__(name: str) -> Any:
    """Imports on demand what a plain GGUF file does not need."""
    if name == "catalog":
        return importlib.import_module("pellucid.weights.catalog")
    if name == "open_folder":
        return importlib.import_module("pellucid.weights.safetensors").open_folder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def locate(argument: str, source: Any, progress: Progress | None = None) -> str:
    """The path of a model given by path or name; a catalogue model is downloaded if necessary.

    Raises TypeError or ValueError naming the argument; FetchError for an unknown name, which suggests similar ones, and
    for a model that must be pulled first.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise WrongType(argument, f" must be a path or a catalogue name, not {type(source).__name__}")
    text = os.fsdecode(source)
    if not text:
        raise WrongValue(argument, " is empty: expected a path or a catalogue name")
    if isinstance(source, str) and not os.path.exists(text):
        from pellucid.weights import catalog

        return str(catalog.resolve(text, progress=progress))
    return text


def open_model(path: str | os.PathLike[str], find: Find | None = None, *, ordered: bool = True) -> ModelFile:
    """Opens a GGUF file (any part of a split one) or a Hugging Face folder, distinguished by their contents. In a
    folder of sentence-transformers, the model may be in the folder of the first module.

    find: a folder's model_type -> architecture and table (arch.folder): the folder then has GGUF's keys and tensor
    names; without it, its own. ordered: as in `translate`.

    Raises ModelFileError: not found, neither of the two, or something wrong inside; UnsupportedModelError: a folder
    with content that would not be read.
    """
    path = os.fsdecode(path)
    if stat.S_ISDIR(stat_file(path).st_mode):
        from pellucid.weights.huggingface import translate
        from pellucid.weights.safetensors import open_folder
        from pellucid.weights.sentences import transformer_folder

        folder = open_folder(transformer_folder(path))
        try:
            return folder if find is None else translate(folder, find, ordered)
        except BaseException:
            folder.close()
            raise
    fd, size = open_regular(path, _EXPECTED)
    try:
        magic = os.read(fd, 4)
    except OSError as error:
        raise ModelFileError(os_reason(error), file=path) from None
    finally:
        os.close(fd)
    if size == 0:
        raise ModelFileError("no model: the file is empty", file=path, expected=_EXPECTED)
    # The magics of GGUF's predecessors end in "gg": open_gguf reports which one it is.
    if magic == b"GGUF" or magic[2:] == b"gg":
        return open_gguf(path)
    if path.endswith(".safetensors"):
        raise ModelFileError(
            "weights alone, without their config.json", file=path, expected="the folder that holds both"
        )
    raise ModelFileError(
        f"no model: the file starts with {magic!r}", file=path, field="magic", offset=0, expected=_EXPECTED
    )
