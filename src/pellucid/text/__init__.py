"""Text to token ids and back. Takes a vocabulary as plain data; knows no file format."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from pellucid.errors import TokenizerError
from pellucid.text.vocabulary import Vocabulary, quoted

__all__ = ["MarkedTokenizer", "TextTokenizer", "Vocabulary", "build"]


class TextTokenizer(Protocol):
    """The interface of all tokenizers; :class:`~pellucid.text.base.VocabularyTokenizer` documents each method."""

    vocab_size: int
    bos: int | None
    eos: int | None
    eog: frozenset[int]
    add_bos: bool
    chat_template: str | None
    pieces: list[bytes | None]

    @property
    def special(self) -> dict[str, int]: ...

    def encode(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]: ...

    def encode_pair(self, first: str, second: str) -> tuple[list[int], list[int]]: ...

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str: ...

    def piece(self, id: int, *, special: bool = False) -> bytes: ...

    def spelling(self, id: int) -> str: ...


class MarkedTokenizer(TextTokenizer, Protocol):
    """A tokenizer that distinguishes special tokens of a template from those that a message spells; all that `build`
    returns do."""

    def encode_marked(self, text: str, marked: str) -> list[int]: ...


def build(vocabulary: Vocabulary) -> TextTokenizer:
    """The tokenizer of a vocabulary. Raises ``TokenizerError`` for an unknown model or pre-tokenizer."""
    if vocabulary.model == "bpe":
        from pellucid.text.bpe import BpeTokenizer

        return BpeTokenizer(vocabulary)
    if vocabulary.model == "wordpiece":
        from pellucid.text.wordpiece import WordPieceTokenizer

        return WordPieceTokenizer(vocabulary)
    if vocabulary.model in ("spm", "unigram"):
        from pellucid.text.spm import MergedSpmTokenizer, SpmTokenizer

        merged = vocabulary.model == "spm" and vocabulary.merges is not None
        return MergedSpmTokenizer(vocabulary) if merged else SpmTokenizer(vocabulary)
    raise TokenizerError(
        f'unknown kind of vocabulary {quoted(vocabulary.model)}; known: "bpe", "spm", "unigram", "wordpiece"'
    )
