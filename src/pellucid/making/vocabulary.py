"""A folder's tokenizer as GGUF's metadata.

GGUF names how text is cut into words instead of describing it. The name is found by trying: a vocabulary with the same
pieces and merges, under the right name, gives the same ids as the folder's own tokenizer on a text that exercises all
rules.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from pellucid.errors import TokenizerError, UnsupportedModelError
from pellucid.text.description import guessed_model
from pellucid.text.special import end_ids
from pellucid.text.vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, Vocabulary
from pellucid.text.words import WORDS
from pellucid.tokenizer import (
    Tokenizer,
    folder_description,
    folder_ends,
    folder_tokenizer,
    sentencepiece_vocabulary,
)
from pellucid.weights.writer import Value

__all__ = ["tokenizer_metadata"]

_PREFIX = "tokenizer.ggml."
# Differences between the ways of cutting words: contractions, runs of digits, of spaces and of marks, capitals, lines,
# scripts, words with marks before and after them.
_PROBE = (
    "Hello, I'm sure they'VE said it's 12345678 o'clock; don't   we?\n\n\n\tdef f(x):\n        return x[1]**2 != 3.14"
    "  # ok\r\n camelCase HTTPServer snake_case/path, über Straße naïve ça — “quoted” … 東京は2024年です。안녕하세요 "
    "Привет мир مرحبا ١٢٣ हिन्दी १२ ไทย \U0001f600\U0001f468\u200d\U0001f469 $9.99 a.b@c.de <|x|> 100,000 ½ ²  \n "
    "x\u00a0y 'LL 's\n  end   "
)
_TEXTS = (_PROBE, " leading", "trailing ", "", "a", "\n", "  ", "1 22 333 4444 55555 666666 7777777")


def tokenizer_metadata(folder: str, rows: int) -> dict[str, Value]:
    """The metadata of a folder's tokenizer, or of no tokenizer if the folder has none. rows: of the embedding; the
    vocabulary is padded with unused pieces up to it.

    Raises TokenizerError for a broken tokenizer, UnsupportedModelError for one that no GGUF vocabulary reproduces.
    """
    there = [name for name in ("tokenizer.json", "tokenizer.model") if os.path.exists(os.path.join(folder, name))]
    if not there:
        return {_PREFIX + "model": Value("string", "none")}
    own = folder_tokenizer(folder, rows)
    candidates: list[Iterator[Vocabulary]] = []
    if "tokenizer.model" in there:
        candidates.append(_from_sentencepiece(folder, rows, only=len(there) == 1))
    if "tokenizer.json" in there:
        candidates.append(_from_json(folder_description(folder), own))
    for vocabulary in chain.from_iterable(candidates):
        if _agrees(vocabulary, own):
            return _metadata(vocabulary, own, folder, rows)
    raise UnsupportedModelError(
        feature=f"the tokenizer of {folder}, which cuts words in a way that no GGUF vocabulary has,",
        supported="byte-level BPE with a published way of cutting words, SentencePiece, WordPiece",
    )


def _agrees(vocabulary: Vocabulary, own: Tokenizer) -> bool:
    try:
        made = Tokenizer.from_vocabulary(vocabulary)
    except TokenizerError:
        return False
    return all(made.encode(text, add_special=False) == own.encode(text, add_special=False) for text in _TEXTS)


def _from_sentencepiece(folder: str, rows: int, only: bool) -> Iterator[Vocabulary]:
    """only: the folder has no other vocabulary; otherwise a tokenizer.model that is not SentencePiece's is not an
    error."""
    try:
        found = sentencepiece_vocabulary(folder, rows)
    except TokenizerError:
        if only:
            raise
        return
    yield found
    if found.add_space_prefix:  # a tokenizer.json beside it may disagree
        yield replace(found, prefixes_once=not found.prefixes_once)


def _from_json(table: dict[str, Any], own: Tokenizer) -> Iterator[Vocabulary]:
    """Candidate vocabularies for a tokenizer.json, the most likely first."""
    model = table["model"]
    kind = model.get("type") or guessed_model(model)
    if kind not in ("BPE", "WordPiece", "Unigram"):
        raise UnsupportedModelError(feature=f"{kind} tokenizers", supported="BPE, WordPiece, Unigram")
    listed = model["vocab"]
    numbers = {piece: i for i, (piece, _) in enumerate(listed)} if kind == "Unigram" else listed
    pieces = [f"[PAD{i}]" for i in range(own.vocab_size)]  # added tokens beyond the embedding are not in it
    types = np.full(len(pieces), UNUSED, np.int32)
    for piece, i in numbers.items():
        if i < len(pieces):
            pieces[i], types[i] = piece, NORMAL
    for token in table.get("added_tokens") or []:
        if token["id"] < len(pieces):
            pieces[token["id"]] = token["content"]
            types[token["id"]] = CONTROL if token.get("special") else USER_DEFINED
    before, after = _around(own)
    bos, eos = before[0] if before else own.bos, after[0] if after else own.eos
    special: dict[str, Any] = {"bos": bos, "eos": eos, "add_bos": bool(before), "add_eos": bool(after)}
    if kind == "WordPiece":
        yield _wordpiece(table, pieces, types, special)
    elif kind == "Unigram":
        yield from _unigram(table, pieces, types, special)
    elif model.get("byte_fallback"):
        yield from _merged(model, pieces, types, _merges(model), special)
    else:
        cut, whole = {*_strings(table.get("pre_tokenizer"))}, bool(model.get("ignore_merges"))
        names: dict[Any, str] = {}
        for name, words in WORDS.items():
            names.setdefault(words, name)
        for words in sorted(names, key=lambda words: (-len(cut & {*words.steps}), words.whole != whole)):
            yield Vocabulary(
                model="bpe", pre=names[words], pieces=pieces, types=types, merges=_merges(model), **special
            )  # fmt: skip


def _merges(model: dict[str, Any]) -> list[str]:
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges") or []]


def _around(own: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that are put before and after a text. Raises UnsupportedModelError if there are several."""
    plain, full = (own.encode("a", add_special=flag) for flag in (False, True))
    more = len(full) - len(plain)
    start = next((i for i in range(more + 1) if full[i : i + len(plain)] == plain), 0)
    before, after = full[:start], full[start + len(plain) :]
    if len(before) > 1 or len(after) > 1:
        feature = f"a tokenizer that puts {len(before)} tokens before a text and {len(after)} after it"
        raise UnsupportedModelError(feature=feature, supported="at most one")
    return before, after


def _wordpiece(table: dict[str, Any], pieces: list[str], types: Any, special: dict[str, Any]) -> Vocabulary:
    """In GGUF's form: pieces that begin a word start with U+2581, others have no mark."""
    model, normalizer = table["model"], table.get("normalizer") or {}
    unknown, inside = model.get("unk_token", "[UNK]"), model.get("continuing_subword_prefix", "##")
    index = {piece: i for i, piece in enumerate(pieces)}
    spelled = [
        piece if type != NORMAL else piece.removeprefix(inside) if piece.startswith(inside) else f"\u2581{piece}"
        for piece, type in zip(pieces, types.tolist(), strict=True)
    ]
    return Vocabulary(
        model="wordpiece", pieces=spelled, types=types, unk=index.get(unknown), lowercase=normalizer.get("lowercase"),
        strip_accents=normalizer.get("strip_accents"), **special,
    )  # fmt: skip


def _unigram(table: dict[str, Any], pieces: list[str], types: Any, special: dict[str, Any]) -> Iterator[Vocabulary]:
    model = table["model"]
    scores = np.zeros(len(pieces), np.float32)
    for i, (_, score) in enumerate(model["vocab"]):
        scores[i] = score
    unknown = model.get("unk_id")
    if unknown is not None:
        types[unknown] = UNKNOWN
    if model.get("byte_fallback"):
        _mark_bytes(pieces, types)
    charsmap = next((base64.b64decode(text) for text in _values(table.get("normalizer"), "precompiled_charsmap")), b"")
    raw = [piece.encode() for piece in pieces]
    for squeezes in (True, False):
        for prefix in (True, False):
            yield Vocabulary(
                model="unigram", pieces=raw, scores=scores, types=types, unk=unknown, charsmap=charsmap,
                squeezes=squeezes, add_space_prefix=prefix, **special,
            )  # fmt: skip


def _values(node: Any, key: str) -> Iterator[str]:
    """The texts under this key, anywhere in a table."""
    if isinstance(node, dict):
        if isinstance(node.get(key), str):
            yield node[key]
        node = list(node.values())
    for child in node if isinstance(node, list) else ():
        yield from _values(child, key)


def _mark_bytes(pieces: list[str], types: Any) -> None:
    for i, piece in enumerate(pieces):
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">") and types[i] == NORMAL:
            types[i] = BYTE


def _strings(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, (dict, list)):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _strings(child)


def _merged(
    model: dict[str, Any], pieces: list[str], types: Any, merges: list[str], special: dict[str, Any]
) -> Iterator[Vocabulary]:
    """A SentencePiece vocabulary made from a BPE one with bytes: the earlier a piece is merged, the higher its
    score."""
    scores = np.zeros(len(pieces), np.float32)
    index = {piece: i for i, piece in enumerate(pieces)}
    for rank, merge in reversed([*enumerate(merges)]):
        i = index.get(merge.replace(" ", "", 1))
        if i is not None:
            scores[i] = -rank
    _mark_bytes(pieces, types)
    unknown = index.get(model.get("unk_token") or "")
    if unknown is not None:
        types[unknown] = UNKNOWN
    raw = [piece.encode() for piece in pieces]
    for prefix in (True, False):
        yield Vocabulary(
            model="spm", pieces=raw, scores=scores, types=types, unk=unknown, add_space_prefix=prefix, **special
        )  # fmt: skip


# Names of kinds of vocabularies in GGUF.
_MODELS = {"bpe": "gpt2", "spm": "llama", "wordpiece": "bert", "unigram": "t5"}
# Their names in tokenizer_config.json, and the usual spellings of those that it may leave out.
_NAMED = {"padding": "pad_token", "mask": "mask_token", "cls": "cls_token", "seperator": "sep_token"}
_SPELLINGS = {"padding": (b"[PAD]", b"<pad>"), "mask": (b"[MASK]", b"<mask>")}


def _metadata(v: Vocabulary, own: Tokenizer, folder: str, rows: int) -> dict[str, Value]:
    pieces = [piece if isinstance(piece, bytes) else piece.encode() for piece in v.pieces]
    if len(pieces) > rows:
        raise TokenizerError(f"the tokenizer has {len(pieces)} tokens, the model's embedding {rows}")
    padding = range(len(pieces), rows)
    pieces += [f"[PAD{i}]".encode() for i in padding]
    types = [*(v.types.tolist() if v.types is not None else [NORMAL] * len(v.pieces)), *(UNUSED for _ in padding)]
    found = {
        "model": Value("string", _MODELS[v.model]),
        "pre": Value("string", v.pre or "default"),
        "tokens": Value("array of string", pieces),
        "token_type": Value("array of int32", types),
    }
    if v.scores is not None:
        found["scores"] = Value("array of float32", [*v.scores.tolist(), *(0.0 for _ in padding)])
    if v.merges is not None:
        found["merges"] = Value("array of string", list(v.merges))
    before, after = _around(own)
    bos, eos = before[0] if before else own.bos, after[0] if after else own.eos
    given = (own.eos, *folder_ends(folder)(own.vocab_size))
    ends = [i for i in given if i is not None and i != eos and i < len(v.pieces)]
    eot, eom = ends[0] if ends else None, ends[1] if len(ends) > 1 else None
    ids = {"bos": bos, "eos": eos, "eot": eot, "eom": eom, "unknown": v.unk, "padding": v.pad}
    if bos is not None and eos is not None and bos != own.bos:  # BERT and related models have [CLS] and [SEP] instead
        ids |= {"cls": bos, "seperator": eos}
        found["add_sep_token"] = Value("bool", True)
    special = {p: i for i, p in enumerate(pieces) if types[i] in (CONTROL, UNKNOWN, USER_DEFINED)}
    known = {piece: i for piece, i in special.items() if types[i] == CONTROL}
    for key, name in _NAMED.items():
        if ids.get(key) is None:
            ids[key] = special.get((own.for_chats.names.get(name) or "").encode("utf-8", "surrogatepass"))
    for name, spellings in _SPELLINGS.items():
        if ids.get(name) is None:
            ids[name] = next((known[one] for one in spellings if one in known), None)
    for name, i in ids.items():
        if i is not None:
            found[f"{name}_token_id"] = Value("uint32", i)
    found["add_bos_token"] = Value("bool", bool(before))
    found["add_eos_token"] = Value("bool", bool(after))
    for name, flag in (("lowercase", v.lowercase), ("strip_accents", v.strip_accents)):
        if flag is not None:
            found[f"normalizer.{name}"] = Value("bool", flag)
    if v.model in ("spm", "unigram"):
        found["add_space_prefix"] = Value("bool", v.add_space_prefix)
    if v.model == "unigram":
        found["remove_extra_whitespaces"] = Value("bool", v.squeezes)
        if v.charsmap:
            found["precompiled_charsmap"] = Value("array of uint8", [*v.charsmap])
    made = {_PREFIX + key: value for key, value in found.items()}
    if more := sorted(own.eog - end_ids(replace(v, eos=eos, eot=eot, eom=eom, eog=()))):
        made["pellucid.eog_token_ids"] = Value("array of int32", more)
    if v.prefixes_once:
        made["pellucid.add_space_prefix_once"] = Value("bool", True)
    if own.chat_template is not None:
        made["tokenizer.chat_template"] = Value("string", own.chat_template)
    if own.for_chats.tool_template is not None:
        made["tokenizer.chat_templates"] = Value("array of string", ["tool_use"])
        made["tokenizer.chat_template.tool_use"] = Value("string", own.for_chats.tool_template)
    return made
