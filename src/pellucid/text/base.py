"""What every tokenizer over a :class:`Vocabulary` shares."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property

from pellucid.checks import integer, items
from pellucid.errors import OutOfMemoryError, PellucidError, TokenizerError, WrongType, WrongValue, one_line, shown
from pellucid.text.special import Finder, counting, end_ids, looks_like_control, looks_special
from pellucid.text.vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, Vocabulary

__all__ = [
    "NoTokenizerError",
    "VocabularyTokenizer",
    "check_encodable",
    "check_id",
    "check_ids",
    "check_room",
    "check_text",
    "drop_prefix_space",
    "package_errors",
    "to_utf8",
]

_REPLACEMENT = "\ufffd".encode()


class NoTokenizerError(TokenizerError):
    """The model has no tokenizer: only token ids are accepted."""


def check_text(text: object) -> str:
    if not isinstance(text, str):
        raise WrongType("text", f" must be str, not {type(text).__name__}")
    return str.__str__(text)


def to_utf8(text: str, offset: int = 0) -> bytes:
    """UTF-8. Raises ``TokenizerError`` with the position (plus ``offset``) of the first lone surrogate."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        message = f"the text has a lone surrogate U+{code:04X}, which no token can represent"
        raise TokenizerError(message, position=offset + error.start) from None


def check_encodable(text: str, raw: bytes, offset: int, encodable: bytes) -> None:
    """Raises ``TokenizerError`` with the position of the first character that has a byte outside ``encodable``."""
    if lost := raw.translate(None, encodable):
        position = len(raw[: raw.index(lost[0])].decode("utf-8", "ignore"))
        code, byte = ord(text[position]), lost[0]
        message = f"U+{code:04X} cannot be encoded: the vocabulary has no piece for byte 0x{byte:02X}"
        raise TokenizerError(message, position=offset + position)


def check_id(index: object, size: int) -> int:
    """``index`` as an int within the vocabulary. Raises ``TypeError`` or ``ValueError``."""
    try:
        return integer("id", index, 0, size - 1)
    except WrongType:
        raise TypeError(f"a token id must be an integer, not {type(index).__name__}") from None
    except WrongValue:
        limits = f"the vocabulary has {size} tokens (0 to {size - 1})"
        raise ValueError(f"token id {shown(index)} is out of range: {limits}") from None


def check_ids(ids: object, size: int) -> list[int]:
    return [check_id(i, size) for _, i in items("ids", ids, "a sequence of integers", sys.maxsize)]


@contextmanager
def package_errors(message: str) -> Iterator[None]:
    """Turns any exception of the ``tokenizers`` package into a ``TokenizerError``.

    The package raises bare ``Exception`` and, when its Rust code panics, a class derived from ``BaseException``, after
    Rust has printed a report on standard error.
    """
    try:
        yield
    except PellucidError:
        raise
    except Exception as error:
        raise TokenizerError(f"{message}: {one_line(str(error))}") from error
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":
            raise
        raise TokenizerError(f"{message}: {one_line(str(error))}") from None


def check_room(entries: int, each: int) -> None:
    """Raises OutOfMemoryError if the ``tokenizers`` package might run out of memory while it builds a tokenizer.

    Its Rust code would then abort the process. entries, each: number of pieces, merges or characters, and bytes for
    each, at least twice what was measured (a BPE of 49,152 pieces and as many merges takes 24 MB at its peak). The C
    library may reserve 128 MB of address space for a thread's memory.
    """
    size = (160 << 20) + entries * each
    try:
        mmap.mmap(-1, size).close()
    except (OSError, ValueError, OverflowError, MemoryError):
        raise OutOfMemoryError(f"no memory for the tokenizer: it may take {size >> 20} MB of address space") from None


def drop_prefix_space(raw: bytes) -> bytes:
    """Removes the space that encoding put before the text."""
    return raw[1:] if raw[:1] == b" " else raw


class VocabularyTokenizer:
    """The common part of :class:`~pellucid.text.bpe.BpeTokenizer` and :class:`~pellucid.text.spm.SpmTokenizer`.

    *Encoding.* The spelling of a control token in ordinary text is ordinary text; ``parse_special=True`` makes it the
    token. User-defined tokens (runs of spaces, ``<think>``) always match, except those that look like control tokens
    (``<|...|>``) or end a generation: these need ``parse_special`` too, whatever type the file gives them. The
    leftmost match wins, and of several there the longest.

    *Decoding.* Control tokens, unused tokens and tokens that end a generation decode to nothing; ``special=True``
    gives their spelling instead. An unknown token decodes to U+FFFD.
    """

    joins_with_one = False  # whether one separator stands between two texts, and tokens of the second have a type

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.vocab_size = len(vocabulary)
        self.bos = vocabulary.bos
        self.eos = vocabulary.eos
        self.add_bos = vocabulary.add_bos
        self.chat_template = vocabulary.chat_template
        self.eog = end_ids(vocabulary)
        types = vocabulary.types
        self._types = None if types is None else types.tolist()
        self.pieces: list[bytes | None] = [None] * self.vocab_size  # of the ids used so far
        self._drops_prefix_space = False

    def encode_pair(self, first: str, second: str) -> tuple[list[int], list[int]]:
        """(ids of two texts as encoders read them together; for each id, 1 if it belongs to the second text, else
        0)."""
        ends = self.encode("")
        if len(ends) != 2:
            raise TokenizerError("the vocabulary has no tokens that begin and end a text; two texts need them")
        begin, end = ends
        a, b = ([begin, *self.encode(text, add_special=False), end] for text in (first, second))
        b[0] = end  # as in XLM-R; WordPiece has one separator
        b = b[1:] if self.joins_with_one else b
        return a + b, [0] * len(a) + [int(self.joins_with_one)] * len(b)

    # -- special tokens in text

    @cached_property
    def _always(self) -> dict[str, int]:
        """Spellings of user-defined tokens, which match in any text."""
        found: dict[str, int] = {}
        for i in self.vocabulary.ids_of(USER_DEFINED):
            text = self._special_text(i)
            if i not in self.eog and not looks_like_control(text):
                found.setdefault(text, i)
        return found

    @cached_property
    def _stripping(self) -> Finder | None:
        """Finds user-defined tokens in any text, if one of them removes white space beside it."""
        strips = self.vocabulary.strips | self.vocabulary.strips_before
        return None if strips.isdisjoint(self._always.values()) else Finder(self._always)

    @cached_property
    def _finder(self) -> Finder:
        """Finds every spelling that matches with ``parse_special=True``."""
        ids = self.vocabulary.ids_of(CONTROL, UNKNOWN, USER_DEFINED)
        plain = set(self.vocabulary.ids_of(NORMAL))  # a word, or the end of a line, may end a text
        found = dict(self._always)
        for i in (*ids, *sorted(self.eog)):
            text = self._special_text(i)
            if i not in plain or looks_special(text):
                found.setdefault(text, i)
        return Finder(found)

    @cached_property
    def special(self) -> dict[str, int]:
        """Spellings that become their token only with ``parse_special=True``."""
        every = self._finder.ids
        return {text: i for text, i in every.items() if text not in self._always}

    def _control(self) -> set[str]:
        """Pieces that no ordinary text may become."""
        kinds = self._types or ()
        found = (i for i in self.special.values() if kinds and kinds[i] in (CONTROL, USER_DEFINED))
        return {self.vocabulary.spelling(i) for i in found}

    def _special_text(self, index: int) -> str:
        """The text of a control or user-defined token."""
        return self.vocabulary.spelling(index)

    # -- text to ids

    def encode(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Ids of ``text``. ``add_special`` puts BOS before and EOS after it if the vocabulary specifies them.

        ``parse_special`` turns the spellings of control tokens into those tokens. Raises ``TypeError`` if ``text`` is
        not a ``str``, and ``TokenizerError`` with the position of what cannot be encoded: a lone surrogate, or a
        character with a byte that the vocabulary has no piece for.
        """
        check_text(text)
        v = self.vocabulary
        ids = [v.bos] if add_special and v.add_bos and v.bos is not None else []
        finder = self._finder if parse_special else self._stripping
        if finder is not None:
            ids += self._encode_parts(finder.split(text))
        elif text:
            ids += self._encode_plain(text, 0)
        if add_special and v.add_eos and v.eos is not None:
            ids.append(v.eos)
        return ids

    def encode_marked(self, text: str, marked: str) -> list[int]:
        """As :meth:`encode` with ``parse_special`` and without added tokens, but control tokens count only if `marked`,
        which is the text with some of its characters replaced, spells them, too."""
        return self._encode_parts(self._finder.split(check_text(text), counting(text, marked, self._always)))

    def _encode_parts(self, split: Iterator[tuple[int, str | int]]) -> list[int]:
        parts, v = [*split], self.vocabulary
        ids: list[int] = []
        special = None
        for i, (position, part) in enumerate(parts, 1):
            if isinstance(part, str):
                following = parts[i][1] if i < len(parts) else None
                kept = part.lstrip() if special in v.strips else part
                position += len(part) - len(kept)
                if kept := kept.rstrip() if following in v.strips_before else kept:
                    ids += self._encode_plain(kept, position)
            else:
                special = part
                ids.append(part)
        return ids

    def _encode_plain(self, text: str, offset: int) -> list[int]:
        """Ids of non-empty text without control tokens. ``offset``: its position in the whole text, for errors."""
        raise NotImplementedError

    # -- ids to text

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """Text of ``ids``: the exact inverse of ``encode``. Bytes that are not UTF-8 become U+FFFD.

        Raises ``TypeError`` for what is not a sequence of integers, and ``ValueError`` for an id out of range.
        """
        known = self.pieces
        checked = check_ids(ids, self.vocab_size)
        raw = b"".join([known[i] or self.piece(i, special=special) for i in checked])
        if self._drops_prefix_space:
            raw = drop_prefix_space(raw)
        return raw.decode("utf-8", "replace")

    def piece(self, id: int, *, special: bool = False) -> bytes:
        """The bytes of a token, possibly only part of a character; ``b""`` for a control token, or its spelling if
        ``special``. The joined pieces of ids are their text, with the space that encoding put before it.
        """
        index = check_id(id, self.vocab_size)
        raw = self.pieces[index]
        if raw is None:
            raw = self.pieces[index] = self._stands_for(index)
        if special and not raw:
            return self._special_text(index).encode("utf-8", "replace")
        return raw

    def spelling(self, id: int) -> str:
        """The token as the vocabulary spells it, e.g. ``Ġthe`` or ``<|im_end|>``; for display."""
        return self.vocabulary.spelling(check_id(id, self.vocab_size))

    def _stands_for(self, index: int) -> bytes:
        kind = None if self._types is None else self._types[index]
        if kind in (CONTROL, UNUSED) or index in self.eog:
            return b""
        if kind == UNKNOWN:
            return _REPLACEMENT
        if kind == USER_DEFINED:
            return self._special_text(index).encode("utf-8", "replace")
        return self._piece_bytes(index, is_byte=kind == BYTE)

    def _piece_bytes(self, index: int, is_byte: bool) -> bytes:
        """Bytes of a normal or byte piece."""
        raise NotImplementedError
