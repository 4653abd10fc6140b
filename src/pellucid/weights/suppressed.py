"""Tokens that a model's files forbid: in Gemma 4 12B those of images and audio, which it was not trained to write."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from pellucid.errors import ModelFileError
from pellucid.weights.base import ModelFile, read_file

__all__ = ["suppressed"]

_KEY = "tokenizer.ggml.suppress_tokens"
_FIELD = "suppress_tokens"
_MOST = 16 << 20  # bytes of a JSON file


def suppressed(file: ModelFile, vocab: int) -> tuple[int, ...]:
    """Ids, ascending: from the key in a GGUF file, or from suppress_tokens in a folder's generation_config.json or,
    without that file, in its config.json, as in transformers.

    Raises ModelFileError for anything but a list of ids of the vocabulary, and if it has all of them.
    """
    if file.format.startswith("GGUF"):
        return _checked(file.get_any(_KEY, None), vocab, file.metadata_file, _KEY)
    from pellucid.weights.safetensors import json_table

    paths = [os.path.join(file.path, name) for name in ("generation_config.json", "config.json")]
    path = next((one for one in paths if os.path.lexists(one)), paths[0])
    table = json_table(read_file(path, _MOST, f"a {os.path.basename(path)}"), path)
    return _checked(table.get(_FIELD), vocab, path, _FIELD)


def _checked(value: Any, vocab: int, path: str, field: str) -> tuple[int, ...]:
    if value is None:
        return ()
    found = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(found, list) or not all(type(i) is int for i in found):
        raise ModelFileError(f"it is {found!r:.60}", file=path, field=field, expected="a list of token ids")
    wrong = [i for i in found if not 0 <= i < vocab]
    if wrong or len({*found}) == vocab:
        message = f"it has {wrong[0]}" if wrong else "it forbids every token"
        raise ModelFileError(message, file=path, field=field, expected=f"some of the ids 0 to {vocab - 1}")
    return tuple(sorted({*found}))
