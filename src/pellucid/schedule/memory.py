"""What holds pages of the cache, and what is given up when they are short.

A request fails for lack of memory only if no other held pages from before its pass began: what another frees while a
pass looks for pages may come too late for that pass, and must not decide its requests' results.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Collection
from enum import Enum
from typing import Protocol

from pellucid.schedule.batch import Batch
from pellucid.schedule.caller import Caller, Shared, Work

__all__ = ["SOON", "Call", "Freed", "Holders", "drop", "keeps"]

MOST_PREEMPTIONS = 3
BETWEEN = 1.0  # seconds after a preempted request began again
SOON = 0.001  # seconds that a pass waits for a reader that is about to free memory


class Call(Protocol):
    """A call that is not a generation: ``turns.Turns``."""

    caller: Caller
    most: int  # bytes that its sequences will take at most
    short: bool  # memory was short in its last pass
    sole: bool  # no request held memory when its last pass began

    def held(self) -> int:
        """Bytes that its sequences have at least."""


class Freed(Enum):
    """What could be done about a pass that lacked memory."""

    NOTHING = 0  # nothing else held memory
    AGAIN = 1  # memory was freed, or is when the pass is settled
    SOON = 2  # a reader is about to free some, or a call when it ends


class Holders:
    """What holds pages beside the requests that run or wait. Used with the scheduler's lock."""

    __slots__ = ("_calls", "leaving", "resting", "shared")

    def __init__(self) -> None:
        self._calls: list[weakref.ref[Call]] = []  # replaced, never changed; an interrupt may keep one from ending
        self.leaving: set[Work] = set()  # requests that have left, and whose sequences are not dropped yet
        self.resting: set[Work] = set()  # requests that have left, and whose reader is to compute once more
        self.shared: weakref.WeakSet[Shared] = weakref.WeakSet()  # prompts that have a sequence

    @property
    def calls(self) -> list[Call]:
        """The calls, the oldest first."""
        return [call for one in self._calls if (call := one()) is not None]

    def begin(self, call: Call) -> None:
        self._calls = [one for one in self._calls if one() is not None] + [weakref.ref(call)]

    def end(self, call: Call) -> None:
        self._calls = [one for one in self._calls if one() not in (None, call)]

    def only(self, mine: Work | None, *known: list[Work]) -> bool:
        """Whether nothing but `mine` holds pages; None: nothing but calls. known: the requests that run or wait."""
        if self.leaving or any(one.sequence is not None for one in self.shared):
            return False
        if any(work.holds for work in self.resting):
            return False
        if mine is not None and self.others({mine.caller.thread}):
            return False
        return not any(work.holds and work is not mine for works in known for work in works)

    def others(self, waiting: Collection[int] = ()) -> list[Call]:
        """The calls of threads other than this one and the waiting ones, which go on while these wait. A call's
        `cancel` or progress function may compute something else in the call's thread."""
        mine = threading.get_ident()
        return [one for one in self.calls if one.caller.thread != mine and one.caller.thread not in waiting]

    def wait_for(self, work: Work) -> bool:
        """Whether a call cannot go on before a request does: one of the call's functions waits for it."""
        thread = work.caller.thread  # 0: no thread waits for it
        return bool(thread) and any(one.caller.thread == thread for one in self.calls)

    def free(
        self, running: list[Work], waiting: list[Work], batch: Batch | None = None, call: Call | None = None
    ) -> Freed | Work:
        """Makes room for a pass, of requests or of a call, that lacked memory. -> the request that was preempted, the
        youngest of the lowest priority and never the most urgent of the pass; or what else was done. Requests that a
        call waits for are more urgent than others, which may be short of the memory that the call holds."""
        mine = [] if batch is None else [work for work, _ in batch.entries]
        if any(work.gone for work in (*running, *mine)):
            return Freed.AGAIN  # removed when the pass is settled
        awaited = [work for work in (*mine, *running, *waiting) if self.wait_for(work)]
        kept = next((work for work in mine if work in awaited), mine[0] if mine and not awaited else None)
        given = [work for work in running if work.holds and work is not kept]
        if given:
            work = max(given, key=lambda work: (work not in awaited, not keeps(work), work.order()))
            drop(work)
            return work
        held = [one for one in self.shared if one.sequence is not None]
        if held:
            for one in held:  # requests that need it compute it again
                one.sequence = one.by = None
            return Freed.AGAIN
        resting = [work for work in self.resting if work.holds]
        if resting:
            for work in resting:
                drop(work)
            return Freed.AGAIN
        if self.leaving:
            return Freed.SOON
        if call is not None:
            call.short = True
        # If all calls lack memory, the oldest cannot wait for the others.
        others = self.others({work.caller.thread for work in mine})
        calls = [one for one in self.calls if one is call or one in others]
        if calls and (calls[0] is not call or not all(one.short for one in calls)):
            return Freed.SOON
        alone = batch.sole if batch is not None else call is not None and call.sole
        return Freed.NOTHING if alone else Freed.AGAIN


def keeps(work: Work) -> bool:
    """Whether a request was preempted so often, or so lately, that others are preempted first."""
    return work.preempted >= MOST_PREEMPTIONS or time.monotonic() - work.admitted < BETWEEN


def drop(work: Work) -> None:
    """Frees the pages of a request that no pass uses; they are computed again when needed."""
    if work.holds:
        work.job.sequence.rewind(0)
        work.cuts, work.holds = [], False
