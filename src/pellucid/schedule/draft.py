"""Guesses at the next tokens of a request: what followed an earlier occurrence of its last three tokens, in a text that
the answer is expected to resemble or in the request's own tokens.

Each new token also shows whether the guess at it was right, even if no pass verified that guess. So what guesses are
worth is known without the cost of verifying any.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import count
from typing import Any

__all__ = ["LATER", "MOST", "Drafts", "Lookup", "Odds"]

KEY = 3  # tokens by which a place is found
LATER = 4  # right guesses in a row, after which the next have odds of their own
FORGET = 0.9  # weight of a guess relative to the next one
MOST = 32  # guesses in a pass, so that windows can be rewound (cache/pages.c)
HOLD = 64  # tokens without guesses after a pass of them failed

Key = tuple[int, int, int]


class Odds:
    """How often guesses were right lately. expected: the share before any, which counts as `weight` guesses."""

    __slots__ = ("_all", "_right", "share")

    def __init__(self, expected: float, weight: float) -> None:
        self._right, self._all = expected * weight, weight
        self.share = expected

    def add(self, right: bool) -> None:
        self._right = FORGET * self._right + right
        self._all = FORGET * self._all + 1
        self.share = self._right / self._all


class Lookup:
    """Guesses by what followed an earlier occurrence of the last tokens.

    prompt: the tokens so far, at least one. expected: those that the answer is expected to resemble, from its first
    token on.
    """

    __slots__ = ("_after", "_at", "_expected", "_left", "_places", "_source", "_text", "first", "later", "right")

    def __init__(self, prompt: Sequence[int], expected: Sequence[int] = ()) -> None:
        self.first, self.later = (Odds(0.8, 4), Odds(0.9, 4)) if expected else (Odds(0.3, 2), Odds(0.8, 2))
        self.right = 0  # right guesses in a row
        self._text = list(prompt[:-1])
        self._after: dict[Key, int] = dict(zip(_keys(self._text), count(KEY)))  # three tokens -> the place after them
        self._expected = list(expected)
        self._places: dict[Key, list[int]] = {}  # as `_after`, but for `_expected`, and all places
        for at, key in enumerate(_keys(self._expected[:-1]), KEY):
            self._places.setdefault(key, []).append(at)
        self._source: list[int] | None = None  # what the guesses come from; `_at`: where the next one is
        self._at = 0
        self._left = 0  # the place in `_expected` up to which the answer has followed it
        self._add(prompt[-1])
        if expected:
            self._source, self._at = self._expected, 0

    def __len__(self) -> int:
        """Number of tokens seen."""
        return len(self._text)

    def __bool__(self) -> bool:
        """Whether there is a guess at the next token."""
        return self._source is not None

    def see(self, token: int) -> None:
        """Takes the request's next token."""
        source = self._source
        if source is not None:
            right = source[self._at] == token
            (self.first if self.right < LATER else self.later).add(right)
            self.right += right
            self._at += right
            ends = source is self._expected and self._at == len(source)
            if source is self._expected:
                self._left = self._at
            if not right or ends:
                self._source, self.right = None, 0
        self._add(token)

    def _add(self, token: int) -> None:
        text = self._text
        text.append(token)
        if len(text) < KEY:
            return
        key = (text[-3], text[-2], token)
        if self._source is None:
            places = self._places.get(key)
            at = self._after.get(key)
            if places is not None:  # the first from `_left` on, else the last
                i = bisect_left(places, self._left)
                self._source, self._at = self._expected, places[min(i, len(places) - 1)]
            elif at is not None:
                self._source, self._at = text, at
        self._after[key] = len(text)

    def hits(self, k: int) -> float:
        """How many of the next k guesses are right before one is wrong, on average."""
        p, total = 1.0, 0.0
        first, later = self.first.share, self.later.share
        for n in range(self.right, self.right + k):
            p *= first if n < LATER else later
            total += p
        return total

    def guess(self, most: int) -> list[int]:
        """Up to so many next tokens."""
        source = self._source
        if source is None:
            return []
        out = source[self._at : self._at + most]
        if source is self._text and len(out) < most:  # a text that repeats itself is expected to go on so
            out = (out * (most // len(out) + 1))[:most]
        return out


def _keys(ids: list[int]) -> Any:
    return zip(ids, ids[1:], ids[2:])


class Drafts:
    """The guesses at the tokens of one request. begun: tokens of its prompt; expected: see Lookup."""

    __slots__ = ("_begun", "_expected", "_resume", "assistant", "lookup")

    def __init__(self, begun: int, expected: Sequence[int] = ()) -> None:
        self._begun, self._expected = begun, expected
        self._resume = 0
        self.lookup: Lookup | None = None
        self.assistant: Any = None  # what the assistant keeps of the request

    def follow(self, tokens: list[int]) -> bool:
        """Takes the tokens of the request, to which new ones were added -> whether there may be guesses."""
        lookup = self.lookup
        if lookup is None:  # with the first new token, when nobody waits for the prompt any more
            lookup = self.lookup = Lookup(tokens[: self._begun], self._expected)
        for token in tokens[len(lookup) :]:
            lookup.see(token)
        return len(tokens) >= self._resume

    def hold(self, tokens: list[int]) -> None:
        """Stops guessing for a while: a pass with guesses failed, or lacked memory."""
        self._resume = len(tokens) + HOLD

    def close(self) -> None:
        """Drops what it holds."""
        self.lookup = self.assistant = None
