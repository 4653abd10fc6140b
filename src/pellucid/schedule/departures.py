"""How requests leave a scheduler, at any time and in any thread, while a pass may use their sequences."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from pellucid.schedule.batch import Batch
from pellucid.schedule.caller import Work
from pellucid.schedule.fairness import Served
from pellucid.schedule.locks import After, acquire
from pellucid.schedule.memory import Holders
from pellucid.schedule.reuse import Reuse
from pellucid.snapshot import snapshot

__all__ = ["Departures"]

_MOST_WAIT = 0.1  # seconds, far beyond what the lock is held


class Leaving(NamedTuple):
    """Requests that leave: see `Departures.note`."""

    works: Collection[Work]
    then: Callable[[], None] | None
    free: bool
    rest: bool


class Departures:
    """The requests of a scheduler, and those that leave it. lock, event: make a lock and an event; reuse: the prefix
    cache, if there is one."""

    def __init__(self, lock: Callable[[], Any], event: Callable[[], Any], reuse: Reuse | None) -> None:
        self._new_lock = lock
        self.new_event = event
        self.reuse = reuse
        self._left: deque[Leaving] = deque()
        self._after = After(self._left, weakref.WeakMethod(self._sweep))
        self._clear()

    def _clear(self) -> None:
        """Resets everything except what was measured. For a forked child, in which the other threads do not exist."""
        self._lock = self._new_lock()  # always taken as `with self._after, self._lock`, or by `_sweep`
        self._batch: Batch | None = None  # the pass that runs, or whose results are not delivered yet
        self._stepping: Work | None = None  # the request whose pass `Scheduler.step` runs
        self._running: list[Work] = []  # the most urgent first
        self._waiting: list[Work] = []
        self._steady: list[Work] = []  # those of the last pass, if it had one row of each (Batch.steady)
        self._short = False  # memory ran out: no request is admitted before another ends
        self.scoring = threading.Lock()  # held while `turns.score` computes
        self._holders = Holders()
        self._served = Served()
        if self.reuse is not None:
            self.reuse.forget()

    def leave(self, works: Iterable[Work], then: Callable[[], None] | None = None, *, free: bool = False) -> None:
        """Ends requests, wherever they are. then: called when no pass uses them any more, perhaps immediately, and
        perhaps again, by another thread or after an interrupt. free: whether their sequences are dropped before that.
        Never blocks, so that a finalizer may call it."""
        self.note(works, then, free=free)
        self._sweep()

    def at_end(self, works: Collection[Work], then: Callable[[], None]) -> Callable[[], None]:
        """-> a function that notes that requests end, as `leave` with `free`. To be called first in a ``finally``: no
        signal handler runs before or within it. works: read when it takes effect."""
        return partial(self._left.append, Leaving(works, then, True, False))

    def note(
        self,
        works: Iterable[Work],
        then: Callable[[], None] | None = None,
        *,
        free: bool = False,
        rest: bool = False,
    ) -> None:
        """Notes that requests end, as in `leave`; whoever releases the lock next removes them. rest: they have left,
        and are to compute once more, in a call; until they do, their memory may be given up."""
        mine, now = list(works), time.monotonic()
        for work in mine:
            work.gone = True
            work.ended = work.ended or now
        self._left.append(Leaving(mine, then, free, rest))

    def leave_and_wait(self, works: Iterable[Work]) -> None:
        """Ends requests and drops their sequences, and returns when no pass uses them any more."""
        done = self.new_event()
        self.leave(works, done.set, free=True)
        done.wait()

    def go_on(self, work: Work, ends: bool = False) -> None:
        """Notes that the call of a resting request has begun; ends: that it is over, so that its memory may be given up
        again."""
        with self._after, self._lock:
            if not ends:
                work.holds = True
                self._holders.leaving.discard(work)
                self._holders.resting.discard(work)
            elif work.holds:
                self._holders.resting.add(work)

    def is_free(self) -> bool:
        """Waits until whoever has the lock has released it -> False if that takes long, as it does where a signal
        handler asks that interrupted the thread that has it."""
        done = self.new_event()
        self.leave((), done.set)
        return bool(done.wait(_MOST_WAIT))

    def later(self, act: Callable[[], None]) -> None:
        """Whoever releases the lock next calls `act`, which may take it."""
        begun = threading.Lock()

        def then() -> None:
            if begun.acquire(blocking=False):  # else it is `act` that has released it
                try:
                    act()
                finally:
                    begun.release()

        self.leave((), then)

    def clear_cache(self, close: bool = False) -> None:
        """Empties the prefix cache. close: it keeps nothing from then on."""
        self._sweep()  # which adds what has ended to the cache
        with self._after, self._lock:
            if self.reuse is not None:
                self.reuse.close() if close else self.reuse.clear()

    def sweep(self) -> bool:
        """Removes the requests that end, as far as that is possible at present -> whether any are left."""
        self._sweep()
        return bool(self._left)

    def leaves(self, work: Work) -> bool:
        """Whether a request is noted as leaving."""
        return any(work in one.works for one in snapshot(self._left))

    def _sweep(self) -> None:
        """Removes the requests that have left. A thread that holds the lock does so when it releases it; those in a
        pass are removed by whoever ends the pass. A signal handler may raise anywhere: the next call then does the
        rest."""
        while self._left:
            taken: list[bool] = []
            try:
                acquire(taken, self._lock, False)
                if not taken[0]:
                    return
                busy = self._in_pass()
                done = [one for one in snapshot(self._left) if self._remove(one, busy)]
            finally:
                if taken and taken[0]:
                    self._lock.release()
            for one in done:
                if one.then is not None:
                    one.then()  # before the removal, so that an interrupt loses none; it may be called again
                with suppress(ValueError):  # another thread was faster
                    self._left.remove(one)
            if not done and all(self._is_busy(one) for one in snapshot(self._left)):
                return

    def _is_busy(self, one: Leaving) -> bool:
        return not self._in_pass().isdisjoint(one.works)

    def _remove(self, one: Leaving, busy: set[Work]) -> bool:
        """With the lock: removes requests from the queues -> whether no pass uses them. May be called again."""
        for work in one.works:
            work.gone = True
            work.ended = work.ended or time.monotonic()
            for queue in (self._running, self._waiting):
                if work in queue:
                    if work.holds:
                        self._holders.leaving.add(work)
                    self._quit(queue, work)
                    self._short = False
        if not busy.isdisjoint(one.works):
            return False
        if one.rest:  # unless its call has begun
            found = self._holders.leaving.intersection(one.works)
            self._holders.resting |= found  # before the removal, so that an interrupt hides none
            self._holders.leaving -= found
        for work in one.works if one.free else ():
            if self.reuse is not None and work.holds and work.root is not None:
                self.reuse.keep(work)
            work.job.free()  # with the lock, so that whoever is short of memory finds it
            if work.drafts is not None:
                work.drafts.close()
            work.holds, work.shared = False, None
            if work.caller.over:  # a pass may have delivered results after its reader had left
                work.caller.ready.clear()
            self._holders.leaving.discard(work)
            self._holders.resting.discard(work)
        return True

    def _quit(self, queue: list[Work], work: Work) -> None:
        """With the lock: removes a request that ran or waited."""
        queue.remove(work)
        self._steady = []
        self._served.left(work.key)

    def _in_pass(self) -> set[Work]:
        """The requests whose sequences a pass uses."""
        batch, stepping = self._batch, self._stepping  # any thread may ask
        works = set() if batch is None else {work for work, _ in batch.entries}
        return works if stepping is None else {*works, stepping}
