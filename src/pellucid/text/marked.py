"""Texts in which only some spellings of special tokens become these tokens, for the ``tokenizers`` package.

The package matches all spellings or none. So those that count are spelled differently, with a character that the text
does not have, and a second tokenizer knows the special tokens only by these names. It shares the model and cuts the
text in one go, so that spaces at its start and around tokens are treated as usual.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from pellucid.text.special import Finder, counting

__all__ = ["MarkedEncoder"]

_MARKS = [chr(code) for code in range(0x2801, 0x2900)]  # neither letters nor spaces; no normaliser changes them
_MOST_UNUSED = 1 << 16  # ids below the vocabulary's size for which the model has no piece
_KEPT = 4  # tokenizers, one per mark
_TRIES = 3


class MarkedEncoder:
    """plain: the package's tokenizer without special tokens. added: its added tokens. size: of the vocabulary."""

    def __init__(self, plain: Any, added: dict[int, Any], size: int) -> None:
        self._plain, self._added, self._size = plain, added, size
        self.finder = Finder({token.content: i for i, token in added.items() if token.special and token.content})
        self._names = "".join(token.content for token in added.values())
        self._made: dict[str, tuple[Any, dict[int, int], frozenset[int]]] = {}

    def encode(self, text: str, marked: str) -> list[int] | None:
        """The ids of a text whose special tokens count where `marked` spells them, too; None if this cannot be done."""
        mark = next((one for one in _MARKS if one not in text and one not in self._names), None)
        if mark is None or self._size - self._plain.get_vocab_size(False) > _MOST_UNUSED:
            return None
        model, numbers, special = self._tokenizer(mark)
        places = [at for at, part in self.finder.split(text, counting(text, marked)) if isinstance(part, int)]
        for _ in range(_TRIES):
            cuts = [at + 1 for at in places]  # inside the tokens; their first and last characters stay
            pairs = zip([0, *cuts], [*cuts, len(text)], strict=True)
            found = model.encode(mark.join(text[start:end] for start, end in pairs), add_special_tokens=False)
            ids: list[int] = found.ids
            if sum(i in special for i in ids) == len(places):
                return [numbers.get(i, i) for i in ids]
            # Some are not tokens there, by rules of the file: between letters, for example.
            spans = [span for i, span in zip(ids, found.offsets, strict=True) if i in special]
            places = _inside(places, spans)
        return None

    def _tokenizer(self, mark: str) -> tuple[Any, dict[int, int], frozenset[int]]:
        """(the tokenizer for a mark, its differing ids -> the vocabulary's, its ids of special tokens)."""
        made = self._made.get(mark)
        if made is None:
            made = self._make(mark)
            if len(self._made) >= _KEPT:
                self._made.clear()
            self._made[mark] = made
        return made

    def _make(self, mark: str) -> tuple[Any, dict[int, int], frozenset[int]]:
        from tokenizers import AddedToken, Tokenizer

        plain = self._plain
        made: Any = Tokenizer(plain.model)
        if plain.normalizer is not None:
            made.normalizer = plain.normalizer
        if plain.pre_tokenizer is not None:
            made.pre_tokenizer = plain.pre_tokenizer
        # The package numbers tokens itself, from the number of the model's pieces on; here, from the vocabulary's size
        # on. No name of a special token contains two marks.
        unused = range(self._size - made.get_vocab_size(False))
        names: dict[int, Any] = {}
        for i, token in self._added.items():
            content = token.content
            if token.special and content:
                content = content[0] + mark + content[1:]
            names[i] = AddedToken(
                content, single_word=token.single_word, lstrip=token.lstrip, rstrip=token.rstrip,
                normalized=token.normalized, special=token.special,
            )  # fmt: skip
        made.add_tokens([*(AddedToken(f"{mark}{mark}{n}", normalized=False) for n in unused), *names.values()])
        numbers: dict[int, int] = {made.token_to_id(token.content): i for i, token in names.items() if token.content}
        special = frozenset(number for number, i in numbers.items() if self._added[i].special)
        return made, numbers, special


def _inside(places: list[int], spans: list[tuple[int, int]]) -> list[int]:
    """The places whose mark lies in one of the spans; spans refer to the text with a mark inserted at each place."""
    shifted = [at + number + 1 for number, at in enumerate(places)]
    found = []
    for start, end in spans:
        first = bisect_left(shifted, start)
        if first < len(shifted) and shifted[first] < end:
            found.append(places[first])
    return found
