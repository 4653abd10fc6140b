"""SentencePiece vocabularies, over the ``sentencepiece`` package: byte-pair (Llama 2, Gemma) and unigram.

A model file keeps only pieces, scores and types; ``_parsers`` builds from them the model that the package reads.
Pairs are merged in the order of the merged piece's score, over the whole text: there are no words. A unigram
vocabulary's scores are logarithms of probabilities instead, and the most probable segmentation is used. Spaces are
U+2581 in pieces; characters without a piece become their bytes.

Gemma 4's vocabulary is of this kind, but ranks pairs by a list of merges; it is handled by the ``tokenizers`` package.
In mmBERT's (2025), which is Gemma 2's, every space begins a word, and so does text after the end of a line or after a
user-defined token; ``decode`` puts a space there, too.

A U+2581 in the text itself would be decoded as a space. It is encoded as its three bytes instead if the vocabulary has
bytes, so that decoding is exact; other runtimes use the space's piece.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any

import numpy as np

from pellucid.errors import TokenizerError
from pellucid.text.base import VocabularyTokenizer, to_utf8
from pellucid.text.components import charsmap_growth
from pellucid.text.description import MOST_GROWTH
from pellucid.text.special import Finder, looks_like_control
from pellucid.text.vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Vocabulary, quoted

__all__ = ["MergedSpmTokenizer", "SpmTokenizer"]

_SPACE = "\u2581"
_UNIGRAM = b"\x12\x02\x18\x01"  # trainer_spec.model_type = 1, overrides an earlier value
_BYTE_SPELLING = re.compile("<0x([0-9A-Fa-f]{2})>")
_WORDS = f"\n+|{_SPACE}[^{_SPACE}\n]*"  # what a text that begins every line with a space is cut into
_LINE = re.compile(rf"(?:\A|(?<=\n))(?=[^{_SPACE}\n])")


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


class SpmTokenizer(VocabularyTokenizer):
    """SentencePiece. Raises ``TokenizerError`` naming the field if the vocabulary is impossible.

    With ``add_space_prefix`` a space is put before the text, and, without ``prefixes_once``, before the text after each
    control token; ``decode`` drops the first.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        self._drops_prefix_space = vocabulary.add_space_prefix
        self._byte_ids = self._find_bytes()
        self._model = self._load(vocabulary)

    def _find_bytes(self) -> list[int] | None:
        """The ids of all 256 bytes, or None if any of them is missing."""
        found: dict[int, int] = {}
        for i in self.vocabulary.ids_of(BYTE):
            match = _BYTE_SPELLING.fullmatch(self.vocabulary.spelling(i))
            if match is None:
                spelling = quoted(self.vocabulary.spelling(i))
                raise self.vocabulary.error("pieces", f"piece {i} is a byte by its type, but is {spelling}, not <0xNN>")
            found.setdefault(int(match[1], 16), i)
        return [found[byte] for byte in range(256)] if len(found) == 256 else None

    def _load(self, vocabulary: Vocabulary) -> Any:
        if vocabulary.scores is None:
            raise vocabulary.error("scores", "missing; a SentencePiece vocabulary needs its scores")
        import sentencepiece

        from pellucid._parsers import encode_spm

        n = self.vocab_size
        types = np.full(n, NORMAL, np.int32) if vocabulary.types is None else vocabulary.types.astype(np.int32)
        for i in vocabulary.ids_of(USER_DEFINED):  # these must not match in ordinary text
            if i in self.eog or looks_like_control(vocabulary.spelling(i)):
                types[i] = CONTROL
        for i in vocabulary.ids_of(UNKNOWN):
            types[i] = CONTROL
        pieces: list[str] | list[bytes] = list(vocabulary.pieces)  # type: ignore[assignment]
        scores = np.ascontiguousarray(vocabulary.scores, np.float32)
        # The package requires exactly one unknown piece. If there is none, one past the end stands for "impossible".
        unknown = vocabulary.unk if vocabulary.unk is not None else next(iter(vocabulary.ids_of(UNKNOWN)), None)
        if unknown is None:
            spare: Any = "<impossible>" if isinstance(pieces[0], str) else b"<impossible>"
            while spare in pieces:
                spare += spare[:1]
            pieces.append(spare)
            types, scores = np.append(types, np.int32(UNKNOWN)), np.append(scores, np.float32(0))
        else:
            types[unknown] = UNKNOWN
        if self._byte_ids is None:
            types[types == BYTE] = CONTROL
        proto = encode_spm(pieces, scores, types, self._byte_ids is not None)
        normalizer = b""
        if vocabulary.model == "unigram":
            proto, normalizer = proto + _UNIGRAM, self._normalizer(vocabulary)
        try:
            return sentencepiece.SentencePieceProcessor(model_proto=proto + normalizer)
        except Exception as error:
            self._explain(vocabulary)
            field = "pieces"
            if vocabulary.charsmap:  # not that, if they are accepted without it
                with contextlib.suppress(Exception):
                    sentencepiece.SentencePieceProcessor(model_proto=proto)
                    field = "charsmap"
            raise vocabulary.error(field, f"rejected by sentencepiece: {error}") from error

    @staticmethod
    def _normalizer(vocabulary: Vocabulary) -> bytes:
        """The fields of normalizer_spec that override earlier values."""
        spec = b""
        if vocabulary.charsmap:
            try:
                growth = charsmap_growth(vocabulary.charsmap)
            except TokenizerError as error:
                raise vocabulary.error("charsmap", error.message) from None
            if growth > MOST_GROWTH:
                raise vocabulary.error("charsmap", f"a text may become more than {MOST_GROWTH} times as long by it")
            spec += b"\x12" + _varint(len(vocabulary.charsmap)) + vocabulary.charsmap
        if vocabulary.squeezes:  # the package then removes a space put before the text, but not its own
            spec += b"\x20\x01" + (b"\x18\x01" if vocabulary.add_space_prefix else b"")
        return b"\x1a" + _varint(len(spec)) + spec if spec else b""

    @staticmethod
    def _explain(vocabulary: Vocabulary) -> None:
        seen: dict[Any, int] = {}
        for i, piece in enumerate(vocabulary.pieces):
            if not piece:
                raise vocabulary.error("pieces", f"piece {i} is empty")
            if piece in seen:
                raise vocabulary.error("pieces", f"{quoted(piece)} is given twice, as {seen[piece]} and {i}")
            seen[piece] = i

    def _special_text(self, index: int) -> str:
        return self.vocabulary.spelling(index).replace(_SPACE, " ")

    def _encode_plain(self, text: str, offset: int) -> list[int]:
        to_utf8(text, offset)
        v = self.vocabulary
        once = v.prefixes_once and (offset > 0 or text[:1] == " ")
        if v.add_space_prefix and not v.squeezes and not once:
            text = " " + text
            offset -= 1
        if self._byte_ids is None or _SPACE not in text:
            return self._merge(text, offset)
        literal = [self._byte_ids[byte] for byte in _SPACE.encode()]
        ids: list[int] = []
        for number, part in enumerate(text.split(_SPACE)):
            if number:
                ids += literal
                offset += 1
            ids += self._merge(part, offset)
            offset += len(part)
        return ids

    def _merge(self, text: str, offset: int) -> list[int]:
        ids: list[int] = self._model.encode(text)
        if self._byte_ids is None and self.vocabulary.unk is None and self.vocab_size in ids:
            position = offset + self._first_unknown(text)
            message = f"{quoted(text[position - offset])} cannot be encoded: the vocabulary has no piece for it"
            raise TokenizerError(f"{message}, no bytes and no unknown token", position=max(position, 0))
        return ids

    def _first_unknown(self, text: str) -> int:
        known, done = 0, len(text)
        while known + 1 < done:  # the shortest prefix with an unknown piece ends in it
            half = (known + done) // 2
            if self.vocab_size in self._model.encode(text[:half]):
                done = half
            else:
                known = half
        return done - 1

    def _piece_bytes(self, index: int, is_byte: bool) -> bytes:
        piece = self.vocabulary.pieces[index]
        raw = piece.encode("utf-8", "replace") if isinstance(piece, str) else bytes(piece)
        return bytes([int(raw[3:5], 16)]) if is_byte else raw.replace(_SPACE.encode(), b" ")


class MergedSpmTokenizer(SpmTokenizer):
    """SentencePiece's pieces, spaces and bytes, with a list of merges in place of scores. All 256 bytes are needed.

    Text is not cut into words, except with the pre-tokenizer "mmbert".
    """

    def _load(self, vocabulary: Vocabulary) -> Any:
        from pellucid.text.bpe import load_merges, number_pieces

        if self._byte_ids is None:
            raise vocabulary.error("pieces", "some of the 256 bytes <0x00> to <0xFF> are missing")
        self._user = Finder(self._always)
        made = load_merges(vocabulary, number_pieces(vocabulary)[1], self._control(), byte_fallback=True)
        self._cuts = vocabulary.pre == "mmbert"
        if self._cuts:
            from tokenizers import Regex, pre_tokenizers

            self._drops_prefix_space = True
            made.pre_tokenizer = pre_tokenizers.Split(Regex(_WORDS), behavior="isolated")
        return made

    def _merge(self, text: str, offset: int) -> list[int]:
        ids: list[int] = []
        for _, part in self._user.split(text):
            if isinstance(part, int):
                ids.append(part)
                continue
            spelled = part.replace(" ", _SPACE)
            ids += self._model.encode(_LINE.sub(_SPACE, spelled) if self._cuts else spelled).ids
        return ids
