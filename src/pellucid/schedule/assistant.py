"""Another model with the same vocabulary that guesses next tokens: it draws them one after another, with the sampler
and the random numbers of the draws that it guesses at."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid import _engine, weights
from pellucid.bound import Guesses
from pellucid.core import Core
from pellucid.errors import PellucidError, WrongType, WrongValue, one_line
from pellucid.schedule.caller import Work
from pellucid.schedule.draft import MOST, Odds
from pellucid.tokenizer import Tokenizer

__all__ = ["Assistant", "attach"]

CATCH_UP = 256  # tokens that it computes in order to guess; if it lacks more, it does not guess in this pass
AGAIN = 128  # tokens after which it is tried again if its guesses were poor


class _Kept:
    """What the assistant keeps of a request. Its sequence begins with `sure` tokens of the request; `more`: guesses
    that follow them there. guessed: those of the last pass, from the token `at` of the request on; decided: for each,
    whether it followed without a draw."""

    __slots__ = ("at", "decided", "guessed", "more", "odds", "sequence", "sure", "try_at")

    def __init__(self) -> None:
        self.sequence: Any = None
        self.sure = self.at = self.try_at = 0
        self.more: list[int] = []
        self.guessed: list[int] = []
        self.decided: list[bool] = []
        self.odds = Odds(0.7, 4)

    def drop(self) -> None:
        """Forgets the sequence, whatever is in it."""
        self.sequence, self.sure, self.more, self.guessed = None, 0, [], []

    def learn(self, tokens: Sequence[int]) -> None:
        """Compares the last guesses with the tokens that followed."""
        came = tokens[self.at : self.at + len(self.guessed)]
        if came:
            for guess, token, decided in zip(self.guessed, came, self.decided):
                if not decided:
                    self.odds.add(guess == token)
                if guess != token:
                    break
            self.guessed = []

    def sync(self, tokens: Sequence[int]) -> int:
        """Rewinds the sequence to tokens of the request -> how many of these it lacks."""
        n = self.sure
        for guess, token in zip(self.more, tokens[n:-1]):
            if guess != token:
                break
            n += 1
        n = min(n, len(tokens) - 1)
        if self.sequence.length > n:
            n = self.sequence.rewind(n)
        self.sure, self.more = self.sequence.length, []
        return len(tokens) - self.sure


class _Asked:
    """Guesses at the next tokens of a request, while they are drawn: `k` of them, or `most` tokens with those that must
    follow if a grammar binds them. words: size of the assistant's masks; it may have more tokens than the model."""

    __slots__ = ("_own", "bound", "ids", "k", "kept", "work")

    def __init__(self, work: Work, kept: _Kept, k: int, most: int, words: int) -> None:
        self.work, self.kept, self.k = work, kept, k
        self.ids: list[int] = []
        self.bound: Guesses | None = None
        self._own: npt.NDArray[np.uint32] | None = None  # a mask of as many tokens as the assistant has
        bound = work.job.bound
        if bound is not None:
            self.bound = work.job.guesses(most)
            self._own = np.zeros(words, np.uint32)

    def draw(self) -> Any:
        """The sampler of the next guess, which stands in for the request's."""
        sampler, n = self.work.job.sampler, len(self.ids)
        return (sampler, n) if self._own is None else (sampler, n, self._own)

    def fill(self) -> None:
        """Writes the mask of the next draw, if there is one."""
        if self.bound is not None and self._own is not None:
            words = self.bound.mask()[: len(self._own)]
            self._own[: len(words)] = words

    def add(self, token: int) -> bool:
        """Takes the drawn token -> whether it can be a guess."""
        job, before = self.work.job, len(self.ids)
        if self.bound is not None:
            self.ids += self.bound.add(token)
        elif len(job.verifiable([*self.ids, token])) > before:
            self.ids.append(token)
        return len(self.ids) > before

    def decided(self) -> list[bool]:
        return [False] * len(self.ids) if self.bound is None else self.bound.decided

    def more(self) -> bool:
        """Whether more guesses are wanted."""
        return self.decided().count(False) < self.k


class Assistant:
    """A model that guesses tokens for another. open: returns its engine, or raises. context: the most tokens of its
    sequences; vocab: tokens of the model that it helps."""

    def __init__(self, open: Callable[[], Any], context: int, vocab: int) -> None:
        self._open = open
        self._context = context
        self._vocab = vocab
        self._step = 0.0  # seconds of a pass in which it draws one token of each request

    @staticmethod
    def _of(work: Work) -> _Kept:
        kept: _Kept | None = work.drafts.assistant  # type: ignore[union-attr]
        if kept is None:
            kept = work.drafts.assistant = _Kept()  # type: ignore[union-attr]
        kept.learn(work.job.tokens)
        return kept

    def hits(self, work: Work, k: int) -> float:
        """How many of k guesses are right before one is wrong, on average."""
        kept = self._of(work)
        if not self._fits(work, kept):
            return 0.0
        p = kept.odds.share
        return sum(p**n for n in range(1, k + 1))

    def seconds(self, k: int, step: float) -> float:
        """Seconds that k guesses take. step: seconds of a pass of the model that it helps."""
        return k * (self._step or step / 8)

    def tries(self, work: Work) -> bool:
        """Whether to measure again what its guesses are worth."""
        kept = self._of(work)
        return self._fits(work, kept) and len(work.job.tokens) >= kept.try_at

    def _fits(self, work: Work, kept: _Kept) -> bool:
        return len(work.job.tokens) + MOST <= self._context and kept.try_at >= 0

    def guess(
        self, asked: list[tuple[Work, int, int]], cancel: Callable[[], bool] | None
    ) -> list[tuple[list[int], Guesses | None]]:
        """Guesses for several requests. asked: each request, how many guesses it wants, and how many tokens these may
        be with those that must follow -> the guesses, and their masks if a grammar binds them. Raises Cancelled."""
        none: list[tuple[list[int], Guesses | None]] = [([], None) for _ in asked]
        try:
            engine = self._open()
        except PellucidError:  # it was closed
            return none
        going: list[_Asked] = []
        room = engine.max_rows
        out = list(none)
        for i, (work, k, most) in enumerate(asked):
            kept, tokens = self._of(work), work.job.tokens
            if not self._fits(work, kept):
                continue
            kept.try_at = len(tokens) + AGAIN
            try:
                if kept.sequence is None:
                    kept.sequence = _engine.Sequence(engine)
                lacking = kept.sync(tokens)
                if max(tokens[kept.sure :]) >= engine.vocab:  # beyond the tokens of text, vocabularies may differ
                    self._give_up(kept)
                    continue
                if lacking > min(CATCH_UP, room):
                    part = tokens[kept.sure : min(kept.sure + CATCH_UP, len(tokens) - 1)]
                    engine.forward([(kept.sequence, part, len(part))], cancel=cancel)
                    kept.sure = kept.sequence.length
                    continue
            except PellucidError:  # no memory, or numbers that are not finite
                self._give_up(kept)
                continue
            one = _Asked(work, kept, k, most, (engine.vocab + 31) // 32)
            if one.bound is None and work.job.bound is not None:  # it is not at the end of its tokens
                continue
            room -= lacking
            going.append(one)
            out[i] = one.ids, one.bound
        while going:
            going = self._draw(engine, going, cancel)
        return out

    def _draw(self, engine: Any, going: list[_Asked], cancel: Callable[[], bool] | None) -> list[_Asked]:
        """Guesses one more token for each request -> those that want more."""
        parts = []
        for one in going:
            kept, tokens = one.kept, one.work.job.tokens
            held = kept.sequence.length - len(kept.more)  # of the request's tokens
            rows = [*tokens[held:], *one.ids[len(kept.more) :]]
            parts.append((kept.sequence, rows, len(rows) - 1))
            one.work.job.guess(one.ids)
        samplers, bound = [one.draw() for one in going], [one for one in going if one.bound is not None]
        masks = partial(_fill, bound) if bound else None
        start, alone = time.perf_counter(), all(len(rows) == 1 for _, rows, _ in parts)
        failed: dict[int, Exception] = {}
        try:
            found = engine.forward(parts, samplers=samplers, cancel=cancel, failed=failed, masks=masks)
        except PellucidError:
            for one in going:
                self._give_up(one.kept)
            return []
        if alone:
            seconds = time.perf_counter() - start
            self._step += ((seconds - self._step) / 4) if self._step else seconds
        left = []
        for place, (one, result) in enumerate(zip(going, found, strict=True)):
            kept = one.kept
            if place in failed or result is None:
                self._give_up(kept)
                continue
            kept.sure, kept.more = len(one.work.job.tokens), list(one.ids)
            if result[0] < self._vocab and one.add(result[0]):
                kept.at, kept.guessed, kept.decided = kept.sure, list(one.ids), list(one.decided())
                if one.more():
                    left.append(one)
        return left

    def _give_up(self, kept: _Kept) -> None:
        kept.drop()
        kept.try_at = -1


def _fill(bound: list[_Asked]) -> None:
    for one in bound:
        one.fill()


def attach(core: Core, draft: Any, **options: Any) -> None:
    """Makes a draft model guess tokens for `core`: a loaded one, or one to load with these options. Closes `core` if
    that fails. Raises what loading raises; WrongType or WrongValue naming `draft`."""
    try:
        if isinstance(draft, (str, os.PathLike)):
            core.draft = Core.load(weights.locate("draft", draft, options.get("progress")), **options)
            core.owned.append(core.draft)
        elif isinstance(getattr(draft, "core", None), Core):
            core.draft = draft.core
        else:
            raise WrongType("draft", f" must be a model, its path or its name, not {type(draft).__name__}")
        _check(core, core.draft)
    except BaseException:
        core.close()
        raise


def _check(core: Core, draft: Core) -> None:
    draft.decoder()
    if draft.engine.recurs:
        raise WrongValue("draft", ": expected a model without recurrent layers, which cannot be rewound to any token")
    why = _difference(core.tokenizer, draft.tokenizer)
    if not why and core.tokenizer is None and core.config.vocab != draft.config.vocab:
        why = f"it has {draft.config.vocab} tokens, not {core.config.vocab}"
    if why:
        raise WrongValue("draft", f": expected a model with the same vocabulary; {why}")


def _difference(mine: Tokenizer | None, other: Tokenizer | None) -> str:
    """How the tokens of another tokenizer differ; "": they are the same."""
    if mine is None or other is None:
        return "" if mine is other else f"{'it' if other is None else 'this one'} has no tokenizer"
    if mine.vocab_size != other.vocab_size:
        return f"it has {other.vocab_size} tokens, not {mine.vocab_size}"
    for id in range(mine.vocab_size):
        own, found = mine.spelling(id), other.spelling(id)
        if own != found:
            return f"its token {id} is {one_line(repr(found), 40)}, not {one_line(repr(own), 40)}"
    return ""
