"""Byte-level byte-pair encoding (GPT-2, 2019), over the ``tokenizers`` package.

Text is cut into words by a pre-tokeniser, which a model file names but does not describe; each word's bytes, written
as 256 printable characters, are then merged pair by pair. The names are those of the GGUF field
``tokenizer.ggml.pre``; what each stands for is in the models' public ``tokenizer.json`` files. Text is never
normalised (some of those files ask for NFC), so that decoding gives back exactly what was encoded.
"""

from __future__ import annotations

from typing import Any

from ..errors import TokenizerError
from .base import VocabularyTokenizer, check_encodable, to_utf8
from .special import Finder
from .vocabulary import UNKNOWN, Vocabulary, quoted

__all__ = ["PRE_TOKENIZERS", "BpeTokenizer", "adds_bos", "byte_characters", "characters_to_bytes"]

# Rules are applied one after the other, each to every part that the former left; matches and gaps both stay.
_DIGIT, _GPT2 = "digit", "gpt2"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
_QWEN2 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
_QWEN35 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _SPACES
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = r"[^\r\n\p{L}\p{N}]?" + _UPPER + "*" + _LOWER + "+%s|" + r"[^\r\n\p{L}\p{N}]?" + _UPPER + "+" + _LOWER + "*%s|"
_GPT4O = _CASED % ((_CONTRACTION + "?",) * 2) + r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES
_TEKKEN = _CASED % ("", "") + r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES
_DEFAULT = (r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")

_FAMILIES: tuple[tuple[tuple[str, ...], str], ...] = (
    ((_GPT2,), "gpt-2 phi-2 mpt olmo jais trillion granite-docling exaone4 mellum gigachat a.x-4.0"),
    ((_DIGIT, _GPT2), "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2"),
    ((_LLAMA3,), "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 dbrx smaug-bpe glm4 chatglm-bpe"),
    ((_QWEN2,), "qwen2 deepseek-r1-qwen stablelm2 hunyuan megrez kormo solar-open grok-2"),
    ((_QWEN35,), "qwen35"),
    ((_GPT4O,), "gpt-4o llama4 kanana2"),
    ((_TEKKEN,), "tekken"),
    (_DEFAULT, "default"),
)
PRE_TOKENIZERS = {name: rules for rules, names in _FAMILIES for name in names.split()}
# A word that is a piece as a whole is taken as it is, even where no chain of merges leads to it.
_WHOLE_WORDS = frozenset(
    ["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "tekken"]
)


def adds_bos(pre: str | None) -> bool:
    """Whether BOS comes first where the file does not say."""
    return pre in _WHOLE_WORDS


def byte_characters() -> dict[int, str]:
    """The printable character that stands for each byte: itself where it is one, else the next from U+0100."""
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


def characters_to_bytes(piece: str) -> bytes:
    """Inverse of the byte alphabet; a piece with other characters is taken to be plain text."""
    try:
        return piece.translate(_BYTE).encode("latin-1")
    except UnicodeEncodeError:
        return piece.encode("utf-8", "replace")


class BpeTokenizer(VocabularyTokenizer):
    """Byte-level BPE. Raises ``TokenizerError`` for an unknown pre-tokeniser, a piece given twice, or merges of
    pieces that do not exist.

    Some vocabularies have no piece for bytes that were rare in training (SmolLM2: 21 of them, e.g. U+0004). Such a
    character is an error with its position, never dropped, unless the vocabulary has an unknown token.

    A million characters take 0.4 to 0.6 s, with or without spaces among them; a million digits that stand alone,
    1.5 s (one core of a 2-core x86 server).
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        pre = vocabulary.pre or "default"
        if pre not in PRE_TOKENIZERS:
            known = ", ".join(PRE_TOKENIZERS)
            raise vocabulary.error("pre", f"unknown pre-tokeniser {quoted(pre)}; known: {known}")
        if vocabulary.merges is None:
            raise vocabulary.error("merges", "missing; a BPE vocabulary needs its merges")
        super().__init__(vocabulary)
        pieces = [p if isinstance(p, str) else p.decode("utf-8", "replace") for p in vocabulary.pieces]
        ids = dict(zip(pieces, range(len(pieces)), strict=True))
        if len(ids) != len(pieces):
            second = next(i for i, piece in enumerate(pieces) if ids[piece] != i)
            twice = pieces[second]
            raise vocabulary.error("pieces", f"{quoted(twice)} is there twice, as {second} and {ids[twice]}")
        unknown = vocabulary.unk if vocabulary.unk in vocabulary.ids_of(UNKNOWN) else None
        self._ids = ids
        self._model = _build(vocabulary, ids, pre, None if unknown is None else pieces[unknown])
        present = bytes(byte for byte, character in _CHARACTER.items() if character in ids)
        self._encodable = present if unknown is None and len(present) < 256 else None
        self._user = Finder(self._always) if self._always else None

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
        try:
            ids: list[int] = self._model.encode(text, add_special_tokens=False).ids
        except Exception as error:  # the package raises bare Exception, e.g. when a regular expression gives up
            raise TokenizerError(f"the text could not be encoded: {error}") from error
        return ids

    def _piece_bytes(self, index: int, is_byte: bool) -> bytes:
        return characters_to_bytes(self.vocabulary.spelling(index))


def _build(vocabulary: Vocabulary, ids: dict[str, int], pre: str, unknown: str | None) -> Any:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    merges: list[tuple[str, str]] = []
    for number, merge in enumerate(vocabulary.merges or ()):
        left, space, right = merge.partition(" ")
        if not (left and space and right):
            raise vocabulary.error(f"merges[{number}]", f"{quoted(merge)}; expected two pieces with a space between")
        merges.append((left, right))
    try:
        model = models.BPE(ids, merges, unk_token=unknown, ignore_merges=pre in _WHOLE_WORDS)
    except Exception as error:  # the package does not say which merge; find it
        for number, (left, right) in enumerate(merges):
            for piece in (left, right, left + right):
                if piece not in ids:
                    message = f"{quoted(f'{left} {right}')} needs the piece {quoted(piece)}, which does not exist"
                    raise vocabulary.error(f"merges[{number}]", message) from None
        raise vocabulary.error("merges", str(error)) from error
    made = Tokenizer(model)
    steps: list[Any] = []
    for rule in PRE_TOKENIZERS[pre]:
        if rule == _DIGIT:
            steps.append(pre_tokenizers.Digits(individual_digits=True))
        elif rule == _GPT2:
            steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True))
        else:
            steps.append(pre_tokenizers.Split(Regex(rule), behavior="isolated"))
    if _GPT2 not in PRE_TOKENIZERS[pre]:
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return made
