"""A tokenizer described by a ``tokenizer.json`` and run by the ``tokenizers`` package."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

from pellucid.errors import TokenizerError
from pellucid.text.base import (
    check_encodable,
    check_id,
    check_ids,
    check_room,
    check_text,
    drop_prefix_space,
    package_errors,
    to_utf8,
)
from pellucid.text.bpe import byte_characters, characters_to_bytes
from pellucid.text.description import Description
from pellucid.text.marked import MarkedEncoder
from pellucid.text.pattern import Pattern
from pellucid.text.special import END, counting, ends_a_message, looks_like_control
from pellucid.text.vocabulary import quoted

__all__ = ["JsonTokenizer"]

_SPACE = "\u2581"
_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
_MOST_BYTES = 1 << 25  # that a text may become before it is cut into pieces; the package uses 20 times the memory
_MOST_GROWTH = 16  # of a piece, by its decoder
_MOST_STEPS = 1 << 29  # steps of the package on one text: about 5 s


class JsonTokenizer:
    """Has the methods of :class:`~pellucid.text.base.VocabularyTokenizer`, with the same rules.

    ``description``: the text of a tokenizer.json. ``bos``, ``eos``: spellings, or None; ``usual``: spellings of
    bos_token and eos_token that are preferred if the vocabulary has them; ``rows``, ``adapt``: as in ``Description``.
    Truncation and padding are ignored; the description's normaliser and its post-processor (which adds BOS) are used.
    Raises ``TokenizerError`` if it is broken, could do harm, or is of a kind whose pieces cannot be converted to bytes.
    """

    def __init__(
        self,
        description: str,
        *,
        bos: str | None = None,
        eos: str | None = None,
        usual: Mapping[str, str] = MappingProxyType({}),
        chat_template: str | None = None,
        rows: int | None = None,
        adapt: Callable[[dict[str, Any]], bool] | None = None,
    ) -> None:
        self._checked = Description(description, rows, adapt)
        table = self._checked.table
        self.chat_template = chat_template
        self._byte_level, self._replaced, self._inside = _kind(table.get("decoder"))
        # Ordinary tokens according to the description, which must not match in ordinary text; decoding still shows
        # them.
        self._markers = set()
        for token in table.get("added_tokens") or []:
            text = token["content"]
            if not token.get("special") and (text in END or looks_like_control(text)):
                token["special"] = True
                self._markers.add(text)
        changed = self._checked.changed or bool(self._markers)
        self._description = json.dumps(table) if changed else description
        with package_errors("rejected by tokenizers"):
            self._plain = self._make(special=False)
        self._check_added(table.get("added_tokens") or [])
        self.vocab_size = self._checked.bound
        self.bos, self.eos = self._id_of("bos_token", bos, usual), self._id_of("eos_token", eos, usual)
        self.eog = self._ends()
        self.pieces: list[bytes | None] = [None] * self.vocab_size  # of the ids used so far
        self._encodable: bytes | None = None
        left = {} if table["model"]["type"] == "Unigram" else self._leave_control_pieces(table)
        self._encodable = self._find_encodable(table["model"], left)
        first = self.encode("a", add_special=False)
        self._drops_prefix_space = bool(first) and self.piece(first[0])[:1] == b" "
        self.add_bos = self.bos is not None and self.encode("")[:1] == [self.bos]

    def _make(self, special: bool) -> Any:
        check_room(len(self._description), 24)
        import tokenizers

        table = self._checked.table
        if special or table["model"]["type"] != "Unigram":
            made = tokenizers.Tokenizer.from_str(self._description)
        else:
            made = _without_control_pieces(table)
        made.no_truncation()
        made.no_padding()
        made.encode_special_tokens = not special
        return made

    def _leave_control_pieces(self, table: dict[str, Any]) -> dict[str, int]:
        """Loads the model again without control tokens, which are returned, if it would find any of them in text that
        spells it: when merges produce it, or when words are not cut at punctuation. Few models do."""
        model = table["model"]
        added = [token["content"] for token in table.get("added_tokens") or [] if token.get("special")]
        control = {
            piece: i
            for piece in added
            if (i := model["vocab"].get(piece)) is not None and piece != model.get("unk_token")
        }
        whole = bool(model.get("ignore_merges") and not table.get("pre_tokenizer"))
        if not control or not self._finds(control, whole):
            return {}
        made = json.dumps({"model": _apart(model, control)})
        check_room(len(made), 24)
        with package_errors("rejected by tokenizers"):
            self._plain.model = type(self._plain).from_str(made).model
        return control

    def _finds(self, control: dict[str, int], whole: bool) -> bool:
        """whole: a text that equals a piece becomes that piece."""
        ids = {*control.values()}
        try:
            return whole or any(
                not ids.isdisjoint(self.encode(c + c.join(control), False)) for c in ("a", " ", "\n", "<")
            )
        except TokenizerError:  # this text could take too long
            return True

    def _check_added(self, added: list[dict[str, Any]]) -> None:
        """The package numbers added tokens itself; the file's ids must agree."""
        for i, token in enumerate(added):
            found = self._plain.token_to_id(token["content"])
            if token["content"] and found != token["id"]:
                content = quoted(token["content"])
                raise TokenizerError(f"added_tokens[{i}].id: {token['id']} for {content}, whose id is {found}")

    @cached_property
    def _special(self) -> Any:
        """A second tokenizer, for text whose special tokens count: the switch must not change while another thread
        encodes."""
        return self._make(special=True)

    @cached_property
    def _added(self) -> dict[int, Any]:
        added: dict[int, Any] = self._plain.get_added_tokens_decoder()
        return added

    @cached_property
    def special(self) -> dict[str, int]:
        """As :attr:`VocabularyTokenizer.special`."""
        return {token.content: i for i, token in self._added.items() if token.special and token.content}

    def _id_of(self, name: str, spelling: str | None, usual: Mapping[str, str]) -> int | None:
        found: int | None = None
        with package_errors(name):
            for one in (usual.get(name), spelling):
                if found is None and one is not None:
                    found = self._plain.token_to_id(one)
        if found is None and spelling is not None:
            raise TokenizerError(f"{name}: {quoted(spelling)} is not in the vocabulary")
        return found

    def _ends(self) -> frozenset[int]:
        known = {token.content: i for i, token in self._added.items() if token.content in END}
        if ends_a_message(known):
            known.pop("<|end|>", None)
        return frozenset(known.values() if self.eos is None else (*known.values(), self.eos))

    def end_with(self, ids: Iterable[int]) -> None:
        """Makes further ids of the vocabulary end a generation."""
        self.eog |= {*ids}
        self.pieces = [None] * self.vocab_size  # these depend on it

    def _find_encodable(self, model: dict[str, Any], left: Container[str]) -> bytes | None:
        """left: pieces to leave out of the model."""
        if not self._byte_level or model.get("unk_token") is not None:
            return None
        to_id = self._plain.token_to_id
        present = bytes(b for b, c in byte_characters().items() if to_id(c) is not None and c not in left)
        return present if len(present) < 256 else None

    def encode(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """As :meth:`VocabularyTokenizer.encode`; the description's post-processor decides what is added."""
        raw = to_utf8(check_text(text))
        if self._encodable is not None:
            check_encodable(text, raw, 0, self._encodable)
        self._check_cost(text, len(raw))
        with package_errors("the text could not be encoded"):
            model = self._special if parse_special else self._plain
            ids: list[int] = model.encode(text, add_special_tokens=bool(add_special)).ids
        if ids and max(ids) >= self.vocab_size:
            raise TokenizerError(f"the text became id {max(ids)}; the vocabulary has {self.vocab_size} tokens")
        return ids

    @cached_property
    def _marked(self) -> MarkedEncoder:
        return MarkedEncoder(self._plain, self._added, self.vocab_size)

    def encode_marked(self, text: str, marked: str) -> list[int]:
        """As :meth:`VocabularyTokenizer.encode_marked`."""
        finder, counts = self._marked.finder, counting(text, marked)
        parts = [(at, part) for at, part in finder.split(text) if isinstance(part, int)]
        if parts == [(at, part) for at, part in finder.split(text, counts) if isinstance(part, int)]:
            return self.encode(text, add_special=False, parse_special=True)
        raw = to_utf8(check_text(text))
        if self._encodable is not None:
            check_encodable(text, raw, 0, self._encodable)
        self._check_cost(text, len(raw))
        with package_errors("the text could not be encoded"):
            found = self._marked.encode(text, marked)
        if found is not None:
            return found
        ids: list[int] = []
        for _, one in finder.split(text, counts):
            ids += [one] if isinstance(one, int) else self.encode(one, add_special=False)
        return ids

    def encode_pair(self, first: str, second: str) -> tuple[list[int], list[int]]:
        """As :meth:`VocabularyTokenizer.encode_pair`; the description's post-processor joins the texts."""
        alone = [self.encode(text) for text in (first, second)]  # checks both
        if self._plain.num_special_tokens_to_add(True) < 3:
            raise TokenizerError("post_processor: it joins two texts without tokens between them")
        with package_errors("the texts could not be encoded"):
            found = self._plain.encode(first, second)
        ids, types = found.ids, found.type_ids
        if len(ids) < sum(map(len, alone)) - 4 or not {*types} <= {0, 1}:
            raise TokenizerError("post_processor: it does not keep both texts")
        return ids, types

    def _check_cost(self, text: str, size: int) -> None:
        """``TokenizerError`` if a text of ``size`` bytes could become too large, or take too long."""
        checked = self._checked
        if size * checked.growth > _MOST_BYTES:
            most = int(_MOST_BYTES / checked.growth)
            raise TokenizerError(f"the text has {size} bytes; this tokenizer.json allows {most}")
        if size * checked.growth * checked.compared > _MOST_STEPS:
            steps = len(self._normalized(text).encode()) * checked.compared
            if steps > _MOST_STEPS:
                raise TokenizerError(
                    f"finding the text's pieces could take {steps} steps; expected at most {_MOST_STEPS}"
                )
        for place, pattern, growth, exact in checked.expressions:
            most = int(size * growth)
            if pattern.cost(most, [most]) > _MOST_STEPS:
                steps = pattern.cost(most, self._runs(pattern, text)) if exact else pattern.cost(most, [most])
                if steps > _MOST_STEPS:
                    message = f"its regular expression could take {steps} steps on this text"
                    raise TokenizerError(f"{place}: {message}; expected at most {_MOST_STEPS}")

    def _normalized(self, text: str) -> str:
        normalizer = self._plain.normalizer
        with package_errors("the text could not be normalised"):
            made: str = text if normalizer is None else normalizer.normalize_str(text)
        return made

    def _runs(self, pattern: Pattern, text: str) -> Iterator[int]:
        """Lengths of the stretches of text that the expression's repetitions can match."""
        from tokenizers import Regex, pre_tokenizers

        text = self._normalized(text)
        for loop in pattern.loops:
            for flags in ("m", "im"):  # covers at least what it matches with its own flags
                with package_errors("the text could not be searched"):
                    cut = pre_tokenizers.Split(Regex(f"(?{flags}:{loop})++"), "removed", invert=True)
                    found = cut.pre_tokenize_str(text)
                yield from (end - start for _, (start, end) in found)

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """As :meth:`VocabularyTokenizer.decode`."""
        raw = b"".join([self.piece(i, special=special) for i in check_ids(ids, self.vocab_size)])
        return (drop_prefix_space(raw) if self._drops_prefix_space else raw).decode("utf-8", "replace")

    def piece(self, id: int, *, special: bool = False) -> bytes:
        """As :meth:`VocabularyTokenizer.piece`."""
        index = check_id(id, self.vocab_size)
        raw = self.pieces[index]
        if raw is None:
            raw = self.pieces[index] = self._stands_for(index)
        return self.spelling(index).encode("utf-8", "replace") if special and not raw else raw

    def spelling(self, id: int) -> str:
        """The token as the vocabulary spells it; ``""`` for an id that has no token."""
        return self._plain.id_to_token(check_id(id, self.vocab_size)) or ""

    def _stands_for(self, index: int) -> bytes:
        text = self.spelling(index)
        if index in self.eog:
            return b""
        if index in self._added:
            shown = not self._added[index].special or text in self._markers
            return text.encode("utf-8", "replace") if shown else b""
        if self._byte_level:
            return characters_to_bytes(text)
        match = _BYTE.fullmatch(text)
        if match is not None:
            return bytes([int(match[1], 16)])
        if self._inside is not None:  # the prefix of pieces inside a word; others begin a word
            text = text.removeprefix(self._inside) if text.startswith(self._inside) else f" {text}"
        for old, new in self._replaced:
            text = text.replace(old, new)
        return text.encode("utf-8", "replace")


def _without_control_pieces(table: dict[str, Any]) -> Any:
    """The package's tokenizer of a Unigram model. It finds every piece that text spells, including those of control
    tokens: so these are made empty, which match nothing. Their places and scores stay, and so do all other ids."""
    from tokenizers import Tokenizer, models

    model, added = table["model"], table.get("added_tokens") or []
    names = {token["content"] for token in added}
    control = {token["content"] for token in added if token.get("special")}
    # Added tokens take their ids from this one, which has no other pieces; the whole vocabulary is loaded only once.
    numbers = [row if row[0] in names else ["", 0] for row in model["vocab"]]
    made = Tokenizer.from_str(json.dumps({**table, "model": {**model, "vocab": numbers}}))
    pieces = [("" if piece in control else piece, score) for piece, score in model["vocab"]]
    made.model = models.Unigram(pieces, model.get("unk_id"), bool(model.get("byte_fallback")))
    return made


def _apart(model: dict[str, Any], control: Container[str]) -> dict[str, Any]:
    """The model without control pieces, and without merges of them."""
    made = {**model, "vocab": {piece: i for piece, i in model["vocab"].items() if piece not in control}}
    if "merges" in model:
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
        inside = len(model.get("continuing_subword_prefix") or "")
        made["merges"] = [
            [left, right]
            for left, right in pairs
            if left not in control and right not in control and left + right[inside:] not in control
        ]
    return made


def _kind(decoder: object) -> tuple[bool, list[tuple[str, str]], str | None]:
    """(whether pieces are in the byte alphabet, the replacements in a piece, the prefix of WordPiece pieces inside a
    word), from the description's decoders. Raises ``TokenizerError`` for steps that are not supported.
    """
    listed = decoder.get("decoders", [decoder]) if isinstance(decoder, dict) else []
    steps = [step for step in listed if isinstance(step, dict)] if isinstance(listed, list) else []
    kinds = [step.get("type") for step in steps]
    if kinds == ["WordPiece"]:
        return False, [], steps[0].get("prefix", "##")
    byte_level = "ByteLevel" in kinds
    if not byte_level and "Metaspace" not in kinds and "ByteFallback" not in kinds:
        shown = quoted("+".join(map(str, kinds)) or None)
        expected = "expected ByteLevel, ByteFallback, Metaspace or WordPiece"
        raise TokenizerError(f"decoder: {shown} is not supported; {expected}")
    replaced: list[tuple[str, str]] = []
    growth = 1.0
    for i, step in enumerate(steps):
        place = f"decoder.decoders[{i}]" if "decoders" in decoder else "decoder"  # type: ignore[operator]
        kind = step.get("type")
        if kind == "Metaspace" and not byte_level:
            replaced.append((str(step.get("replacement", step.get("str_rep", _SPACE))), " "))
        elif kind == "Replace" and not byte_level:
            old, new = _replaced(step, kinds[:i], place)
            growth *= max(len(new) / len(old), 1)  # of text that is not empty
            if growth > _MOST_GROWTH:
                raise TokenizerError(f"{place}: pieces become {growth:.0f} times as long; at most {_MOST_GROWTH}")
            replaced.append((old, new))
        elif kind == "Strip" and not byte_level:
            _check_strip(step, place)
        elif kind not in ("ByteLevel", "ByteFallback", "Fuse"):
            beside = " beside ByteLevel" if byte_level else ""
            raise TokenizerError(f"{place}: {quoted(kind)} is not supported{beside}")
    return byte_level, replaced, None


def _replaced(step: dict[str, Any], before: list[Any], place: str) -> tuple[str, str]:
    """A text in a piece, and its replacement."""
    pattern = step.get("pattern")
    old = pattern.get("String") if isinstance(pattern, dict) else None
    new = step.get("content")
    if not isinstance(old, str) or not isinstance(new, str):
        raise TokenizerError(f"{place}.pattern: it is {quoted(pattern)}; only a String is supported")
    if (old, new) != (_SPACE, " ") and {"ByteFallback", "Fuse"} & {*before}:  # it would also match across pieces
        raise TokenizerError(f"{place}: Replace of {quoted(old)} is not supported after ByteFallback or Fuse")
    return old, new


def _check_strip(step: dict[str, Any], place: str) -> None:
    """The space that encoding put before the text is all that may be removed."""
    for key, allowed in (("content", (" ",)), ("start", (0, 1)), ("stop", (0,))):
        value = step.get(key, allowed[0])
        if value not in allowed:
            raise TokenizerError(f"{place}.{key}: it is {quoted(value)}; only {quoted(allowed[-1])} is supported")
