"""WordPiece (BERT, 2018), over the ``tokenizers`` package.

Text is cleaned, cut at spaces and punctuation, and each word is cut into the longest pieces from left to right. Pieces
that begin a word start with U+2581, as GGUF files have them; the others continue one. If the vocabulary specifies it,
or no piece has a capital letter, text becomes lower case without accents, and ``decode`` does not restore it.
"""

from __future__ import annotations

from typing import Any

from pellucid.text.base import VocabularyTokenizer, check_room, package_errors, to_utf8
from pellucid.text.vocabulary import NORMAL, Vocabulary, quoted

__all__ = ["WordPieceTokenizer"]

_SPACE, _INSIDE = "\u2581", "##"


class WordPieceTokenizer(VocabularyTokenizer):
    """WordPiece. Raises ``TokenizerError`` naming the field for a vocabulary without an unknown token, and for pieces
    that are given twice."""

    joins_with_one = True

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        self._drops_prefix_space = True
        if vocabulary.unk is None:
            raise vocabulary.error("unk", "missing; WordPiece needs an unknown token")
        unknown, cased = vocabulary.spelling(vocabulary.unk), False
        pieces: dict[str, int] = {}
        kinds = vocabulary.types
        for i in range(len(vocabulary)):
            text = vocabulary.spelling(i)
            if i == vocabulary.unk or (kinds is not None and kinds[i] != NORMAL):
                continue
            cased = cased or text != text.lower()
            spelled = text[1:] if text.startswith(_SPACE) else _INSIDE + text
            if spelled in pieces:
                raise vocabulary.error("pieces", f"{quoted(text)} is given twice, as {pieces[spelled]} and {i}")
            pieces[spelled] = i
        pieces[unknown] = vocabulary.unk
        lowercase = not cased if vocabulary.lowercase is None else vocabulary.lowercase
        self._model = self._make(pieces, unknown, lowercase, vocabulary.strip_accents)

    @staticmethod
    def _make(pieces: dict[str, int], unknown: str, lowercase: bool, strip_accents: bool | None) -> Any:
        check_room(len(pieces), 400)
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

        with package_errors("rejected by tokenizers"):
            made = Tokenizer(models.WordPiece(vocab=pieces, unk_token=unknown))
            made.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
            made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return made

    def _encode_plain(self, text: str, offset: int) -> list[int]:
        to_utf8(text, offset)
        with package_errors("the text could not be encoded"):
            ids: list[int] = self._model.encode(text, add_special_tokens=False).ids
        return ids

    def _piece_bytes(self, index: int, is_byte: bool) -> bytes:
        return self.vocabulary.spelling(index).replace(_SPACE, " ").encode("utf-8", "replace")
