"""A vocabulary as plain data, independent of the file format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pellucid.errors import TokenizerError
from pellucid.errors import shown as quoted

__all__ = ["BYTE", "CONTROL", "NORMAL", "UNKNOWN", "UNUSED", "USER_DEFINED", "Vocabulary", "quoted"]

# Token types; GGUF and SentencePiece agree on the numbers.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

_IDS = ("bos", "eos", "eot", "eom", "unk", "pad")


@dataclass(frozen=True)
class Vocabulary:
    """Pieces of text, numbered, and how text is cut into them.

    ``model``: "bpe" (byte-level byte-pair encoding, as GPT-2), "spm" (SentencePiece, merges ranked by score),
    "unigram" (SentencePiece, the most probable segmentation) or "wordpiece" (BERT; a piece that begins a word starts
    with U+2581).
    ``pre``: name of the pre-tokenizer of a "bpe" vocabulary; None means "default". For "spm" with merges: "mmbert"; any
    other value means none.
    ``pieces``: one spelling per id, all ``str`` or all UTF-8 ``bytes``.
    ``scores``: float32 (n,), for "spm" and "unigram"; ``types``: int32 (n,), the constants of this module, or None:
    all are normal.
    ``merges``: pairs "left right", best first, for "bpe"; for "spm" they replace the scores.
    ``eog``: ids that end a generation, besides ``eos``, ``eot``, ``eom`` and those that are known by their spelling.
    ``strips``, ``strips_before``: ids of tokens that remove the white space after and before them: control tokens if
    these are parsed, user-defined ones always.
    ``prefixes_once``: with ``add_space_prefix``: no space is put after tokens within the text, or before a space.
    ``charsmap``: for "unigram": the table of characters by which text is normalised; ``squeezes``: spaces at its ends
    are removed, and runs of spaces become one.
    ``lowercase``, ``strip_accents``: for "wordpiece": normalisation of text before it is cut. None: lower case if no
    piece has a capital letter; accents are stripped together with capitals.
    ``names``: the source file's names of the fields, and ``source``, its path: only for error messages.

    Raises ``TokenizerError`` naming the field, if lengths disagree or an id is out of range.
    """

    model: str
    pieces: Sequence[str] | Sequence[bytes]
    pre: str | None = None
    scores: npt.NDArray[np.float32] | None = None
    types: npt.NDArray[np.int32] | None = None
    merges: Sequence[str] | None = None
    bos: int | None = None
    eos: int | None = None
    eot: int | None = None
    eom: int | None = None
    unk: int | None = None
    pad: int | None = None
    eog: tuple[int, ...] = ()
    strips: frozenset[int] = frozenset()
    strips_before: frozenset[int] = frozenset()
    add_bos: bool = False
    add_eos: bool = False
    add_space_prefix: bool = False
    prefixes_once: bool = False
    charsmap: bytes = b""
    squeezes: bool = False
    lowercase: bool | None = None
    strip_accents: bool | None = None
    chat_template: str | None = None
    source: str = field(default="", compare=False)
    names: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        n = len(self.pieces)
        if n == 0:
            raise self.error("pieces", "the vocabulary is empty; expected at least one piece")
        for name in ("scores", "types"):
            array = getattr(self, name)
            if array is not None and array.shape != (n,):
                raise self.error(name, f"shape {array.shape}; expected ({n},), one entry per piece")
        if self.scores is not None and not np.isfinite(self.scores).all():
            bad = int(np.flatnonzero(~np.isfinite(self.scores))[0])
            raise self.error("scores", f"score {self.scores[bad]} of piece {bad} is not finite")
        if self.types is not None and not ((self.types >= NORMAL) & (self.types <= BYTE)).all():
            bad = int(np.flatnonzero((self.types < NORMAL) | (self.types > BYTE))[0])
            raise self.error("types", f"type {self.types[bad]} of piece {bad}; expected {NORMAL} to {BYTE}")
        for name in _IDS:
            value = getattr(self, name)
            if value is not None and not 0 <= value < n:
                raise self.error(name, f"id {value} is out of range; the vocabulary has {n} pieces")
        for value in self.eog:
            if not 0 <= value < n:
                raise self.error("eog", f"id {value} is out of range; the vocabulary has {n} pieces")
        for add, name in (("add_bos", "bos"), ("add_eos", "eos")):
            if getattr(self, add) and getattr(self, name) is None:
                raise self.error(add, f"is set, but the vocabulary has no {name.upper()} token")

    def __len__(self) -> int:
        return len(self.pieces)

    def error(self, name: str, message: str) -> TokenizerError:
        """An error about the field ``name``, which it gives under the source file's name."""
        where = self.names.get(name, name)
        return TokenizerError(f"{self.source}: {where}: {message}" if self.source else f"{where}: {message}")

    def spelling(self, index: int) -> str:
        """The piece as the file spells it, e.g. ``Ġthe``, ``▁the``, ``<0x0A>`` or ``<|im_end|>``."""
        piece = self.pieces[index]
        return piece if isinstance(piece, str) else piece.decode("utf-8", "replace")

    def ids_of(self, *types: int) -> list[int]:
        """Ids whose type is one of ``types``, ascending; empty for a vocabulary without types."""
        if self.types is None:
            return []
        return [int(i) for i in np.flatnonzero(np.isin(self.types, types))]
