"""Another model of the same vocabulary that guesses next tokens: it draws them one after another, with the sampler and
the random numbers of the draws that they are guesses at."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from pellucid import _engine
from pellucid.core import Core
from pellucid.errors import PellucidError, WrongType, WrongValue, one_line
from pellucid.schedule.caller import Work
from pellucid.schedule.draft import MOST, Odds
from pellucid.tokenizer import Tokenizer

__all__ = ["Assistant", "attach"]

CATCH_UP = 256  # tokens that it computes beside guessing; where it lacks more, it does not guess in this pass
AGAIN = 128  # tokens after which it is tried again where its guesses were poor


class _Kept:
    """What the assistant keeps of a request. Its sequence begins with `sure` tokens of the request; `more`: guesses
    that follow them there. guessed: of the last pass, from the token `at` of the request on."""

    __slots__ = ("at", "guessed", "more", "odds", "sequence", "sure", "try_at")

    def __init__(self) -> None:
        self.sequence: Any = None
        self.sure = self.at = self.try_at = 0
        self.more: list[int] = []
        self.guessed: list[int] = []
        self.odds = Odds(0.7, 4)

    def drop(self) -> None:
        """Forgets the sequence, whatever is in it."""
        self.sequence, self.sure, self.more, self.guessed = None, 0, [], []

    def learn(self, tokens: Sequence[int]) -> None:
        """Compares the last guesses with the tokens that came."""
        came = tokens[self.at : self.at + len(self.guessed)]
        if came:
            for guess, token in zip(self.guessed, came):
                self.odds.add(guess == token)
                if guess != token:
                    break
            self.guessed = []

    def sync(self, tokens: Sequence[int]) -> int:
        """Takes the sequence back to tokens of the request -> how many of these it lacks."""
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


class Assistant:
    """open: gives its engine, or raises. context: the most tokens of a sequence of it; vocab: tokens of the model that
    it helps."""

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
        """What k guesses take. step: seconds of a pass of the model that it helps."""
        return k * (self._step or step / 8)

    def tries(self, work: Work) -> bool:
        """Whether to find out anew what its guesses are worth."""
        kept = self._of(work)
        return self._fits(work, kept) and len(work.job.tokens) >= kept.try_at

    def _fits(self, work: Work, kept: _Kept) -> bool:
        return len(work.job.tokens) + MOST <= self._context and kept.try_at >= 0

    def guess(self, asked: list[tuple[Work, int]], cancel: Callable[[], bool] | None) -> list[list[int]]:
        """asked: requests, and how many guesses each of them wants -> the guesses. Raises Cancelled."""
        out: list[list[int]] = [[] for _ in asked]
        try:
            engine = self._open()
        except PellucidError:  # it was closed
            return out
        going = []
        room = engine.max_rows
        for i, (work, k) in enumerate(asked):
            kept, tokens = self._of(work), work.job.tokens
            if not self._fits(work, kept):
                continue
            kept.try_at = len(tokens) + AGAIN
            try:
                if kept.sequence is None:
                    kept.sequence = _engine.Sequence(engine)
                lacking = kept.sync(tokens)
                if lacking > min(CATCH_UP, room):
                    part = tokens[kept.sure : min(kept.sure + CATCH_UP, len(tokens) - 1)]
                    engine.forward([(kept.sequence, part, len(part))], cancel=cancel)
                    kept.sure = kept.sequence.length
                    continue
            except PellucidError:  # no memory, or numbers that are not finite
                self._give_up(kept)
                continue
            room -= lacking
            going.append((i, work, k, kept))
        while going:
            going = self._draw(engine, going, out, cancel)
        return out

    def _draw(
        self, engine: Any, going: list[Any], out: list[list[int]], cancel: Callable[[], bool] | None
    ) -> list[Any]:
        """Guesses one more token of each request -> those that go on."""
        parts, samplers = [], []
        for i, work, _, kept in going:
            held = kept.sequence.length - len(kept.more)  # of the request's tokens
            rows = [*work.job.tokens[held:], *out[i][len(kept.more) :]]
            parts.append((kept.sequence, rows, len(rows) - 1))
            work.job.guess(out[i])
            samplers.append((work.job.sampler, len(out[i])))
        start, alone = time.perf_counter(), all(len(rows) == 1 for _, rows, _ in parts)
        failed: dict[int, Exception] = {}
        try:
            found = engine.forward(parts, samplers=samplers, cancel=cancel, failed=failed)
        except PellucidError:
            for _, _, _, kept in going:
                self._give_up(kept)
            return []
        if alone:
            seconds = time.perf_counter() - start
            self._step += ((seconds - self._step) / 4) if self._step else seconds
        left = []
        for place, (one, result) in enumerate(zip(going, found, strict=True)):
            i, work, k, kept = one
            if place in failed or result is None:
                self._give_up(kept)
                continue
            tokens = work.job.tokens
            kept.sure, kept.more = len(tokens), list(out[i])
            ids = [*out[i], result[0]]
            if result[0] < self._vocab and len(work.job.verifiable(ids)) == len(ids):
                out[i].append(result[0])
                kept.at, kept.guessed = len(tokens), list(out[i])
                if len(out[i]) < k:
                    left.append(one)
        return left

    def _give_up(self, kept: _Kept) -> None:
        kept.drop()
        kept.try_at = -1


def attach(core: Core, draft: Any, **options: Any) -> None:
    """Makes a model guess tokens of another: a loaded one, or one to load with these options. Closes `core` where that
    fails. Raises what loading raises; WrongType or WrongValue naming `draft`."""
    try:
        if isinstance(draft, (str, os.PathLike)):
            core.draft = Core.load(draft, **options)
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
        raise WrongValue("draft", ": expected a model without recurrent layers, which cannot go back to any token")
    why = _difference(core.tokenizer, draft.tokenizer)
    if not why and core.tokenizer is None and core.config.vocab != draft.config.vocab:
        why = f"it has {draft.config.vocab} tokens, not {core.config.vocab}"
    if why:
        raise WrongValue("draft", f": expected a model with the same vocabulary; {why}")


def _difference(mine: Tokenizer | None, other: Tokenizer | None) -> str:
    """How the tokens of another differ; "": they are the same."""
    if mine is None or other is None:
        return "" if mine is other else f"{'it' if other is None else 'this one'} has no tokenizer"
    if mine.vocab_size != other.vocab_size:
        return f"it has {other.vocab_size} tokens, not {mine.vocab_size}"
    for id in range(mine.vocab_size):
        own, found = mine.spelling(id), other.spelling(id)
        if own != found:
            return f"its token {id} is {one_line(repr(found), 40)}, not {one_line(repr(own), 40)}"
    return ""
