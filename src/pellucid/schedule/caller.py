"""A caller that waits for passes, in one thread at a time, and its requests."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any, Protocol

from pellucid.schedule.draft import Drafts
from pellucid.schedule.locks import Signal

__all__ = ["AHEAD", "Caller", "Shared", "Task", "Work"]

AHEAD = 32  # tokens that a request may be ahead of its reader

_numbers = count(1)


class Task(Protocol):
    """The part of a request that the scheduler runs: ``generation.Job``."""

    sequence: Any  # None: made when the request is admitted
    tokens: list[int]  # all whose rows are computed or wait for it
    begun: int  # how many of these are the prompt's
    bound: Any  # what a grammar decides: bound.Bound, or None
    options: Any  # sampling.SamplingOptions
    drawn: list[tuple[int, float | None, list[tuple[int, float]]]]  # results of its rows, for the reader
    taken: int  # how many of these the reader has taken
    sampler: Any
    root: Any  # of the tokens in the prefix cache; None: neither looked up there nor kept
    cached: int  # tokens of the prompt that had been computed before
    computed: int  # rows of passes
    opening: int  # tokens that others are likely to begin with, too

    def advance(self) -> bool:
        """Adds the drawn tokens, and those that a grammar decides, to `tokens` -> whether a pass is to follow."""

    def rows(self) -> int:
        """How many of the tokens that its sequence lacks one pass should take."""

    def fresh(self, rows: int) -> bool:
        """Whether so many rows are those of new tokens."""

    @property
    def ends(self) -> frozenset[int]:
        """Tokens after which none follows."""

    def passes(self, most: int) -> int:
        """How many passes in a row, at most so many, may each draw a token with nothing done between them, as long as
        none is in `ends`."""

    def soon(self) -> int:
        """How many tokens its sequence will hold before long."""

    def before_pass(self) -> None:
        """Called before the pass that draws a token."""

    def verifiable(self, ids: list[int]) -> list[int]:
        """The guesses at its next tokens, from the first on, that a pass may verify."""

    def guesses(self, most: int) -> Any:
        """Empty bound.Guesses, for at most so many tokens, if it is bound; None if there can be no guesses."""

    def guess(self, ids: list[int]) -> None:
        """Called after `before_pass` if the pass has guesses, too."""

    def verified(self, guesses: int, right: int) -> None:
        """Counts guesses that a pass verified, and those that were right."""

    def free(self) -> None:
        """Called when no pass uses the sequence any more."""


class Shared:
    """A prompt that several requests have in common: one computes it, the others fork its sequence. length: of the
    prompt without its last token, whose logits each request needs."""

    __slots__ = ("__weakref__", "by", "length", "sequence")

    def __init__(self, length: int) -> None:
        self.length = length
        self.by: Work | None = None
        self.sequence: Any = None


class Caller:
    """Requests whose results one thread at a time waits for.

    cancel: whether to end; called by that thread alone. rows: the most rows that the requests get together in a pass.
    together: passes whose results it takes together while all requests decode. owner: returns the object to which a
    permanent driver delivers results, if there is one.
    """

    __slots__ = (
        "__weakref__",
        "cancel",
        "cancelled",
        "event",
        "failure",
        "number",
        "over",
        "owner",
        "ready",
        "rows",
        "thread",
        "together",
    )

    def __init__(self, cancel: Callable[[], bool] | None, rows: int, event: Callable[[], Any] = Signal) -> None:
        self.cancel = cancel
        self.rows = rows
        self.together = 1
        self.number = next(_numbers)
        self.ready: deque[Work] = deque()  # a request for each result; may hold one whose result was already taken
        self.failure: Exception | None = None  # the error of a whole pass
        self.cancelled = False
        self.over = False  # nobody takes its results any more
        self.event = event()
        self.owner: Callable[[], Any] | None = None
        self.thread = 0  # the thread that waits for it

    def stopped(self) -> bool:
        """Whether it is cancelled; calls `cancel`."""
        if not self.cancelled and self.cancel is not None and self.cancel():
            self.cancelled = True
        return self.cancelled


class Work:
    """A request in the scheduler."""

    __slots__ = (
        "admitted",
        "ahead",
        "behind",
        "cached",
        "caller",
        "cuts",
        "deadline",
        "drafts",
        "ended",
        "expired",
        "failure",
        "gone",
        "holds",
        "job",
        "key",
        "most",
        "number",
        "paused",
        "paused_at",
        "preempted",
        "priority",
        "root",
        "shared",
        "started",
        "submitted",
        "told",
        "unread",
    )

    def __init__(
        self,
        job: Task,
        caller: Caller,
        *,
        priority: int = 0,
        key: str = "",
        deadline: float | None = None,
        shared: Shared | None = None,
        ahead: float = AHEAD,
        drafts: Drafts | None = None,
    ) -> None:
        self.job = job
        self.caller = caller
        self.priority = priority
        self.key = (priority, key)  # under which its rows are counted
        self.deadline = deadline  # of time.monotonic
        self.shared = shared
        self.ahead = ahead
        self.drafts = drafts  # None: its passes have no guesses
        self.number = next(_numbers)
        self.failure: Exception | None = None
        self.gone = False  # its reader wants no more of it
        self.expired = False
        self.holds = False  # its sequence may hold pages
        self.cuts: list[int] = []  # prefill passes end at these tokens, in ascending order
        self.root = job.root
        self.behind: tuple[Work, int] | None = None  # the request it waits for, which computes so many of its tokens
        self.preempted = 0
        self.admitted = -math.inf  # when it began again after a preemption
        self.paused, self.paused_at = 0.0, 0.0  # seconds that it was preempted for; since when it is
        self.cached = 0  # tokens of the prompt that had been computed before
        self.most = 1 << 30  # rows of a pass: fewer after it lacked memory with more
        self.unread = 0  # pieces made of its results that its reader has not taken
        self.told = 0  # results that its caller knows of
        self.submitted = time.monotonic()
        self.started: float | None = None
        self.ended: float | None = None  # when it left, or its deadline passed

    def hold(self) -> None:
        """Stops guessing for a while."""
        if self.drafts is not None:
            self.drafts.hold(self.job.tokens)

    def lag(self) -> int:
        """How many tokens it is ahead of its reader."""
        return len(self.job.drawn) - self.job.taken + self.unread

    def order(self) -> tuple[int, int]:
        return self.priority, self.number
