"""Reads the file of sentence-transformers' first module, the Transformer: which of its options are supported.

That package passes them on to transformers, for loading and for tokenising, so that most would alter an embedding.
Source: sentence_transformers/base/modules/transformer.py (version 6.2).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pellucid.errors import ModelFileError, UnsupportedModelError
from pellucid.pooling import Messages
from pellucid.tokenizer_classes import adapt, tokenizer_class
from pellucid.weights.base import read_file
from pellucid.weights.safetensors import json_table

__all__ = ["check_keys", "read_table", "read_transformer", "refused"]

_MOST = 1 << 20  # bytes of a file in JSON
_MOST_TOKENIZER = 1 << 28  # of tokenizer.json
# The first file with any key counts.
_FILES = (
    "sentence_bert_config.json", "sentence_roberta_config.json", "sentence_distilbert_config.json",
    "sentence_camembert_config.json", "sentence_albert_config.json", "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)  # fmt: skip
_KNOWN = {
    "max_seq_length", "processing_kwargs", "transformer_task", "modality_config", "module_output_name", "unpad_inputs",
    "track_media_counts", "method_output_name", "backend",
}  # fmt: skip
_NULL = dict.fromkeys(("query_length", "document_length", "query_expansion"))
# Options of loading, under current and older names: where files are and how they are read, and precision.
_OLDER = {"model_args": "model_kwargs", "tokenizer_args": "processor_kwargs", "config_args": "config_kwargs"}
_HUB = {"trust_remote_code", "cache_dir", "token", "revision", "code_revision", "local_files_only", "force_download"}
_TYPE = {"attn_implementation", "torch_dtype", "dtype"}
_INERT = {
    "model_kwargs": _HUB | _TYPE | {"low_cpu_mem_usage", "device_map", "use_safetensors", "add_pooling_layer"},
    "config_kwargs": _HUB | _TYPE | {"use_cache", "output_attentions", "output_hidden_states"},
    "processor_kwargs": _HUB | {"model_max_length", "use_fast", "padding_side", "truncation_side"},
}
# Options of tokenising: padding, and a length that is not applied.
_LENGTHS = {"padding", "truncation", "max_length"}
_CALLS = _LENGTHS | {"pad_to_multiple_of", "padding_side", "return_tensors", "logits_to_keep", "verbose"}


def refused(file: str, what: str, value: object, supported: str) -> UnsupportedModelError:
    """The error for a value of a file's key that would alter a result."""
    return UnsupportedModelError(feature=f"{what} = {value} ({file})", supported=supported)


def read_table(folder: str, name: str, *, needed: bool = True) -> tuple[str, dict[str, Any]]:
    """A file's path and its table, which is empty if the file is missing and not needed. Raises ModelFileError."""
    file = os.path.join(folder, name)
    if not needed and not os.path.lexists(file):
        return file, {}
    return file, json_table(read_file(file, _MOST, "a configuration"), file)


def check_keys(file: str, table: Mapping[str, Any], known: set[str], only: Mapping[str, Any], within: str = "") -> None:
    """Refuses an unknown key, and one whose value differs from its `only`. within: prefix of the keys, for errors.
    Raises UnsupportedModelError."""
    for key, value in table.items():
        if key in only and value != only[key]:
            raise refused(file, within + key, f"{value!r:.80}", repr(only[key]))
        if key not in known and key not in only:
            raise refused(file, within + key, f"{value!r:.60}", ", ".join(sorted({*known, *only})))


def read_transformer(folder: str, *, scores: bool = False, answers: bool = False) -> Messages | None:
    """Checks the options of a Transformer -> how texts become messages of a chat; None: they do not. scores: the only
    module is a classifier of two texts. answers: logits are the score of two texts.

    Raises ModelFileError for a broken file, UnsupportedModelError for an option that would alter a result.
    """
    for name in _FILES:
        file, table = read_table(folder, name, needed=False)
        if table:
            break
    else:
        return None
    only: dict[str, Any] = {"do_lower_case": False, **_NULL}
    if table.get("do_lower_case") is True and _lowers(folder):  # as bge's does anyway
        only["do_lower_case"] = True
    check_keys(file, table, _KNOWN | {*_OLDER, *_INERT}, only)
    task, output, name = "feature-extraction", "last_hidden_state", "token_embeddings"
    if scores:
        task, output, name = "sequence-classification", "logits", "scores"
    elif answers:
        task, output, name = "text-generation", "logits", "causal_logits"
    for key, value in (("transformer_task", task), ("module_output_name", name), ("method_output_name", output)):
        if key in table and table[key] != value:
            raise refused(file, key, f"{table[key]!r:.80}", repr(value))
    for key in (*_OLDER, *_INERT):
        check_keys(file, _inner(file, table, key), _INERT[_OLDER.get(key, key)], {}, f"{key}.")
    parts = _parts(file, table, output, scores)
    asks = _check_calls(file, table, parts is not None)
    return None if parts is None else Messages(parts, asks)


def _inner(file: str, table: Mapping[str, Any], key: str, within: str = "") -> dict[str, Any]:
    """A table within the table; empty if the key is missing."""
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise ModelFileError(f"it is {value!r:.80}", file=file, field=within + key, expected="a table")
    return value


def _parts(file: str, table: Mapping[str, Any], output: str, scores: bool) -> bool | None:
    """From modality_config: whether the content of messages is a list of parts; None: texts do not become messages."""
    if "modality_config" not in table:
        return None
    within = "modality_config."
    kinds = _inner(file, table, "modality_config")  # kinds other than these two are not of texts
    if "text" not in kinds and "message" not in kinds:
        raise refused(file, "modality_config", f"{kinds!r:.80}", "text, message")
    if "module_output_name" not in table:
        raise ModelFileError("no such key", file=file, field="module_output_name", expected="one with modality_config")
    for kind in ("text", "message"):
        if kind in kinds:
            way = _inner(file, kinds, kind, within)
            only = {"method": "forward", "method_output_name": output}
            if way.get("method_output_name") == [output]:  # a path of one name
                way = {**way, "method_output_name": output}
            check_keys(file, {**dict.fromkeys(only), **way}, {"format"}, only, f"{within}{kind}.")
    if "message" not in kinds:
        return None
    if scores:
        raise refused(file, f"{within}message", f"{kinds['message']!r:.80}", "text")
    form = kinds["message"].get("format")
    if form not in ("flat", "structured"):
        raise refused(file, f"{within}message.format", f"{form!r:.80}", "'flat', 'structured'")
    return bool(form == "structured")


def _check_calls(file: str, table: Mapping[str, Any], messages: bool) -> bool:
    """From processing_kwargs: whether the template writes the beginning of an answer. messages: the template is
    used."""
    key = "processing_kwargs"
    if table.get(key) is None:
        return False
    calls, within = _inner(file, table, key), f"{key}."
    check_keys(file, calls, {"common", "text", "audio", "image", "video", "chat_template"}, {}, within)
    for kind in ("common", "text"):
        check_keys(file, _inner(file, calls, kind, within), _CALLS, {"add_special_tokens": True}, f"{within}{kind}.")
    options, place = _inner(file, calls, "chat_template", within), f"{within}chat_template."
    if not messages:
        return False
    check_keys(file, options, _LENGTHS | {"restore_suffix", "add_generation_prompt"}, {}, place)
    asks = options.get("add_generation_prompt", False)
    if not isinstance(asks, bool):
        field = f"{place}add_generation_prompt"
        raise ModelFileError(f"it is {asks!r:.80}", file=file, field=field, expected="true or false")
    return asks


def _lowers(path: str) -> bool:
    """Whether the folder's tokenizer converts to lower case."""
    file = os.path.join(path, "tokenizer.json")
    if not os.path.lexists(file):
        return False
    table = json_table(read_file(file, _MOST_TOKENIZER, "a tokenizer"), file)
    _, config = read_table(path, "tokenizer_config.json", needed=False)
    _, model = read_table(path, "config.json", needed=False)
    adapt(tokenizer_class(config, model), path, config, table)
    normalizer = table.get("normalizer")
    steps = normalizer.get("normalizers") if isinstance(normalizer, dict) else None
    for step in steps if isinstance(steps, list) else [normalizer]:
        kind, lowers = (step.get("type"), step.get("lowercase")) if isinstance(step, dict) else (None, None)
        if kind == "Lowercase" or (kind == "BertNormalizer" and lowers is True):
            return True
    return False
