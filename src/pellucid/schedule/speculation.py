"""Which passes verify guesses at further tokens, and how many.

The rows of such a pass are a request's last token and k guesses; each draws a token from its own logits with its own
random number. Draws count as long as the guess before each was what was drawn there; the sequence then goes back to
these. A row depends on the tokens before it alone, so every draw that counts is the one that would have been made
without guesses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pellucid.schedule.assistant import Assistant
from pellucid.schedule.batch import Batch
from pellucid.schedule.caller import Work
from pellucid.schedule.cost import Cost
from pellucid.schedule.draft import MOST

__all__ = ["Speculation"]

NUMBERS = (2, 4, 8)  # guesses of a pass
BUSY = 8  # requests that decode: their rows use the machine without guesses
GAIN = 1.05  # predicted tokens in the same time, for which it is worth to guess


class Speculation:
    """How an engine's passes are filled with guesses. cost: seconds of its passes. assistant: another model that
    guesses, where there is one."""

    def __init__(self, cost: Cost, assistant: Assistant | None = None) -> None:
        self._cost = cost
        self.assistant = assistant
        self.drafted = self.accepted = 0  # guesses that passes verified, and those that were right

    @staticmethod
    def verified(batch: Batch, i: int, drawn: list[Any]) -> list[Any]:
        """The draws that count of the request in place i, whose sequence goes back to them. Of a pass that failed,
        none."""
        guessed, length = batch.guesses[i]
        n = 1 if drawn and drawn[0] is not None else 0
        while 0 < n < len(drawn) and drawn[n - 1][0] == guessed[n - 1]:
            n += 1
        sequence = batch.entries[i][0].job.sequence
        if sequence.length > length + n:
            sequence.rewind(length + n)
        return drawn[:n]

    def count(self, work: Work, guesses: int, right: int) -> None:
        """Notes how many guesses of a request were right, once their draws are its results."""
        work.job.verified(guesses, right)
        work.job.advance()  # so that what its sequence holds is known
        self.drafted += guesses
        self.accepted += right

    def wanted(self, work: Work) -> bool:
        """Whether a pass of this request alone should verify guesses."""
        drafts, tokens = work.drafts, work.job.tokens
        if drafts is None or not drafts.follow(tokens):
            return False
        if not drafts.lookup and self.assistant is None:
            return False
        return bool(self._choose(work, _most(work), 1, 1, len(tokens))[0])

    def add(self, batch: Batch, room: int, cancel: Callable[[], bool] | None) -> None:
        """Adds guesses to a pass of up to `room` rows. Raises what the assistant's passes raise."""
        decoding = [i for i, (_, before) in enumerate(batch.entries) if before > 0]
        if len(decoding) >= BUSY or not any(batch.entries[i][0].drafts is not None for i in decoding):
            return
        of_caller: dict[Any, int] = {}
        for (work, _), (_, part, _) in zip(batch.entries, batch.parts, strict=True):
            of_caller[work.caller] = of_caller.get(work.caller, 0) + len(part)
        tokens = float(len(decoding))
        asked = []  # (place, guesses) of the assistant
        rows, deep = batch.rows, batch.deep
        for i in decoding:
            work = batch.entries[i][0]
            if work.drafts is None or len(batch.parts[i][1]) != 1 or not work.drafts.follow(work.job.tokens):
                continue
            most = min(_most(work), work.caller.rows - of_caller[work.caller], room - rows)
            k, by_assistant, hits = self._choose(work, most, tokens, rows, deep)
            if not k:
                continue
            if by_assistant:
                asked.append((i, k))
            else:
                k = self._put(batch, i, work.drafts.lookup.guess(k))  # type: ignore[union-attr]
            tokens += hits
            rows += k
            deep += k * len(work.job.tokens)
            of_caller[work.caller] += k
        if asked and self.assistant is not None:
            found = self.assistant.guess([(batch.entries[i][0], k) for i, k in asked], cancel)
            for (i, _), ids in zip(asked, found, strict=True):
                self._put(batch, i, ids)

    @staticmethod
    def _put(batch: Batch, i: int, ids: list[int]) -> int:
        ids = batch.entries[i][0].job.verifiable(ids)
        if ids:
            batch.guess(i, ids)
        return len(ids)

    def _choose(self, work: Work, most: int, tokens: float, rows: int, deep: int) -> tuple[int, bool, float]:
        """(how many guesses, whether the assistant makes them, how many of them are right on average) of a request in a
        pass that gives so many tokens without them."""
        assert work.drafts is not None
        before, depth = self._cost.of(rows, deep), len(work.job.tokens)
        best, gain = (0, False, 0.0), GAIN
        lookup = work.drafts.lookup
        for k in NUMBERS:
            if k > most:
                break
            seconds = self._cost.of(rows + k, deep + k * depth)
            if lookup:
                hits = lookup.hits(k)
                found = (tokens + hits) / tokens * before / seconds
                if found > gain:
                    best, gain = (k, False, hits), found
            if self.assistant is not None:
                hits = self.assistant.hits(work, k)
                found = (tokens + hits) / tokens * before / (seconds + self.assistant.seconds(k, before))
                if found > gain:
                    best, gain = (k, True, hits), found
        if not best[0] and self.assistant is not None and most >= NUMBERS[0] and self.assistant.tries(work):
            return NUMBERS[0], True, 0.0
        return best


def _most(work: Work) -> int:
    """Guesses that a request may have in a pass: its reader must not lag behind more than without."""
    job = work.job
    lag = len(job.drawn) - job.taken + work.unread
    return int(min(MOST, work.ahead - lag - 1))
