"""Names and bytes become tensors: GGUF files, Hugging Face folders, the catalogue."""

from __future__ import annotations

import importlib
import os
import stat
from typing import TYPE_CHECKING, Any

from pellucid._gguf import StringArray
from pellucid.errors import ModelFileError
from pellucid.weights.base import ModelFile, Tensor, open_regular, stat_file
from pellucid.weights.gguf import open_gguf

if TYPE_CHECKING:
    from pellucid.weights import catalog
    from pellucid.weights.huggingface import Find
    from pellucid.weights.safetensors import open_folder

__all__ = ["ModelFile", "StringArray", "Tensor", "catalog", "open_folder", "open_gguf", "open_model"]

_EXPECTED = "a GGUF file or a Hugging Face folder (config.json, model.safetensors)"


def __getattr__(name: str) -> Any:
    """Imports what a plain GGUF file does not need when it is asked for."""
    if name == "catalog":
        return importlib.import_module("pellucid.weights.catalog")
    if name == "open_folder":
        return importlib.import_module("pellucid.weights.safetensors").open_folder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def open_model(path: str | os.PathLike[str], find: Find | None = None) -> ModelFile:
    """Opens a GGUF file (any part of a split one) or a Hugging Face folder, told apart by what they hold.

    find: a folder's model_type -> architecture and table (arch.folder): the folder then has GGUF's keys and tensor
    names too; without it, its own.

    Raises ModelFileError: not found, neither of the two, or something wrong inside; UnsupportedModelError: a folder
    of which something would not be read.
    """
    path = os.fsdecode(path)
    if stat.S_ISDIR(stat_file(path).st_mode):
        from pellucid.weights.huggingface import translate
        from pellucid.weights.safetensors import open_folder

        folder = open_folder(path)
        try:
            return folder if find is None else translate(folder, find)
        except BaseException:
            folder.close()
            raise
    fd, size = open_regular(path, _EXPECTED)
    try:
        magic = os.read(fd, 4)
    except OSError as error:
        raise ModelFileError((error.strerror or str(error)).lower(), file=path) from None
    finally:
        os.close(fd)
    if size == 0:
        raise ModelFileError("no model: the file is empty", file=path, expected=_EXPECTED)
    # The forerunners' names end in "gg" here: open_gguf says which of them a file is.
    if magic == b"GGUF" or magic[2:] == b"gg":
        return open_gguf(path)
    if path.endswith(".safetensors"):
        raise ModelFileError(
            "weights alone, without their config.json", file=path, expected="the folder that holds both"
        )
    raise ModelFileError(
        f"no model: the file starts with {magic!r}", file=path, field="magic", offset=0, expected=_EXPECTED
    )
