"""One forward pass of several requests."""

from __future__ import annotations

from typing import Any

from pellucid import _engine
from pellucid.schedule.caller import Caller, Work

__all__ = ["Batch"]


class Batch:
    """A pass: its requests, and what came out of it."""

    __slots__ = (
        "bounds",
        "callers",
        "deep",
        "entries",
        "failed",
        "found",
        "guesses",
        "parts",
        "rows",
        "samplers",
        "sole",
        "wanted",
    )

    def __init__(self) -> None:
        # (request, how many results it had, where the pass gives some; else -1)
        self.entries: list[tuple[Work, int]] = []
        self.parts: list[tuple[Any, list[int], int]] = []
        self.wanted: list[int] = []  # results of each
        self.samplers: list[Any] = []
        self.guesses: dict[int, tuple[list[int], int]] = {}  # by place: guessed tokens, the length before the pass
        self.bounds: list[Any] = []  # whose masks the pass waits for
        self.callers: set[Caller] = set()
        self.rows = self.deep = 0  # deep: sum of rows x depth
        self.sole = False  # nothing but its only request held pages when it was made
        self.found: list[tuple[int, float | None, list[tuple[int, float]]] | None] = []
        self.failed: dict[int, Exception] = {}

    def all_stopped(self) -> bool:
        return all(work.gone or work.caller.cancelled for work, _ in self.entries)

    def fill_masks(self) -> None:
        """Writes the masks of those that a grammar binds; called while the pass runs."""
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

    def guess(self, i: int, ids: list[int]) -> None:
        """Adds tokens that are guessed to follow the last row of the request in place i; each draws one, too."""
        sequence, part, first = self.parts[i]
        job = self.entries[i][0].job
        job.guess(ids)
        self.parts[i] = (sequence, [*part, *ids], first)
        self.guesses[i] = (ids, sequence.length)
        at = sum(self.wanted[: i + 1]) - 1
        self.samplers[at : at + 1] = [(job.sampler, n) for n in range(len(ids) + 1)]
        self.wanted[i] += len(ids)
        self.rows += len(ids)
        self.deep += len(ids) * sequence.length
