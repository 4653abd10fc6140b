"""The tokenizer classes of transformers: which one a folder specifies, and what it does besides reading the folder's
files.

Source: transformers' AutoTokenizer and its classes (version 5.24).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from pellucid.errors import ModelFileError, shown

__all__ = ["TokenizerClass", "adapt", "added_tokens", "tokenizer_class", "with_map"]


_TOKENS = [f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")]


class TokenizerClass(NamedTuple):
    """``bos``, ``eos``: their spellings if no file has the key. ``bert``: BERT's normaliser is built from
    tokenizer_config.json, whatever tokenizer.json has. ``prefixes``: add_prefix_space is taken from that file, too.
    ``typed``: tokens have types. ``legacy``: for a tokenizer.model: if the key is missing, a space is also put after
    each special token."""

    bos: str | None = None
    eos: str | None = None
    bert: bool = False
    prefixes: bool = False
    typed: bool = False
    legacy: bool = True


_END = "<|endoftext|>"
_GENERAL = TokenizerClass()
_BERT = TokenizerClass(bert=True, typed=True)
_GPT2 = TokenizerClass(_END, _END, prefixes=True)
_QWEN = TokenizerClass(None, _END, prefixes=True)
_LLAMA = TokenizerClass("<s>", "</s>", legacy=False)
_XLM = TokenizerClass("<s>", "</s>")
_ROBERTA = TokenizerClass("<s>", "</s>", prefixes=True)
# Names without "Tokenizer" and "Fast". Any other class is the general one, which uses tokenizer.json as it is.
_CLASSES = {
    "Bert": _BERT, "Electra": _BERT, "LayoutLM": _BERT, "Lxmert": _BERT, "MobileBert": _BERT,
    "SqueezeBert": _BERT, "DistilBert": _BERT._replace(typed=False),
    "Funnel": TokenizerClass("<s>", "</s>", bert=True), "MPNet": TokenizerClass("<s>", "</s>", bert=True),
    "CodeGen": _GPT2, "GPT2": _GPT2, "GPTNeoX": _GPT2, "Qwen2": _QWEN, "Qwen3_5": _QWEN,
    "Cohere": TokenizerClass("<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", prefixes=True),
    "CodeLlama": _LLAMA, "Llama": _LLAMA, "Gemma": TokenizerClass("<bos>", "<eos>"),
    "Bart": _ROBERTA, "Roberta": _ROBERTA, "Camembert": _XLM, "XLMRoberta": _XLM,
}  # fmt: skip
# Models that have a class of their own; it is used if the files name none.
_OWN = {
    "bert": "Bert", "nomic_bert": "Bert", "cohere": "Cohere", "cohere2": "Cohere", "gemma": "Gemma", "gemma2": "Gemma",
    "gemma3": "Gemma", "gemma3_text": "Gemma", "gpt2": "GPT2", "phi": "GPT2", "starcoder2": "GPT2",
    "gpt_neox": "GPTNeoX", "mamba2": "GPTNeoX", "olmoe": "GPTNeoX", "idefics2": "Llama", "internvl": "Qwen2",
    "lighton_ocr": "Qwen2", "qwen2": "Qwen2", "qwen2_5_vl": "Qwen2", "qwen2_audio": "Qwen2", "qwen2_moe": "Qwen2",
    "qwen2_vl": "Qwen2", "qwen3": "Qwen2", "qwen3_moe": "Qwen2", "qwen3_next": "Qwen2", "qwen3_vl": "Qwen2",
    "qwen3_vl_moe": "Qwen2", "qwen3_5": "Qwen3_5", "qwen3_5_moe": "Qwen3_5", "qwen3_5_moe_text": "Qwen3_5",
    "qwen3_5_text": "Qwen3_5", "roberta": "Roberta", "xlm-roberta": "XLMRoberta",
}  # fmt: skip
# Models whose files name the wrong class.
_MISNAMED = {"qwen2", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text"}
# Models whose files are read as they are by the general class, whatever class they name.
_PLAIN = {
    "ernie4_5", "ernie4_5_moe", "glm4", "glm4_moe", "glm4_moe_lite", "glmasr", "got_ocr2", "granite", "granitemoe",
    "granitemoehybrid", "granitemoeshared", "kimi_linear", "llava", "llava_next", "minicpm3", "minicpmv4_6",
    "modernbert", "nemotron", "olmo2", "olmo3", "phi3", "phimoe", "smolvlm", "stablelm", "vipllava",
    "ministral3", "mistral", "mistral3", "mixtral", "voxtral",
}  # fmt: skip


def tokenizer_class(config: Mapping[str, Any], model: Mapping[str, Any], description: str = "") -> TokenizerClass:
    """The class of a folder with this tokenizer_config.json, config.json and tokenizer.json (its text)."""
    kind, named = model.get("model_type"), config.get("tokenizer_class") or model.get("tokenizer_class")
    kind = kind if isinstance(kind, str) else ""
    if kind in _PLAIN:
        return _GENERAL
    own = _OWN.get(kind)
    if not isinstance(named, str) or (own and kind in _MISNAMED):
        return _CLASSES.get(own or "", _GENERAL)
    name = named.removesuffix("Fast")
    if name == "LlamaTokenizer" and '"ByteLevel"' in description:
        return _GENERAL
    return _CLASSES.get(name.removesuffix("Tokenizer"), _GENERAL) if name.endswith("Tokenizer") else _GENERAL


def adapt(
    own: TokenizerClass, folder: str | os.PathLike[str], config: Mapping[str, Any], table: dict[str, Any]
) -> bool:
    """Changes a tokenizer.json's table (of any content) as the class does -> whether anything changed. ``config``: the
    folder's tokenizer_config.json; if it is empty, the table stays as it is.

    Raises ``ModelFileError`` for a value in it that is not true or false.
    """
    if own.bert and config and _is_wordpiece(table.get("model")):
        accents = "strip_accents"
        step = {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": _flag(folder, config, "tokenize_chinese_chars", True),
            accents: None if config.get(accents) is None else _flag(folder, config, accents, False),
            "lowercase": _flag(folder, config, "do_lower_case", True),
        }
        changed = table.get("normalizer") != step
        table["normalizer"] = step
        return changed
    return bool(own.prefixes and config) and _prefix(folder, config, table.get("pre_tokenizer"))


def _prefix(folder: str | os.PathLike[str], config: Mapping[str, Any], step: object) -> bool:
    """Whether a space is put before the text, in the steps that map bytes to characters."""
    if not isinstance(step, dict):
        return False
    inside = step.get("pretokenizers")
    if step.get("type") == "Sequence" and isinstance(inside, list):
        return any([_prefix(folder, config, one) for one in inside])
    key = "add_prefix_space"
    value = config.get(key) is not None and _flag(folder, config, key, False)
    if step.get("type") != "ByteLevel" or step.get(key, True) is value:
        return False
    step[key] = value
    return True


def _is_wordpiece(model: object) -> bool:
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict) or "merges" in model:
        return False
    return bool(model.get("type", "WordPiece") == "WordPiece")


def _flag(folder: str | os.PathLike[str], config: Mapping[str, Any], key: str, default: bool) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        file = os.path.join(folder, "tokenizer_config.json")
        raise ModelFileError(f"it is {shown(value)}", file=file, field=key, expected="true or false")
    return value


def with_map(config: dict[str, Any], map: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json with the contents of special_tokens_map.json, which apply if the former lists no added
    tokens."""
    return config if "added_tokens_decoder" in config else {**config, **map}


def added_tokens(config: Mapping[str, Any], listed: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """id -> token, ascending, from added_tokens_decoder of tokenizer_config.json or, if there is no such key, from
    ``listed`` (added_tokens.json: spelling -> id)."""
    given = config.get("added_tokens_decoder")
    if "added_tokens_decoder" not in config:
        values = [config.get(name) for name in _TOKENS]
        more = config.get("extra_special_tokens") or config.get("additional_special_tokens")
        values += more if isinstance(more, list) else []
        special = [value.get("content") if isinstance(value, dict) else value for value in values]
        given = {
            str(id): {"content": text, "special": text in special} for text, id in listed.items() if type(id) is int
        }
    found = {
        int(key): token
        for key, token in (given if isinstance(given, dict) else {}).items()
        if key.isdecimal() and len(key) < 10 and isinstance(token, dict)
    }
    return {i: found[i] for i in sorted(found) if isinstance(found[i].get("content"), str) and found[i]["content"]}
