"""What a grammar decides in one generation: which tokens may be drawn next, and which follow without a draw."""

from __future__ import annotations

import copy
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pellucid.errors import GrammarError
from pellucid.text.grammar import Grammar

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Bound", "Decided", "Guesses"]


class Decided:
    """The tokens of a generation, some of which are decided without a draw.

    Tokens that must follow are always taken, however busy the model is: they define the answer, since the model might
    spell the same text with other tokens. The caller keeps the drawn tokens; everything here follows from them, so the
    next call repairs the state that an interrupted one leaves.

    words: the mask, one bit per token. ends: tokens that end the text when they are drawn. may_end: whether the
    vocabulary's own end tokens may be drawn where other tokens may be, too. scored: whether a token that must follow
    gets a log probability, which a pass computes.
    """

    def __init__(self, words: npt.NDArray[np.uint32], ends: Set[int], may_end: bool, scored: bool) -> None:
        self.words = words  # the mask of the next draw
        self.ids: list[int] = []  # all that is decided, without what ended the text
        self.complete = False  # nothing follows `ids`
        self.failure: GrammarError | None = None  # of the mask
        self._ends = ends
        self._may_end = may_end
        self._scored = scored
        self._moving = False

    def follow(self, drawn: list[Any]) -> None:
        """Takes the tokens drawn so far, (id, ...) each, and appends those that must follow, without log probabilities;
        if these are wanted, the passes append them instead. Raises GrammarError if the grammar is too complex."""
        if self._moving:  # interrupted
            self._again()
        self._moving = True
        while len(self.ids) < len(drawn) and not self.complete:
            token = drawn[len(self.ids)][0]
            if token in self._ends:
                break
            self._take(token)
        self._moving = False
        if not self._scored:
            while len(drawn) < len(self.ids):
                drawn.append((self.ids[len(drawn)], None, []))

    def at(self, n: int) -> bool:
        """Whether exactly n tokens are decided, and another is to be drawn."""
        return len(self.ids) == n and not self.complete and not self._moving

    def fork(self) -> Self:
        """A copy at the same place, with a mask of its own."""
        twin = copy.copy(self)
        twin.words, twin.ids = np.empty_like(self.words), list(self.ids)
        return twin

    def group(self, token: int) -> list[int]:
        """Takes a token -> it and those that must follow; [] if it may not be drawn here."""
        n = len(self.ids)
        try:
            self._take(token)
        except GrammarError:
            return []
        return self.ids[n:]

    def fill(self) -> None:
        """Writes the mask of the next draw. If it cannot be computed, it allows no token, and `failure` says why."""
        raise NotImplementedError

    def _again(self) -> None:
        """The state after `ids`, from the start."""
        raise NotImplementedError

    def _take(self, token: int) -> None:
        """Adds a token, and those that must follow."""
        raise NotImplementedError


class Guesses:
    """Guesses at the next draws of a generation, each with the tokens that must follow it. It holds no token that may
    not be drawn at its place, or that ends the text. most: tokens in all. ends: those that end the text when drawn.

    ids: all these tokens. decided: for each, whether it follows without a draw. masks: for each, the mask of the draw
    after it; None if no draw follows it.
    """

    def __init__(self, bound: Decided, most: int, ends: Set[int]) -> None:
        self._bound, self._most, self._ends = bound, most, ends
        self._twin = bound.fork()  # at the end of `ids`
        self._written: set[int] = set()  # places of `masks`
        self.ids: list[int] = []
        self.decided: list[bool] = []
        self.masks: list[npt.NDArray[np.uint32] | None] = []

    def add(self, token: int) -> list[int]:
        """Guesses that a token is drawn next -> it, and those that must follow; [] if it cannot be a guess, after which
        there can be no other."""
        group = self._twin.group(token)
        fits = len(self.ids) + len(group) <= self._most
        if not group or not fits or self._twin.complete or not self._ends.isdisjoint(group):
            self._most = 0
            return []
        self.ids += group
        self.decided += [False, *[True] * (len(group) - 1)]
        self.masks += [*[None] * (len(group) - 1), np.empty_like(self._bound.words)]
        return group

    def extend(self, tokens: Sequence[int]) -> None:
        """Guesses that these tokens come next, as far as they can follow one another."""
        at = 0
        while at < len(tokens):
            group = self.add(tokens[at])
            same = next((i for i, (a, b) in enumerate(zip(group, tokens[at:])) if a != b), len(group))
            at += same
            if same < len(group) or not group:  # the next of `tokens` cannot follow
                break

    def mask(self) -> npt.NDArray[np.uint32]:
        """Writes the mask of the draw after `ids` -> the mask."""
        self._twin.fill()
        if not self.ids:
            return self._twin.words
        words = self.masks[-1]
        assert words is not None
        words[:] = self._twin.words
        self._written.add(len(self.ids) - 1)
        return words

    def fill(self) -> None:
        """Writes the masks that are not yet written."""
        left = {place for place, words in enumerate(self.masks) if words is not None} - self._written
        if not left:
            return
        if left == {len(self.ids) - 1} and self._most:
            self.mask()
            return
        twin = self._bound.fork()
        for place, (id, decided, words) in enumerate(zip(self.ids, self.decided, self.masks, strict=True)):
            if not decided:
                twin.group(id)
            if words is not None and place in left:
                twin.fill()
                words[:] = twin.words


class Bound(Decided):
    """The tokens of a generation that a grammar binds. grammar: compiled."""

    def __init__(self, grammar: Grammar, ends: Set[int], may_end: bool, scored: bool) -> None:
        super().__init__(np.zeros(grammar.grammars.words, np.uint32), ends, may_end, scored)
        self.grammar = grammar
        self._matcher = grammar.matcher()
        self._go_on([])

    @property
    def warnings(self) -> tuple[str, ...]:
        """Keywords of a schema that are ignored."""
        return self.grammar.warnings

    def fork(self) -> Self:
        twin = super().fork()
        twin._matcher = self._matcher.fork()
        return twin

    def _again(self) -> None:
        self._matcher = self.grammar.matcher()
        self._matcher.advance(self.ids)
        self.complete = self._matcher.complete

    def _take(self, token: int) -> None:
        self._go_on([token])

    def _go_on(self, ids: list[int]) -> None:
        matcher = self._matcher
        matcher.advance(ids)
        while more := matcher.forced():
            matcher.advance(more)
            ids = ids + more
        self.ids += ids
        self.complete = matcher.complete

    def fill(self) -> None:
        try:
            self._matcher.mask(self.words, self._may_end)
        except GrammarError as error:
            self.failure = error
            self.words[:] = 0

    def blame(self, error: Exception) -> Exception:
        """The error to raise for a pass in which there was no token to draw."""
        if self.failure is None and type(error) is ValueError:
            text = "it, the penalties and logit_bias together leave no token to draw"
            return GrammarError(text, place=self.grammar.structure.kind)
        return self.failure or error
