"""Converts a Hugging Face folder to a GGUF file.

A folder is read as it is for loading: under GGUF's keys and names, with every key and tensor checked
(weights/huggingface.py). It remains to put tensors into the form of the architecture's GGUF files (forms.py), to
convert the keys (keys.py), the types of their values and the tokenizer, and to quantise the weights.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from pellucid import _engine, arch, weights
from pellucid.errors import UnsupportedModelError
from pellucid.making.embedder import add_embedder
from pellucid.making.forms import gguf_tensors
from pellucid.making.keys import gguf_model
from pellucid.making.vocabulary import tokenizer_metadata
from pellucid.parts import floats
from pellucid.weights.base import ModelFile
from pellucid.weights.importance import Importance
from pellucid.weights.quantise import recipe, write_model
from pellucid.weights.recipes import MIXTURES
from pellucid.weights.suppressed import suppressed
from pellucid.weights.writer import Progress, Value

__all__ = ["convert_folder"]

# Keys whose values are floats, even if a configuration has them as integers.
_FRACTION = re.compile(
    r"freq_base|epsilon|factor|scale|softcapping|beta|clamp|multiplier|attention\.scale|\.weights_|time_step_m"
)


def convert_folder(
    folder: str | os.PathLike[str],
    path: str | os.PathLike[str],
    mixture: str,
    *,
    importances: Mapping[str, Importance] | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Writes a folder's model as a GGUF file -> {name of a tensor: its format}.

    Raises what loading the folder raises; UnsupportedModelError for a model or tokenizer that has no GGUF form.
    """
    with weights.open_model(folder, arch.folder, ordered=False) as file:
        if file.format.startswith("GGUF"):
            raise UnsupportedModelError(feature=f"{file.path}: a GGUF file", supported="a Hugging Face folder")
        halves = bool(file.metadata.pop("pellucid.rope_halves", True))
        interleave = f"{file.architecture}.rope.interleave"  # not a GGUF key
        halves = not file.get_bool(interleave, not halves)
        file.metadata.pop(interleave, None)
        formats = frozenset(_engine.format_names())
        config, _ = arch.build(file, formats)
        file.metadata.update(_numbers(file))
        made = gguf_model(file, config, gguf_tensors(file.tensors, config, halves))
        add_embedder(file, config, made)
        arch.build(made, formats)  # so that what is written can be read
        metadata = {**_metadata(made, mixture), **tokenizer_metadata(file.path, config.vocab)}
        forbidden = suppressed(file, config.vocab)
        if forbidden:
            metadata["tokenizer.ggml.suppress_tokens"] = Value("array of int32", [*forbidden])
        if "token_types.weight" in made.tensors:
            types = made.tensors["token_types.weight"].shape[0]
            metadata["tokenizer.ggml.token_type_count"] = Value("uint32", types)
        chosen = recipe(made, mixture, importances)

        def format(name: str) -> str | None:
            known = _engine.format_number(made.tensors[name].type) >= 0
            return chosen.format(name) or ("F32" if known else None)

        return write_model(
            path, metadata, made.tensors, format, importances=importances, threads=threads, progress=progress
        )


def _numbers(file: ModelFile) -> dict[str, list[float]]:
    """Takes xIELU's parameters, which folders have as tensors of one number and files as lists, out of the tensors."""
    found: dict[str, list[float]] = {}
    for name in sorted((name for name in file.tensors if ".xielu_" in name), key=lambda name: int(name.split(".")[1])):
        value = float(floats(file.tensors.pop(name)).item())
        found.setdefault(f"xielu.{name.partition('.xielu_')[2]}", []).append(value)
    return found


def _metadata(made: ModelFile, mixture: str) -> dict[str, Value]:
    """The keys, with the types of their values."""
    name = made.architecture
    general = {
        "general.architecture": Value("string", name),
        "general.type": Value("string", "model"),
        "general.name": Value("string", os.path.basename(os.path.normpath(made.path)) or name),
        "general.file_type": Value("uint32", MIXTURES[mixture][0]),
        "general.quantization_version": Value("uint32", 2),
    }
    return general | {key: _value(key, value) for key, value in made.metadata.items() if key not in general}


def _value(key: str, value: Any) -> Value:
    """A key's value with its type."""
    if isinstance(value, (list, tuple, np.ndarray)):
        items = np.asarray(value).tolist()
        kind = _value(key, items[0]).kind if items else "string"
        return Value(f"array of {'int32' if kind == 'uint32' else kind}", items)
    if isinstance(value, bool):
        return Value("bool", value)
    if isinstance(value, str):
        return Value("string", value)
    if isinstance(value, float) or _FRACTION.search(key):
        return Value("float32", value)
    return Value("uint32" if value >= 0 else "int32", value)
