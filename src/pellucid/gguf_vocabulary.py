"""A tokenizer in GGUF's metadata, as a vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pellucid.chat_files import ForChats
from pellucid.errors import TokenizerError
from pellucid.text import Vocabulary
from pellucid.text.vocabulary import BYTE, CONTROL, UNKNOWN, UNUSED, quoted

__all__ = ["for_chats", "vocabulary_of"]

_MODELS = {"gpt2": "bpe", "llama": "spm", "gemma4": "spm", "bert": "wordpiece", "t5": "unigram"}
_GEMMA4 = ("gemma4", "granite-embed-multi-311m")  # BOS comes first, even if early files of Gemma 4 deny it
_MERGED_SPM = (*_GEMMA4, "mmbert", "sarvam-moe")  # SentencePiece's pre-tokenizers: "gpt2" is then "gemma4"
_DEFAULTS = {"llama": {"unk": 0, "bos": 1, "eos": 2}, "t5": {"eos": 1, "unk": 2, "pad": 0}}  # as llama.cpp has them
_NONE = 2**32 - 1  # written by some converters instead of a missing id
_FIM_ENDS = ("fim_pad", "fim_rep", "fim_sep")  # padding, another repository, another file
_IDS = {"bos": "bos", "eos": "eos", "eot": "eot", "eom": "eom", "unk": "unknown", "pad": "padding"}
_NAMES = {
    **{name: f"tokenizer.ggml.{key}_token_id" for name, key in _IDS.items()},
    **{name: f"tokenizer.ggml.{name}" for name in ("model", "pre", "scores", "merges", "add_space_prefix")},
    "pieces": "tokenizer.ggml.tokens",
    "types": "tokenizer.ggml.token_type",
    "add_bos": "tokenizer.ggml.add_bos_token",
    "add_eos": "tokenizer.ggml.add_eos_token",
    "cls": "tokenizer.ggml.cls_token_id",
    "sep": "tokenizer.ggml.seperator_token_id",
    "mask": "tokenizer.ggml.mask_token_id",
    "charsmap": "tokenizer.ggml.precompiled_charsmap",
    "squeezes": "tokenizer.ggml.remove_extra_whitespaces",
    "lowercase": "tokenizer.ggml.normalizer.lowercase",
    "strip_accents": "tokenizer.ggml.normalizer.strip_accents",
    **{name: f"tokenizer.ggml.{name}_token_id" for name in _FIM_ENDS},
    "chat_template": "tokenizer.chat_template",
    "tool_template": "tokenizer.chat_template.tool_use",
    "prefixes_once": "pellucid.add_space_prefix_once",  # false in other files
    "eog": "pellucid.eog_token_ids",  # those that no other key names
}


def vocabulary_of(metadata: Mapping[str, Any], source: str) -> Vocabulary | None:
    """The vocabulary that GGUF metadata describes; None if there is none. ``source``: the file, for errors."""
    read = _Reader(metadata, source)
    model = read.text("model")
    if (model is None and _NAMES["pieces"] not in metadata) or model in ("none", "no_vocab"):
        return None
    if model not in _MODELS:
        known = ", ".join(f'"{name}"' for name in _MODELS)
        shown = "missing" if model is None else f"unknown kind of vocabulary {quoted(model)}"
        raise read.error("model", f"{shown}; known: {known}")
    pre = read.text("pre")
    if model == "gpt2" and pre in _MERGED_SPM:
        model = "gemma4"
    elif model == "gemma4":
        pre = "gemma4"
    spm = _MODELS[model] in ("spm", "unigram")
    pieces = read.strings("pieces", as_bytes=spm)
    if pieces is None:
        raise read.error("pieces", "missing; expected an array of strings")
    ids: dict[str, Any] = {name: read.token(name) for name in _IDS}
    if ids["pad"] is not None and ids["pad"] >= len(pieces):  # models tuned with one more token may lack it
        ids["pad"] = None
    for name, default in _DEFAULTS.get(model, {}).items():
        if ids[name] is None and default < len(pieces):
            ids[name] = default
    add_eos = read.flag("add_eos")
    if model == "t5" and add_eos is None:
        add_eos = ids["eos"] is not None
    if model == "bert":
        for name, key, spelling in (("bos", "cls", "[CLS]"), ("eos", "sep", "[SEP]"), ("unk", "unk", "[UNK]")):
            given = read.token(key) if ids[name] is None else ids[name]
            ids[name] = pieces.index(spelling) if given is None and spelling in pieces else given
        add_eos = ids["eos"] is not None if add_eos is None else add_eos
    add_bos = read.flag("add_bos")
    if model == "gemma4" and pre in _GEMMA4:
        add_bos = add_bos or ids["bos"] is not None
    if add_bos is None:
        from pellucid.text.words import adds_bos

        add_bos = (model in ("llama", "bert") or adds_bos(pre)) and ids["bos"] is not None
    add_space = read.flag("add_space_prefix")
    merges = None if model in ("llama", "bert", "t5") else read.strings("merges", as_bytes=False)
    if model == "gemma4" and merges is None:
        raise read.error("merges", "missing; this kind of vocabulary needs its merges")
    types = read.numbers("types", np.int32)
    if empty := [i for i, piece in enumerate(pieces) if not piece]:  # no text is encoded as these
        types = np.ones(len(pieces), np.int32) if types is None else types.copy()
        for i in empty:
            pieces[i] = f"[EMPTY_{i}]".encode() if spm else f"[EMPTY_{i}]"
        types[[i for i in empty if i < len(types) and types[i] not in (BYTE, UNKNOWN)]] = UNUSED
    strips: frozenset[int] = frozenset()
    if spm and metadata.get("general.architecture") in ("phi3", "phimoe"):
        strips = _stripping(pieces, types)
    return Vocabulary(
        model=_MODELS[model],
        pieces=pieces,
        pre=pre,
        scores=read.numbers("scores", np.float32),
        types=types,
        merges=merges,
        add_bos=add_bos,
        add_eos=add_eos or False,
        add_space_prefix=model in ("llama", "t5") if add_space is None else add_space,
        prefixes_once=read.flag("prefixes_once") or False,
        charsmap=read.table("charsmap") if model == "t5" else b"",
        squeezes=bool(read.flag("squeezes")) if model == "t5" else False,
        lowercase=read.flag("lowercase"),
        strip_accents=read.flag("strip_accents"),
        eog=(*_known(map(read.token, _FIM_ENDS), len(pieces)), *read.ids("eog")),
        chat_template=read.text("chat_template"),
        source=source,
        names=_NAMES,
        strips=strips,
        **ids,
    )


def for_chats(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> ForChats:
    """What GGUF metadata gives for chats besides its `vocabulary`. Raises ``TokenizerError``."""
    read = _Reader(metadata, vocabulary.source)
    ids = {f"{name}_token": read.token(name) for name in ("sep", "cls", "mask")}
    names = {name: vocabulary.spelling(i) for name, i in ids.items() if i is not None and 0 <= i < len(vocabulary)}
    return ForChats(names, read.text("tool_template"))


def _known(ids: Iterable[int | None], n: int) -> list[int]:
    return [id for id in ids if id is not None and id < n]


def _stripping(pieces: Iterable[bytes], types: Any) -> frozenset[int]:
    """Phi-3's control tokens that remove the white space after them, by its tokenizer.json; GGUF has no such field."""
    plain = (b"<s>", b"<unk>", b"<|endoftext|>")
    kinds = [] if types is None else types.tolist()
    pairs = enumerate(zip(pieces, kinds, strict=False))
    return frozenset(i for i, (piece, kind) in pairs if piece == b"</s>" or (kind == CONTROL and piece not in plain))


class _Reader:
    """Metadata values by the vocabulary's field names. A value of a wrong type raises ``TokenizerError``."""

    def __init__(self, metadata: Mapping[str, Any], source: str) -> None:
        self.metadata, self.source = metadata, source

    def error(self, name: str, message: str) -> TokenizerError:
        return TokenizerError(f"{self.source}: {_NAMES[name]}: {message}")

    def _get(self, name: str, kind: type, expected: str) -> Any:
        value = self.metadata.get(_NAMES[name])
        if value is not None and type(value) is not kind:
            raise self.error(name, f"it is {quoted(value)}; expected {expected}")
        return value

    def text(self, name: str) -> str | None:
        value: str | None = self._get(name, str, "text")
        return value

    def token(self, name: str) -> int | None:
        value: int | None = self._get(name, int, "a token id")
        return None if value == _NONE else value

    def ids(self, name: str) -> list[int]:
        found = self.numbers(name, np.int32)
        return [] if found is None else [int(id) for id in found]

    def flag(self, name: str) -> bool | None:
        value: bool | None = self._get(name, bool, "a boolean")
        return value

    def strings(self, name: str, as_bytes: bool) -> Any:
        value = self.metadata.get(_NAMES[name])
        if value is None:
            return None
        if not hasattr(value, "to_str_list"):
            raise self.error(name, f"it is {quoted(value)}; expected an array of strings")
        return value.to_bytes_list() if as_bytes else value.to_str_list()

    def table(self, name: str) -> bytes:
        value = self.metadata.get(_NAMES[name])
        if value is None:
            return b""
        if not isinstance(value, np.ndarray) or value.dtype not in (np.int8, np.uint8):
            raise self.error(name, f"it is {quoted(value)}; expected an array of bytes")
        return value.tobytes()

    def numbers(self, name: str, kind: type) -> Any:
        value = self.metadata.get(_NAMES[name])
        if value is None:
            return None
        if not isinstance(value, np.ndarray) or value.dtype.kind not in ("iu" if kind is np.int32 else "iuf"):
            raise self.error(name, f"it is {quoted(value)}; expected an array of numbers")
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which the vocabulary refuses
            made: Any = np.ascontiguousarray(value, kind)
        if kind is np.int32 and (made != value).any():
            bad = int(np.flatnonzero(made != value)[0])
            raise self.error(name, f"{value[bad]} of piece {bad} is not a 32-bit integer")
        return made
