"""What a grammar decides of one generation: what may be drawn next, and which tokens follow without a draw."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid.errors import GrammarError
from pellucid.text.grammar import Grammar

__all__ = ["Bound", "Decided"]


class Decided:
    """The tokens of a generation of which some are decided without a draw.

    The tokens that must follow are taken at once, however busy the model is: they define the answer, for the model
    alone might spell the same text in others. What is drawn is kept by who draws; all else here follows from it, so
    that an interrupted call is made up for by the next.

    words: of the mask, a bit for each token. ends: tokens that end the text when they are drawn. may_end: whether those
    that the vocabulary has for it may be drawn while others may. scored: whether a token that must follow gets a log
    probability, which a pass computes.
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
        """Takes what was drawn, (id, ...) each, and adds to it what must follow, without log probabilities; where they
        are wanted, the passes add it. Raises GrammarError where the grammar is too complex."""
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

    def _again(self) -> None:
        """The state after `ids`, from the start."""
        raise NotImplementedError

    def _take(self, token: int) -> None:
        """Adds a token, and those that must follow."""
        raise NotImplementedError


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

    def _again(self) -> None:
        self._matcher = self.grammar.matcher()
        self._matcher.advance(self.ids)
        self.complete = self._matcher.complete

    def _take(self, token: int) -> None:
        self._go_on([token])

    def _go_on(self, ids: list[int]) -> None:
        matcher = self._matcher
        matcher.advance(ids)
        while not matcher.complete and (more := matcher.forced()):
            matcher.advance(more)
            ids = ids + more
        self.ids += ids
        self.complete = matcher.complete

    def fill(self) -> None:
        """Writes the mask of the next draw. Where it cannot be computed, it allows nothing, and `failure` says why."""
        try:
            self._matcher.mask(self.words, self._may_end)
        except GrammarError as error:
            self.failure = error
            self.words[:] = 0

    def blame(self, error: Exception) -> Exception:
        """The error of a pass in which this had no token to draw."""
        if self.failure is None and type(error) is ValueError:
            text = "it, the penalties and logit_bias together leave no token to draw"
            return GrammarError(text, place=self.grammar.structure.kind)
        return self.failure or error
