"""One forward pass of several requests."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from pellucid import _engine
from pellucid.bound import Guesses
from pellucid.schedule.caller import Caller, Work

__all__ = ["Batch", "Guessed"]


class Guessed(NamedTuple):
    """Tokens that are guessed to follow a request's rows in a pass. decided: for each, whether it must follow the one
    before it. length: of the sequence before the pass; rows: of the request without guesses; lead: results of these
    rows except the last."""

    ids: list[int]
    decided: list[bool]
    length: int
    rows: int
    lead: int


class Batch:
    """A pass, or several in immediate succession: its requests and results."""

    __slots__ = (
        "bounds",
        "callers",
        "deep",
        "done",
        "entries",
        "failed",
        "found",
        "guesses",
        "parts",
        "passes",
        "rows",
        "samplers",
        "seconds",
        "sole",
        "wanted",
    )

    def __init__(self) -> None:
        # (request, how many results it had if the pass gives it some; else -1)
        self.entries: list[tuple[Work, int]] = []
        self.parts: list[tuple[Any, list[int], int]] = []
        self.wanted: list[int] = []  # results of each
        self.samplers: list[Any] = []
        self.guesses: dict[int, Guessed] = {}  # by place in `entries`
        self.bounds: list[Any] = []  # whose masks the pass waits for
        self.callers: set[Caller] = set()
        self.rows = self.deep = 0  # deep: sum of rows x depth
        self.passes, self.done, self.seconds = 1, 0, 0.0  # passes allowed, those done, and the time they took
        self.sole = False  # nothing but its only request held pages when it was made
        self.found: list[tuple[int, float | None, list[tuple[int, float]]] | None] = []
        self.failed: dict[int, Exception] = {}

    @classmethod
    def decoding(cls, works: list[Work]) -> Batch | None:
        """The pass of requests that had one row each in the last pass, and draw a token from each; None if one of them
        wants something else, or nothing. Like `add`, in fewer steps."""
        batch, deep = cls(), 0
        parts, entries, samplers = batch.parts, batch.entries, batch.samplers
        for work in works:
            job = work.job
            drawn = len(job.drawn)
            if work.gone or work.failure is not None or work.told < drawn or work.lag() >= work.ahead:
                return None
            if not job.advance():
                return None
            sequence, tokens = job.sequence, job.tokens
            n = sequence.length
            if n != len(tokens) - 1:
                return None
            parts.append((sequence, tokens[n:], 0))
            entries.append((work, drawn))
            deep += n
        for work in works:
            job = work.job
            job.before_pass()
            samplers.append(job.sampler)
            batch.callers.add(work.caller)
        batch.wanted = [1] * len(works)
        batch.rows, batch.deep = len(works), deep
        return batch

    def steady(self) -> list[Work]:
        """Its requests, if they had one row each and `decoding` may make the next pass; else []."""
        n = len(self.entries)
        if n < 2 or self.rows != n or self.guesses or self.wanted != [1] * n:
            return []
        works = [work for work, _ in self.entries]
        free = all(work.deadline is None and not work.cuts and work.job.bound is None for work in works)
        return works if free and all(work.caller.rows >= n for work in works) else []

    def follow(self, most: int) -> None:
        """Lets more passes follow immediately, `most` in all; only for a batch of `decoding` that has no guesses."""
        self.passes = min(work.job.passes(most) for work, _ in self.entries)

    def run(self, engine: Any, busy: Callable[[], object], **options: Any) -> None:
        """Runs its passes. busy: called between passes; if true, no more follow. Raises as `Engine.forward`."""
        n, ends = len(self.parts), [work.job.ends for work, _ in self.entries] if self.passes > 1 else []
        start = time.perf_counter()
        while True:
            engine.forward(self.parts, samplers=self.samplers, failed=self.failed, found=self.found, **options)
            self.done += 1
            self.seconds = time.perf_counter() - start
            if self.done >= self.passes or self.failed or busy():
                return
            new = [result[0] for result in self.found[-n:] if result is not None]
            if any(id in end for id, end in zip(new, ends, strict=True)):
                return
            self.parts = [(sequence, [id], 0) for (sequence, _, _), id in zip(self.parts, new, strict=True)]

    def results(self) -> list[list[Any]]:
        """The results of each request from all passes; none from a pass in which it failed."""
        found, at, out = self.found, 0, []
        for i, wanted in enumerate(self.wanted):
            mine = found[i :: len(self.wanted)] if self.passes > 1 else found[at : at + wanted]
            at += wanted
            out.append([one for one in mine if one is not None])
        return out

    def all_stopped(self) -> bool:
        return all(work.gone or work.caller.cancelled for work, _ in self.entries)

    def fill_masks(self) -> None:
        """Writes the masks of the requests that a grammar binds; called while the pass runs."""
        for bound in self.bounds:
            bound.fill()

    def add(self, work: Work, rows: int) -> None:
        """Adds a request's next rows."""
        job = work.job
        sequence, tokens = job.sequence, job.tokens
        n = sequence.length
        part = tokens[n : n + rows]
        first = min(job.begun + len(job.drawn) - 1 - n, rows)  # the first row that gives a result
        self.parts.append((sequence, part, first))
        self.wanted.append(rows - first)
        self.entries.append((work, len(job.drawn) if first < rows else -1))
        for token in tokens[n + first + 1 : n + rows + 1]:  # decided without a draw
            self.samplers.append(_engine.Known(token, job.options.logprobs))
        if n + rows == len(tokens):
            job.before_pass()
            self.samplers.append(job.sampler)
            if job.bound is not None:
                self.bounds.append(job.bound)
        work.holds = True
        self.callers.add(work.caller)
        self.rows += rows
        self.deep += rows * n

    def guess(self, i: int, ids: list[int], bound: Guesses | None = None) -> None:
        """Adds tokens that are guessed to follow the last row of the request in place i; each draws one, too. bound:
        the same guesses with their masks, if a grammar binds the request."""
        sequence, part, first = self.parts[i]
        job = self.entries[i][0].job
        job.guess(ids)
        self.parts[i] = (sequence, [*part, *ids], first)
        decided = [False] * len(ids) if bound is None else bound.decided
        self.guesses[i] = Guessed(ids, decided, sequence.length, len(part), self.wanted[i] - 1)
        at = sum(self.wanted[: i + 1]) - 1
        draws: list[Any] = [(job.sampler, n) for n in range(len(ids) + 1)]
        if bound is not None:
            draws[1:] = [(job.sampler, n, mask) for n, mask in enumerate(bound.masks, 1)]
            for n, id in enumerate(ids):
                if decided[n]:
                    draws[n] = _engine.Known(id, job.options.logprobs or -1)
            self.bounds.append(bound)
        self.samplers[at : at + 1] = draws
        self.wanted[i] += len(ids)
        self.rows += len(ids)
        self.deep += len(ids) * sequence.length
