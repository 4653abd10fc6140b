"""Reads the files that sentence-transformers adds to a Hugging Face folder: modules.json and the files that it names.

Only what Pellucid supports is accepted: a Transformer, one way of pooling, dense layers, a last Normalize, and Dropout,
which has no effect. Anything else that would alter an embedding is refused by name. Source: sentence-transformers'
own modules (versions 2 to 6).
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from pellucid.errors import ModelFileError, UnsupportedModelError
from pellucid.folder import SCORES, Settings
from pellucid.pooling import Dense, Embedder
from pellucid.tokenizer_classes import tokenizer_class
from pellucid.weights.base import SourceFile, Tensor, read_file
from pellucid.weights.safetensors import json_value, read_header
from pellucid.weights.transformer_keys import check_keys, read_table, read_transformer, refused

__all__ = ["is_base", "read_embedder", "transformer_folder"]

_MOST = 1 << 20  # bytes of a file in JSON
_POOLING = {"cls": "first", "lasttoken": "last", "mean": "mean"}
# Older files have a flag for each mode.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_PAIRS = "CrossEncoder"  # the type of models that score two texts
_TANH = {"torch.nn.modules.activation.Tanh": True, "torch.nn.modules.linear.Identity": False}


def transformer_folder(path: str) -> str:
    """The model's folder within a folder of sentence-transformers; older versions put it into 0_Transformer.

    Raises UnsupportedModelError for another first module in a folder without config.json; ModelFileError for a broken
    modules.json.
    """
    if not _has_modules(path):
        return path
    file, modules = _modules(path)
    if modules and modules[0][0] == "Transformer":
        return os.path.join(path, modules[0][2]) if modules[0][2] else path
    if modules and not os.path.exists(os.path.join(path, "config.json")):
        raise refused(file, "the first module", modules[0][1], "Transformer")
    return path


def _has_modules(path: str) -> bool:
    return os.path.lexists(os.path.join(path, "modules.json"))  # a broken link is an error, not a missing file


def _home(path: str) -> tuple[str, str]:
    """A model's folder -> (the folder of its modules.json, the model's path in it); (path, "") if there is none."""
    if _has_modules(path):
        return path, ""
    above, own = os.path.split(os.path.abspath(path))
    try:
        inside = bool(own) and _has_modules(above) and transformer_folder(above) == os.path.join(above, own)
    except (ModelFileError, UnsupportedModelError):  # it does not belong to this model
        inside = False
    return (above, own) if inside else (path, "")


def _modules(path: str) -> tuple[str, list[tuple[str, str, str]]]:
    """modules.json's path, and for each module its class without its package, its type, and its folder in `path`."""
    file = os.path.join(path, "modules.json")
    given = json_value(read_file(file, _MOST, "a list of modules"), file)
    found = []
    for i, module in enumerate(given if isinstance(given, list) else [given]):
        kind, place = (module.get(key) if isinstance(module, dict) else None for key in ("type", "path"))
        if isinstance(place, str) and len(place) > 1:
            place = place.removesuffix("/")
        if not isinstance(kind, str) or not isinstance(place, str) or _leaves(place):
            raise ModelFileError(
                f"it is {module!r:.80}", file=file, field=f"[{i}]", expected="a module with its type and path"
            )
        name = kind.rpartition(".")[2] if kind.startswith("sentence_transformers.") else kind
        found.append((name, kind, place))
    return file, found


def is_base(c: Settings, tensors: dict[str, Tensor]) -> bool:
    """Whether a folder's model was saved without its head, judged by its class, or as an embedder. Raises
    UnsupportedModelError for one with its own code, with which gte-Qwen2 and others also attend to later tokens."""
    given = c.get_list("architectures", None, of=str) or ()
    saved = any(name.endswith("Model") and not name.endswith("LMHeadModel") for name in given)
    home = _home(c.folder.path)[0]
    saved = saved or (_has_modules(home) and all(name != "LogitScore" for name, _, _ in _modules(home)[1]))
    if saved and (c.get_table("auto_map", None) or {}).get("AutoModel") is not None:
        raise c.refuse("auto_map.AutoModel", "embedders that transformers' own class computes")
    return saved and "output.weight" not in tensors


def read_embedder(path: str, dim: int, *, scores: bool = False) -> Embedder:
    """The folder's settings for embeddings; none if there is no modules.json in the folder or, for the folder of only a
    Transformer (`transformer_folder`), above it. dim: width of the hidden states. scores: the model has a classifier of
    two texts (sentence-transformers' CrossEncoder).

    Raises ModelFileError for a broken file, UnsupportedModelError for a module or an option that Pellucid lacks.
    """
    home, own = _home(path)
    if not _has_modules(home):
        return Embedder(typed=_typed(path)) if scores else Embedder()
    file, modules = _modules(home)
    pooling, kinds = None, []
    dense: list[Dense] = []
    answers = None
    for i, (name, kind, place) in enumerate(modules):
        folder = os.path.join(home, place)
        if (name == "Transformer") != (i == 0) or (name == "Transformer" and place != own):
            raise refused(file, "a module", f"{kind} in {place!r}", "one Transformer, first")
        if name == "Dropout" and pooling is not None:
            continue  # only for training
        kinds.append(name)
        if name == "Transformer":
            continue
        if name == "Pooling" and pooling is None:
            pooling = _pooling(folder, dim)
        elif name == "Dense" and pooling is not None and kinds[-2] != "Normalize":
            width = dense[-1].weight.shape[0] if dense else dim
            dense.append(_dense(folder, width))
        elif name == "LogitScore" and i == 1 and len(modules) == 2 and not scores:
            answers = _answers(folder)
        elif name != "Normalize" or pooling is None or kinds[-2] == "Normalize":
            raise refused(file, "a module", kind, "Transformer, Pooling, Dense, Normalize, in this order")
    alone = scores and kinds == ["Transformer"]
    messages = read_transformer(path, scores=alone, answers=answers is not None) if kinds else None
    if alone:
        return Embedder(sigmoid=_sigmoid(home, None), typed=_typed(path))
    if answers is not None:
        if messages is None:
            raise refused(file, "a module", modules[1][1], "one whose texts go through the chat template")
        prompts, prompt, _ = _prompts(home, _PAIRS)
        return Embedder(prompts=prompts, prompt=prompt, messages=messages, sigmoid=_sigmoid(home), answers=answers)
    if pooling is None:
        raise refused(file, "modules", " and ".join(kinds) or "none", "a Pooling")
    prompts, prompt, size = _prompts(home)
    return Embedder(pooling, tuple(dense), prompts, prompt, messages=messages, dimensions=size)


def _leaves(place: str) -> bool:
    """Whether a module's path is not a direct subfolder of the model's."""
    return place in (".", "..") or place != os.path.basename(place) or "\\" in place or "\0" in place


def _pooling(folder: str, dim: int) -> str:
    file, table = read_table(folder, "config.json")
    widths = {"word_embedding_dimension", "embedding_dimension"}
    check_keys(file, table, {*widths, *_FLAGS, "pooling_mode"}, {"include_prompt": True})
    for key in widths & {*table}:
        if table[key] != dim:
            raise ModelFileError(
                f"it is {table[key]!r:.80}", file=file, field=key, expected=f"{dim}, the model's width"
            )
    modes = table.get("pooling_mode", [mode for key, mode in _FLAGS.items() if table.get(key)] or "mean")
    if isinstance(modes, list) and len(modes) == 1:
        modes = modes[0]
    if not isinstance(modes, str) or modes not in _POOLING:
        raise refused(file, "pooling_mode", f"{modes!r:.80}", ", ".join(_POOLING))
    return _POOLING[modes]


def _dense(folder: str, width: int) -> Dense:
    file, table = read_table(folder, "config.json")
    names = {"module_input_name": "sentence_embedding", "use_residual": False}
    check_keys(file, table, {"in_features", "out_features", "bias", "activation_function", "module_output_name"}, names)
    if table.get("module_output_name") not in (None, "sentence_embedding"):
        raise refused(file, "module_output_name", repr(table["module_output_name"]), "sentence_embedding")
    act = table.get("activation_function", "torch.nn.modules.activation.Tanh")
    if not isinstance(act, str) or act not in _TANH:
        raise refused(file, "activation_function", f"{act!r:.80}", ", ".join(_TANH))
    rows = table.get("out_features")
    if table.get("in_features") != width or type(rows) is not int or not 1 <= rows <= 1 << 20:
        message = f"it is {table.get('in_features')!r:.40} -> {rows!r:.40}"
        raise ModelFileError(message, file=file, field="in_features", expected=f"{width} -> a width")
    has = {name: os.path.exists(os.path.join(folder, name)) for name in ("model.safetensors", "pytorch_model.bin")}
    if has == {"model.safetensors": False, "pytorch_model.bin": True}:
        message = "the weights of this dense layer are in pytorch_model.bin"
        raise ModelFileError(message, file=folder, expected="model.safetensors")
    weights = SourceFile(os.path.join(folder, "model.safetensors"), "the weights of a dense layer")
    try:
        found = read_header(weights)
        wanted = {"linear.weight": (rows, width)} | ({"linear.bias": (rows,)} if table.get("bias", True) else {})
        if {*found} != {*wanted}:
            message, expected = f"it has {', '.join(sorted(found)) or 'nothing'}", ", ".join(wanted)
            raise ModelFileError(message, file=weights.path, expected=expected)
        values = {name: _floats(found[name], shape) for name, shape in wanted.items()}
    finally:
        weights.close()
    return Dense(values["linear.weight"], values.get("linear.bias"), _TANH[act])


def _floats(t: Tensor, shape: tuple[int, ...]) -> Any:
    if t.shape != shape:
        message = f"a tensor of shape {t.shape}"
        raise ModelFileError(message, file=t.file, field=t.name, offset=t.offset, expected=f"shape {shape}")
    if t.type == "F32":
        return t.data.view(np.float32).reshape(shape)
    if t.type == "F16":
        return t.data.view(np.float16).astype(np.float32).reshape(shape)
    if t.type == "BF16":
        return (t.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    raise UnsupportedModelError(feature=f"weight format {t.type} ({t.name})", supported="F32, F16, BF16")


def _answers(folder: str) -> tuple[int, int | None]:
    """The tokens of a LogitScore: for, and against."""
    file, table = read_table(folder, "config.json")
    keys = ("true_token_id", "false_token_id")
    check_keys(file, table, {*keys}, {"module_input_name": "causal_logits"})
    for key in keys:
        value = table.get(key)
        if (type(value) is not int or not 0 <= value < 1 << 31) and (key == keys[0] or value is not None):
            raise ModelFileError(f"it is {value!r:.80}", file=file, field=key, expected="a token id")
    return table[keys[0]], table.get(keys[1])


def _typed(path: str) -> bool:
    """Whether the tokenizer returns types of tokens: BERT's class does, others only if configured to."""
    file, table = read_table(path, "tokenizer_config.json", needed=False)
    names = table.get("model_input_names")
    if names is None:
        if not table:  # the model's own
            return True
        return tokenizer_class(table, read_table(path, "config.json", needed=False)[1]).typed
    if not isinstance(names, list):
        raise ModelFileError(f"it is {names!r:.80}", file=file, field="model_input_names", expected="a list of names")
    return "token_type_ids" in names


def _sigmoid(path: str, *prompts: str | None) -> bool | None:
    """Whether a sigmoid follows the score of a CrossEncoder; None: the file does not specify it. prompts: the only
    names that the default prompt may have; without any, it may have every name."""
    file, table = read_table(path, "config_sentence_transformers.json", needed=False)
    for key, only in (("model_type", (_PAIRS,)), ("default_prompt_name", prompts)):
        if only and table.get(key, only[0]) not in only:
            raise refused(file, key, f"{table[key]!r:.80}", str(only[0]))
    act = table.get("activation_fn")
    if act is not None and (not isinstance(act, str) or act not in SCORES):
        raise refused(file, "activation_fn", f"{act!r:.80}", ", ".join(SCORES))
    return None if act is None else SCORES[act]


def _prompts(path: str, only: str = "SentenceTransformer") -> tuple[dict[str, str], str | None, int | None]:
    """(texts by name, the default's name, the number of columns of an embedding to keep). only: the type of model."""
    file, table = read_table(path, "config_sentence_transformers.json", needed=False)
    kind = table.get("model_type", only)
    if kind != only:
        raise refused(file, "model_type", f"{kind!r:.80}", only)
    prompts, name = table.get("prompts") or {}, table.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise ModelFileError(f"it is {prompts!r:.80}", file=file, field="prompts", expected="texts by name")
    if name is not None and (not isinstance(name, str) or name not in prompts):
        raise ModelFileError(f"it is {name!r:.80}", file=file, field="default_prompt_name", expected="a prompt's name")
    size = table.get("truncate_dim")
    if size is not None and (type(size) is not int or size < 1):
        raise ModelFileError(f"it is {size!r:.80}", file=file, field="truncate_dim", expected="at least 1 column")
    return prompts, name, size
