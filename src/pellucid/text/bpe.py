"""Byte-level byte-pair encoding (GPT-2, 2019), over the ``tokenizers`` package.

Text is cut into words (:mod:`~pellucid.text.words`); each word's bytes, written as 256 printable characters, are then
merged pair by pair. Text is never normalised, although some published tokenizers specify NFC: decoding returns exactly
what was encoded.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import Any

from pellucid.text.base import VocabularyTokenizer, check_encodable, check_room, package_errors, to_utf8
from pellucid.text.special import Finder
from pellucid.text.vocabulary import UNKNOWN, Vocabulary, quoted
from pellucid.text.words import WORDS, ascii_words, make_splitter

__all__ = ["BpeTokenizer", "byte_characters", "characters_to_bytes", "load_merges", "number_pieces"]


def byte_characters() -> dict[int, str]:
    """The printable character that stands for each byte: itself if it is printable, else the next from U+0100."""
    table, spare = {}, 256
    for byte in range(256):
        if 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174:
            table[byte] = chr(byte)
        else:
            table[byte] = chr(spare)
            spare += 1
    return table


_CHARACTER = byte_characters()
_BYTE = {ord(character): byte for byte, character in _CHARACTER.items()}
_LONG_TEXT = 1 << 14  # characters
_KNOWN, _LONG = 1 << 15, 32  # words whose ids are cached: maximum number, and maximum length in characters


def characters_to_bytes(piece: str) -> bytes:
    """Inverse of the byte alphabet; a piece with other characters is plain text."""
    try:
        return piece.translate(_BYTE).encode("latin-1")
    except UnicodeEncodeError:
        return piece.encode("utf-8", "replace")


class BpeTokenizer(VocabularyTokenizer):
    """Byte-level BPE. Raises ``TokenizerError`` for an unknown pre-tokenizer, a duplicate piece, or a merge of pieces
    that do not exist.

    Some vocabularies have no piece for bytes that were rare in training (SmolLM2: 21 of them, e.g. U+0004). Such a
    character is an error with its position, unless the vocabulary has an unknown token; it is never dropped.

    ASCII text is cut and looked up here, about ten times faster than in the package.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        pre = vocabulary.pre or "default"
        if pre not in WORDS:
            known = ", ".join(WORDS)
            raise vocabulary.error("pre", f"unknown pre-tokenizer {quoted(pre)}; known: {known}")
        if vocabulary.merges is None:
            raise vocabulary.error("merges", "missing; a BPE vocabulary needs its merges")
        super().__init__(vocabulary)
        pieces, ids = number_pieces(vocabulary)
        unknown = vocabulary.unk if vocabulary.unk in vocabulary.ids_of(UNKNOWN) else None
        spelling = None if unknown is None else pieces[unknown]
        control = self._control()
        self._model = load_merges(vocabulary, ids, control, unk_token=spelling, ignore_merges=WORDS[pre].whole)
        self._model.pre_tokenizer = make_splitter(WORDS[pre])
        present = bytes(byte for byte, c in _CHARACTER.items() if c in ids and c not in control)
        self._encodable = present if unknown is None and len(present) < 256 else None
        self._user = Finder(self._always) if self._always else None
        self._ascii = ascii_words(WORDS[pre])
        self._known: dict[str, list[int]] = {}

    def _encode_plain(self, text: str, offset: int) -> list[int]:
        raw = to_utf8(text, offset)
        if self._user is None:
            return self._merge(text, raw, offset)
        ids: list[int] = []
        for position, part in self._user.split(text):
            ids += self._merge(part, part.encode(), offset + position) if isinstance(part, str) else (part,)
        return ids

    def _merge(self, text: str, raw: bytes, offset: int) -> list[int]:
        if self._encodable is not None:
            check_encodable(text, raw, offset, self._encodable)
        with package_errors("the text could not be encoded"):
            if self._ascii is not None and len(raw) == len(text):
                if len(text) > _LONG_TEXT:  # step by step, so that other threads run meanwhile
                    return self._merge_words([match[0] for match in self._ascii.finditer(text)])
                return self._merge_words(self._ascii.findall(text))
            if len(text) > _LONG_TEXT:  # only in this call does the package let other threads run
                ids: list[int] = self._model.encode_batch([text], add_special_tokens=False)[0].ids
            else:
                ids = self._model.encode(text, add_special_tokens=False).ids
        return ids

    def _merge_words(self, words: list[str]) -> list[int]:
        """Ids of ASCII words; those of short words are cached."""
        known = self._known
        new = [word for word in set(words) if word not in known]
        if new:
            if max(map(len, new)) > _LONG:
                known = known.copy()
            merge = self._model.model.tokenize
            known.update((word, [token.id for token in merge(word.translate(_CHARACTER))]) for word in new)
            if len(known) > _KNOWN:
                self._known = {}
        return list(chain.from_iterable(map(known.__getitem__, words)))

    def _piece_bytes(self, index: int, is_byte: bool) -> bytes:
        return characters_to_bytes(self.vocabulary.spelling(index))


def number_pieces(vocabulary: Vocabulary) -> tuple[list[str], dict[str, int]]:
    """The pieces as text, and their ids. Raises ``TokenizerError`` for a duplicate piece."""
    pieces = [p if isinstance(p, str) else p.decode("utf-8", "replace") for p in vocabulary.pieces]
    ids = dict(zip(pieces, range(len(pieces)), strict=True))
    if len(ids) != len(pieces):
        second = next(i for i, piece in enumerate(pieces) if ids[piece] != i)
        twice = pieces[second]
        raise vocabulary.error("pieces", f"{quoted(twice)} is given twice, as {second} and {ids[twice]}")
    return pieces, ids


def load_merges(vocabulary: Vocabulary, ids: dict[str, int], control: set[str], **options: Any) -> Any:
    """The package's tokenizer of these merges, without a pre-tokenizer. Raises ``TokenizerError`` naming the merge.
    control: pieces that no text may become, by merges or as a whole word; they are left out."""
    merges: list[Any] = [tuple(merge.split(" ")) for merge in vocabulary.merges or ()]
    ids = ids.copy()
    for piece in control:
        ids.pop(piece, None)
    check_room(len(ids) + len(merges), 512)
    from tokenizers import Tokenizer, models

    try:
        return Tokenizer(models.BPE(ids, merges, **options))
    except Exception as error:  # the package does not say which merge; find it
        kept = [" ".join(merge) for merge in merges if control.isdisjoint((*merge, "".join(merge)))]
        if len(kept) < len(merges):
            return load_merges(replace(vocabulary, merges=kept), ids, set(), **options)
        for number, merge in enumerate(merges):
            if len(merge) != 2 or not all(merge):
                expected = f"{quoted(' '.join(merge))}; expected two pieces with a space between"
                raise vocabulary.error(f"merges[{number}]", expected) from None
            for piece in (*merge, "".join(merge)):
                if piece not in ids:
                    message = f"{quoted(' '.join(merge))} needs the piece {quoted(piece)}, which does not exist"
                    raise vocabulary.error(f"merges[{number}]", message) from None
        raise vocabulary.error("merges", str(error)) from error
