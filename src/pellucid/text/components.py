"""The components of a ``tokenizer.json``: their kinds and fields, and how much they can enlarge a text."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from pellucid.errors import TokenizerError
from pellucid.text.vocabulary import quoted

__all__ = [
    "ADDED",
    "ID",
    "INSIDE",
    "KINDS",
    "MODELS",
    "PADDING",
    "TRUNCATION",
    "Is",
    "Table",
    "check_fields",
    "fail",
    "need",
    "normalizer_growth",
    "prefix_bytes",
]

_LONGEST = 1 << 16  # characters of a replacement, a prefix or the like
_PATTERNS = {"String": 1024, "Regex": _LONGEST}  # characters
_LONGEST_AFFIX = 64  # bytes of a piece's prefix or suffix
_LONGEST_WORD = 1000  # characters that WordPiece may look up
# Unicode 16: most bytes of a character's form / bytes of the character, rounded up.
_NFD, _NFKD, _LOWER = 3, 11, 2

Table = dict[str, Any]


class Is(NamedTuple):
    """What a field may hold: ``test`` and how it is named in an error."""

    test: Callable[[Any], bool]
    expected: str

    def or_none(self) -> Is:
        return Is(lambda value: value is None or self.test(value), self.expected + " or null")


def _one_of(*names: str) -> Is:
    return Is(lambda value: value in names, "one of " + ", ".join(names))


def _whole(least: int, most: int) -> Is:
    return Is(lambda value: type(value) is int and least <= value <= most, f"an integer of {least} to {most}")


def _text(most: int = _LONGEST, least: int = 0) -> Is:
    return Is(
        lambda value: isinstance(value, str) and least <= len(value.encode("utf-8", "replace")) <= most,
        f"text of {least} to {most} bytes",
    )


FLAG = Is(lambda value: isinstance(value, bool), "true or false")
TEXT, CHARACTER = _text(), Is(lambda value: isinstance(value, str) and len(value) == 1, "one character")
ID = _whole(0, (1 << 31) - 1)
ANY = Is(lambda value: True, "")
BEHAVIOR = _one_of("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
LIST = Is(lambda value: isinstance(value, list), "a list")
TABLE = Is(lambda value: isinstance(value, dict), "a table")
PATTERN = Is(  # searching a text takes time proportional to its length
    lambda value: (
        isinstance(value, dict)
        and len(value) == 1
        and any(isinstance(value.get(n), str) and 0 < len(value[n]) <= most for n, most in _PATTERNS.items())
    ),
    'a table with "String" or "Regex" and text that is neither empty nor too long',
)
NAMED = Is(
    lambda value: isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and ID.test(value[1]),
    "a list of a spelling and its id",
)
_BYTE_LEVEL = {"add_prefix_space": FLAG, "trim_offsets": FLAG, "use_regex": FLAG}
_METASPACE = {
    "replacement": CHARACTER,
    "prepend_scheme": _one_of("always", "never", "first"),
    "split": FLAG,
    "add_prefix_space": FLAG,
    "str_rep": CHARACTER,
}
_REPLACE = {"pattern": PATTERN, "content": TEXT}
_PAIR = {"sep": NAMED, "cls": NAMED}

# Section -> kind -> fields. For steps that contain others, the field that holds them.
KINDS: dict[str, dict[str, dict[str, Is]]] = {
    "normalizer": {
        "BertNormalizer": {
            "clean_text": FLAG, "handle_chinese_chars": FLAG, "strip_accents": FLAG.or_none(), "lowercase": FLAG,
        },
        "ByteLevel": {},
        "Lowercase": {},
        "NFC": {},
        "NFD": {},
        "NFKC": {},
        "NFKD": {},
        "Nmt": {},
        "Precompiled": {"precompiled_charsmap": Is(lambda value: isinstance(value, str), "base64")},
        "Prepend": {"prepend": TEXT},
        "Replace": _REPLACE,
        "Sequence": {"normalizers": LIST},
        "Strip": {"strip_left": FLAG, "strip_right": FLAG},
        "StripAccents": {},
    },
    "pre_tokenizer": {
        "BertPreTokenizer": {},
        "ByteLevel": _BYTE_LEVEL,
        "CharDelimiterSplit": {"delimiter": CHARACTER},
        "Digits": {"individual_digits": FLAG},
        "FixedLength": {"length": _whole(1, (1 << 31) - 1)},
        "Metaspace": _METASPACE,
        "Punctuation": {"behavior": BEHAVIOR},
        "Sequence": {"pretokenizers": LIST},
        "Split": {"pattern": PATTERN, "behavior": BEHAVIOR, "invert": FLAG},
        "UnicodeScripts": {},
        "Whitespace": {},
        "WhitespaceSplit": {},
    },
    "post_processor": {
        "BertProcessing": _PAIR,
        "ByteLevel": _BYTE_LEVEL,
        "RobertaProcessing": {**_PAIR, "trim_offsets": FLAG, "add_prefix_space": FLAG},
        "Sequence": {"processors": LIST},
        "TemplateProcessing": {"single": LIST, "pair": LIST, "special_tokens": TABLE},
    },
    "decoder": {
        "BPEDecoder": {"suffix": TEXT},
        "ByteFallback": {},
        "ByteLevel": _BYTE_LEVEL,
        "CTC": {"pad_token": TEXT, "word_delimiter_token": TEXT, "cleanup": FLAG},
        "Fuse": {},
        "Metaspace": _METASPACE,
        "Replace": _REPLACE,
        "Sequence": {"decoders": LIST},
        "Strip": {"content": CHARACTER, "start": _whole(0, _LONGEST), "stop": _whole(0, _LONGEST)},
        "WordPiece": {"prefix": TEXT, "cleanup": FLAG},
    },
}  # fmt: skip
INSIDE = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
    "decoder": "decoders",
}

_AFFIX = _text(_LONGEST_AFFIX).or_none()
MODELS: dict[str, dict[str, Is]] = {
    "BPE": {
        "vocab": TABLE,
        "merges": LIST,
        "dropout": Is(lambda value: value is None or value == 0, "null: Pellucid encodes a text in only one way"),
        "unk_token": TEXT.or_none(),
        "continuing_subword_prefix": _AFFIX,
        "end_of_word_suffix": _AFFIX,
        "fuse_unk": FLAG,
        "byte_fallback": FLAG,
        "ignore_merges": FLAG,
    },
    "Unigram": {"vocab": LIST, "unk_id": ID.or_none(), "byte_fallback": FLAG},
    "WordLevel": {"vocab": TABLE, "unk_token": TEXT},
    "WordPiece": {
        "vocab": TABLE,
        "unk_token": TEXT,
        "continuing_subword_prefix": _text(_LONGEST_AFFIX),
        "max_input_chars_per_word": _whole(0, _LONGEST_WORD),
    },
}
ADDED = {
    "id": ID, "content": TEXT, "single_word": FLAG, "lstrip": FLAG, "rstrip": FLAG, "normalized": FLAG, "special": FLAG,
}  # fmt: skip
TRUNCATION = {"direction": _one_of("Left", "Right"), "max_length": ID, "strategy": ANY, "stride": ID}
PADDING = {
    "strategy": ANY, "direction": _one_of("Left", "Right"), "pad_to_multiple_of": ID.or_none(), "pad_id": ID,
    "pad_type_id": ID, "pad_token": TEXT,
}  # fmt: skip


def fail(place: str, message: str) -> TokenizerError:
    return TokenizerError(f"{place}: {message}")


def check_fields(table: Table, fields: Mapping[str, Is], place: str) -> None:
    for name, value in table.items():
        if name == "type":
            continue
        if name not in fields:
            raise fail(f"{place}.{quoted(name)[1:-1]}", "unknown field")
        if not fields[name].test(value):
            raise fail(f"{place}.{name}", f"it is {quoted(value)}; expected {fields[name].expected}")


def need(table: Table, names: str, place: str) -> None:
    for name in names.split():
        if name not in table:
            raise fail(f"{place}.{name}", "missing")


def normalizer_growth(kind: str, step: Table, shortest: int) -> float:
    """The number of bytes that one byte may become."""
    if kind == "Replace":
        size = len(step["content"].encode("utf-8", "replace"))
        return max(1.0, size / shortest)
    if kind == "Prepend":  # before each stretch of text between added tokens: every other character, at worst
        return 1 + len(step.get("prepend", "").encode("utf-8", "replace")) / 2
    if kind == "Precompiled":
        return _precompiled_growth(step.get("precompiled_charsmap", ""))
    if kind == "BertNormalizer":
        return 2 * _NFD * _LOWER
    growths = {"NFC": _NFD, "NFD": _NFD, "NFKC": _NFKD, "NFKD": _NFKD, "Lowercase": _LOWER, "ByteLevel": 2}
    return growths.get(kind, 1)


def prefix_bytes(kind: str, step: Table) -> int:
    """The number of bytes that are put before a word."""
    if kind == "ByteLevel":
        return int(step.get("add_prefix_space", True))
    if step.get("prepend_scheme", "always") == "never" or step.get("add_prefix_space") is False:
        return 0
    return len(str(step.get("replacement", "\u2581")).encode("utf-8", "replace"))


def _precompiled_growth(charsmap: str) -> float:
    try:
        return charsmap_growth(base64.b64decode(charsmap, validate=True))
    except (binascii.Error, ValueError):
        raise TokenizerError("precompiled_charsmap is not base64") from None


def charsmap_growth(raw: bytes) -> float:
    """The number of bytes that one byte may become, by a table of characters: a double-array trie of 32-bit units, then
    replacements with a NUL after each.

    Raises ``TokenizerError`` unless every walk through the trie stays inside it and ends at a replacement.
    """
    size = int.from_bytes(raw[:4], "little")
    texts = raw[4 + size :]
    if size % 1024 or not 1024 <= size <= len(raw) - 4:  # blocks of 256 units
        raise TokenizerError(f"precompiled_charsmap: its trie of {size} bytes is not made of whole blocks inside it")
    try:
        texts.decode()
    except UnicodeDecodeError:
        raise TokenizerError("precompiled_charsmap: its replacements are not UTF-8") from None
    units = np.frombuffer(raw, "<u4", size // 4, 4)
    walked = units < 1 << 31  # the others are values
    walked[0] = True  # whatever the root is, every walk begins at it
    nodes = np.flatnonzero(walked)
    unit = units[nodes]
    after = nodes ^ ((unit >> 10) << ((unit & 0x200) >> 6)).astype(np.int64)
    if (after >= len(units)).any():
        raise TokenizerError("precompiled_charsmap: its trie points beyond its end")
    values = units[after[unit & 0x100 > 0]] & 0x7FFFFFFF
    starts = np.frombuffer(texts + b"\0", np.uint8) & 0xC0 != 0x80
    if (values > len(texts)).any() or not starts[values].all():
        raise TokenizerError("precompiled_charsmap: its trie leads to no replacement")
    return float(max(1, *map(len, texts.split(b"\0"))))
