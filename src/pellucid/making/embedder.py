"""A model's embeddings and scores in GGUF's form: the pooling of hidden states, and the layers after it."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from pellucid.arch import Config
from pellucid.errors import UnsupportedModelError
from pellucid.weights.base import ModelFile, Tensor
from pellucid.weights.sentences import read_embedder

__all__ = ["add_embedder"]

_POOLINGS = {"mean": 1, "first": 2, "last": 3}  # GGUF's pooling_type ...
_RANK = 4  # ... and the value for models that score two texts
_DENSE = "gemma-embedding"  # its files may have dense layers


def add_embedder(file: ModelFile, c: Config, made: ModelFile) -> None:
    """Adds a folder's settings for embeddings to a model under GGUF's keys.

    Raises UnsupportedModelError for settings without a key or tensor in GGUF, and for a model without a head that is
    not an embedder.
    """
    found = read_embedder(file.path, c.dim, scores=bool(c.scorer))
    if found.answers is not None:
        logging.getLogger("pellucid").warning(
            "%s: GGUF has no key for the module LogitScore: rerank uses the prompt of Qwen3-Reranker", file.path
        )
        return
    if found.messages is not None:
        raise UnsupportedModelError(
            feature="converting an embedder whose texts go through the chat template", supported="texts as they are"
        )
    name, keys = made.architecture, {}
    if c.scorer:
        if c.second_type and not found.typed:
            raise UnsupportedModelError(feature="converting a model of two texts whose tokens have one type")
        keys = {"pooling_type": _RANK, "classifier.output_labels": ["LABEL_0"]}
        if name == "modern-bert":
            keys["classifier.pooling_type"] = _POOLINGS[c.scorer_pooling]
        if not (c.sigmoid if found.sigmoid is None else found.sigmoid):
            keys["classifier.sigmoid"] = False  # no published key: other readers return the unmodified score
    elif found.pooling is not None:
        keys["pooling_type"] = _POOLINGS[found.pooling]
    elif c.headless and not c.attention.causal:
        pass  # an encoder whose folder leaves pooling to the user
    elif c.headless:
        raise UnsupportedModelError(
            feature="converting a model without a head", supported="models that predict tokens, embed or score texts"
        )
    _add_dense(found.dense, name, keys, made)
    made.metadata.update({f"{name}.{key}": value for key, value in keys.items()})
    if found.dimensions is not None:
        logging.getLogger("pellucid").warning(
            "%s: GGUF has no key for truncate_dim: use dimensions=%d for embeddings", file.path, found.dimensions
        )
    if found.prompts:
        logging.getLogger("pellucid").warning(
            "%s: GGUF has no key for prompts (%s): put them before texts", file.path, ", ".join(found.prompts)
        )


def _add_dense(layers: Any, name: str, keys: dict[str, Any], made: ModelFile) -> None:
    if layers and name != _DENSE:
        raise UnsupportedModelError(feature=f"converting dense layers after pooling ({name})", supported=_DENSE)
    for i, layer in enumerate(layers, 2):
        if i > 3 or layer.bias is not None or layer.tanh:
            raise UnsupportedModelError(
                feature="converting these dense layers after pooling", supported="two, without bias and activation"
            )
        rows, columns = layer.weight.shape
        keys |= {f"dense_{i}_feat_in": columns, f"dense_{i}_feat_out": rows}
        data = np.ascontiguousarray(layer.weight, np.float32).reshape(-1).view(np.uint8)
        made.tensors[f"dense_{i}.weight"] = Tensor(f"dense_{i}.weight", "F32", (rows, columns), data, 0, "")
