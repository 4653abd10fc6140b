"""Which passes verify guesses at further tokens, and how many.

The rows of such a pass are a request's last token and k guesses; each draws a token from its own logits with its own
random number. A draw counts as long as every guess before it was right; the sequence is then rewound to the draws that
count. A row depends only on the tokens before it, so every draw that counts is the one that would have been made
without guesses.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pellucid.errors import GrammarError
from pellucid.schedule.assistant import Assistant
from pellucid.schedule.batch import Batch, Guessed
from pellucid.schedule.caller import Work
from pellucid.schedule.cost import Cost
from pellucid.schedule.draft import MOST

__all__ = ["Speculation"]

NUMBERS = (2, 4, 8)  # guesses of a pass
BUSY = 8  # requests that decode: their rows use the machine without guesses
GAIN = 1.05  # predicted tokens in the same time, relative to no guesses, from which guessing is worth it


class Speculation:
    """Fills an engine's passes with guesses. cost: seconds of its passes. assistant: another model that guesses, if
    there is one."""

    def __init__(self, cost: Cost, assistant: Assistant | None = None) -> None:
        self._cost = cost
        self.assistant = assistant
        self.drafted = self.accepted = 0  # guesses that passes verified, and those that were right

    @staticmethod
    def verified(batch: Batch, i: int, drawn: list[Any]) -> list[Any]:
        """The results that count for the request in place i, whose sequence is rewound to them; none if the pass
        failed."""
        one, work = batch.guesses[i], batch.entries[i][0]
        job = work.job
        lead, sequence = one.lead, job.sequence
        n = 1 if drawn else 0
        while 0 < n < len(drawn) - lead and drawn[lead + n - 1][0] == one.ids[n - 1]:
            n += 1
        right = one.length + (one.rows - 1 + n if n else 0)
        if sequence.length > right:
            job.computed -= right - sequence.rewind(right)  # recurrent layers go back further, and recompute the rest
        results = drawn[: lead + n] if n else []
        if job.bound is None or job.options.logprobs:
            return results
        known = [False] * lead + [*one.decided, False]  # what must follow has no log probability of its own
        return [(result[0], None, []) if must else result for result, must in zip(results, known)]

    def count(self, work: Work, guessed: Guessed, results: int) -> None:
        """Notes how many guesses of a request were right, once the results that count are its own."""
        guesses = guessed.decided.count(False)
        right = guessed.decided[: results - guessed.lead - 1].count(False)
        work.job.verified(guesses, right)
        with suppress(GrammarError):  # the scheduler meets it again, and reports it
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

    def rests(self, batch: Batch) -> bool:
        """Whether it is certain that a pass in which every request decodes has no guesses."""
        return len(batch.entries) >= BUSY or all(work.drafts is None for work, _ in batch.entries)

    def add(self, batch: Batch, room: int, cancel: Callable[[], bool] | None) -> None:
        """Adds guesses to a pass of up to `room` rows. Raises what the assistant's passes raise."""
        decoding = [i for i, (_, before) in enumerate(batch.entries) if before > 0]
        if len(decoding) >= BUSY or not any(batch.entries[i][0].drafts is not None for i in decoding):
            return
        of_caller: dict[Any, int] = {}
        for (work, _), (_, part, _) in zip(batch.entries, batch.parts, strict=True):
            of_caller[work.caller] = of_caller.get(work.caller, 0) + len(part)
        tokens = float(len(decoding))
        asked = []  # (place, guesses, tokens with those that must follow) wanted from the assistant
        rows, deep, held = batch.rows, batch.deep, batch.rows  # held: rows that may be used
        for i in decoding:
            work = batch.entries[i][0]
            if work.drafts is None or not _may_follow(batch, i) or not work.drafts.follow(work.job.tokens):
                continue
            most = min(_most(work), work.caller.rows - of_caller[work.caller], room - held)
            sequence, part, _ = batch.parts[i]
            most = min(most, sequence.rows(len(part) + max(most, 0)) - len(part))  # where layers recur
            k, by_assistant, hits = self._choose(work, most, tokens, rows, deep)
            if not k:
                continue
            if by_assistant:
                used = k if work.job.bound is None else most
                asked.append((i, k, used))
            else:
                used = k = self._look_up(batch, i, k, most)
            tokens += hits
            rows += k
            deep += k * len(work.job.tokens)
            held += used
            of_caller[work.caller] += used
        if asked and self.assistant is not None:
            found = self.assistant.guess([(batch.entries[i][0], k, most) for i, k, most in asked], cancel)
            for (i, _, _), (ids, bound) in zip(asked, found, strict=True):
                if ids:
                    batch.guess(i, ids, bound)

    @staticmethod
    def _look_up(batch: Batch, i: int, k: int, most: int) -> int:
        """Adds k guesses to the request in place i, and what must follow them, at most `most` tokens -> how many."""
        work = batch.entries[i][0]
        assert work.drafts is not None and work.drafts.lookup is not None
        ids, bound = work.drafts.lookup.guess(k), None
        if work.job.bound is None:
            ids = work.job.verifiable(ids)
        else:
            bound = work.job.guesses(most)
            if bound is not None:
                bound.extend(ids)
            ids = [] if bound is None else bound.ids
        if ids:
            batch.guess(i, ids, bound)
        return len(ids)

    def _choose(self, work: Work, most: int, tokens: float, rows: int, deep: int) -> tuple[int, bool, float]:
        """(how many guesses, whether the assistant makes them, how many of them are right on average) of a request in a
        pass that gives so many tokens without them."""
        assert work.drafts is not None
        before, depth = self._cost.of(rows, deep), len(work.job.tokens)
        assistant = self.assistant
        recurs = work.job.sequence.engine.recurs
        best, gain = (0, False, 0.0), GAIN
        lookup = work.drafts.lookup
        for k in NUMBERS:
            if k > most:
                break
            seconds = self._cost.at_best(rows + k, deep + k * depth, rows, before)
            if lookup:
                hits = lookup.hits(k)
                if recurs:  # if one is wrong, those that were right are computed once more
                    seconds += max(self._cost.of(rows + int(hits) + 1, deep) - before, 0.0)
                found = (tokens + hits) / tokens * before / seconds
                if found > gain:
                    best, gain = (k, False, hits), found
            if assistant is not None:
                hits = assistant.hits(work, k)
                found = (tokens + hits) / tokens * before / (seconds + assistant.seconds(k, before))
                if found > gain:
                    best, gain = (k, True, hits), found
        if not best[0] and assistant is not None and most >= NUMBERS[0] and assistant.tries(work):
            return NUMBERS[0], True, 0.0
        return best


def _most(work: Work) -> int:
    """Guesses that a request may have in a pass: its reader must not lag further behind than without them."""
    return int(min(MOST, work.ahead - work.lag() - 1))


def _may_follow(batch: Batch, i: int) -> bool:
    """Whether guesses may follow the rows of the request in place i: all new tokens, up to its last one."""
    sequence, part, _ = batch.parts[i]
    job = batch.entries[i][0].job
    return bool(job.fresh(len(part)) and sequence.length + len(part) == len(job.tokens))
