"""Which requests run, and which thread runs them.

The scheduler has no thread of its own. A caller that waits and finds no driver becomes the driver: it runs passes, for
all requests, until one of its own has a result (or several, if it takes them together), then hands the seat to another
caller that waits. So a single caller pays for no hand-over between threads, a stream that nobody reads computes
nothing, and a signal interrupts the pass of the thread that gets it. A pass that ends early has changed nothing; its
requests are in the next one. Calls that are not generations (turns.py) have the seat for one pass at a time, in turn
with the passes of the requests.

A pass commits a result by appending it to the request's list. Everything else is derived from that list, so that an
interrupted driver leaves nothing half done: the next driver delivers what it left.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from pellucid import _engine
from pellucid.errors import OutOfMemoryError, PellucidError, untraced
from pellucid.schedule.assistant import Assistant
from pellucid.schedule.batch import Batch
from pellucid.schedule.caller import Caller, Work
from pellucid.schedule.driver import Driver
from pellucid.schedule.locks import Signal
from pellucid.schedule.memory import SOON, Freed
from pellucid.schedule.passes import shares
from pellucid.schedule.reuse import Reuse
from pellucid.schedule.seat import SLICE, Seat
from pellucid.schedule.speculation import Speculation
from pellucid.schedule.stats import Stats

__all__ = ["Scheduler"]

LONG = 0.05  # seconds after which results are taken, even if more were to be taken with them


class Scheduler(Seat):
    """The requests of one engine. open: returns the engine, or raises. For the others, see Requests."""

    def __init__(
        self,
        open: Callable[[], Any],
        sequence: Callable[[], Any],
        *,
        sequences: int = 32,
        max_gap: float = 0.1,
        reuse: Reuse | None = None,
        assistant: Assistant | None = None,
        lock: Callable[[], Any] = threading.Lock,
        event: Callable[[], Any] = Signal,
        signal: Callable[[], Any] = Signal,
        room: Any = None,
        elsewhere: Callable[[], float | None] = lambda: None,
        tile: int = 8,
    ) -> None:
        self._open = open
        self.new_signal = signal
        self.forks = 0
        super().__init__(sequence, sequences, max_gap, reuse, lock, event, room, elsewhere, tile)
        self._speculation = Speculation(self._cost, assistant)
        _all.add(self)

    def forked(self) -> None:
        """Called in a forked child. Requests of the parent that were in a pass fail; callers submit the others anew."""
        error = PellucidError("the process was forked while the model was computing")
        for work in self._in_pass():
            work.failure = error
            work.caller.ready.append(work)
        self.forks += 1
        self._clear()

    # ---- callers ----------------------------------------------------------------------------------------------

    def leave(self, works: Iterable[Work], then: Callable[[], None] | None = None, *, free: bool = False) -> None:
        mine = list(works)
        # It may have been interrupted while it left its seat. One with an owner may be ended by another thread.
        caller = mine[0].caller if mine else None
        if caller is not None and caller.owner is None and (self._driver is caller or caller in self._sleeping):
            for work in mine:
                work.gone = True
            self.leave_seat(caller)
        super().leave(mine, then, free=free)
        self.arrived()

    def wait(self, caller: Caller, until: float | None = None) -> None:
        """Waits until the caller has a result or failed, or is cancelled. Drives if nobody else does. until: a time of
        time.monotonic at which to return, or one pass later."""
        lead = False
        self.check_here()
        try:
            if self._driver is not None and caller.stopped():  # results may come before it would check again
                return
            caller.thread = threading.get_ident()
            while not caller.ready and caller.failure is None:
                with self._after, self._lock:
                    lead = self._driver is None
                    if lead:
                        self._driver = caller
                        self._sleeping.pop(caller, None)
                    elif caller.ready or caller.failure is not None:
                        break
                    else:
                        caller.event.clear()
                        self._sleeping[caller] = None
                if lead:
                    if self._drive(caller, until):
                        break
                    self.leave_seat(caller)
                    lead = False
                    continue
                self.arrived()  # a permanent driver may have had nothing to run while the caller read
                if caller.cancelled or (until is not None and time.monotonic() > until):
                    break
                offered = caller.event.wait(None if caller.cancel is None and until is None else SLICE)
                if not offered and caller.cancel is not None and not caller.ready:  # else calls would overtake it
                    self._stands_back(caller)
                    caller.thread = 0  # what its function computes does not wait for it
                    if caller.stopped():
                        break
                    caller.thread = threading.get_ident()
        finally:
            caller.thread = 0
            if lead or self._sleeping:
                self.leave_seat(caller)

    def step(self, work: Work) -> bool:
        """`wait` for the next tokens of the only request, without the steps that several need. -> False: there are
        others, or its pass needs those steps; then nothing was done."""
        caller, done, begun = work.caller, 0, time.perf_counter()
        with self._after, self._lock:
            if self._driver is not None or self._batch is not None or self._waiting or self._running != [work]:
                return False
            self._driver, self._stepping = caller, work
            caller.thread = threading.get_ident()
        try:
            while not caller.stopped() and self._step(work):
                done += 1
                over = caller.cancelled or caller.failure is not None or work.failure is not None or work.gone
                if over or done >= caller.together or self._turns or self._waiting or self._running != [work]:
                    break
                if time.perf_counter() - begun > LONG:
                    break
            return done > 0 or caller.cancelled
        finally:
            self.leave_seat(caller)
            caller.thread = 0

    def _step(self, work: Work) -> bool:
        """Runs the pass of the only request's next token. -> False: it needs more than one row; nothing was done."""
        caller, job = work.caller, work.job
        if work.deadline is not None or not job.advance():
            return False
        sequence, tokens = job.sequence, job.tokens
        n = sequence.length
        if n != len(tokens) - 1 or (work.drafts is not None and self._speculation.wanted(work)):
            return False
        job.before_pass()
        part = [(sequence, tokens[n:], 0)]
        more: dict[str, Any] = {} if job.bound is None else {"masks": job.bound.fill}
        found: list[Any] = []
        failed: dict[int, Exception] = {}
        start = time.perf_counter()
        try:
            self._open().forward(part, samplers=[job.sampler], cancel=caller.cancel, failed=failed, found=found, **more)
        except OutOfMemoryError:
            return False
        except _engine.Cancelled:
            caller.cancelled = True
            return True
        except Exception as error:
            sequence, part = None, []  # else the traceback of a user's error, which is stored, would keep them
            caller.failure = untraced(error)
            return True
        if failed:
            self._fail_one(work, failed[0] if job.bound is None else job.bound.blame(failed[0]))
        else:
            job.drawn.append(found[0])
            self._follow(work)
        self.passes += 1
        self.rows += 1
        seconds = time.perf_counter() - start
        self.pass_seconds += seconds
        if not self.passes % 16 or self.passes < 16:
            self._cost.add(1, n, seconds)
        work.job.computed += 1
        return True

    # ---- a permanent driver -----------------------------------------------------------------------------------

    def start_driver(self) -> None:
        """Starts a thread that drives until `close`, unless there is one already. Raises ClosedError."""
        if self._permanent is None or not self._permanent.alive():
            with _starting:
                if self._permanent is None or not self._permanent.alive():
                    self._open()
                    driver = self._permanent = Driver(self)  # before it runs, so that it is told of what arrives
                    try:
                        driver.start()
                    except BaseException:
                        self._permanent = None
                        raise

    def close(self) -> None:
        """Ends the permanent driver, and closes the prefix cache. A signal handler may call it anywhere."""
        if self.is_free():
            self._end()
        else:
            self.later(self._end)

    def _end(self) -> None:
        with _starting:  # one that another thread is starting
            driver = self._permanent
        if driver is not None:
            driver.close()  # until it has ended, it is told of what ends
            with _starting:
                if self._permanent is driver:
                    self._permanent = None
        self.clear_cache(close=True)

    def arrived(self) -> None:
        driver = self._permanent
        if driver is not None and not driver.wake.is_set():
            driver.wake.set()

    def one_pass(self, caller: Caller, meanwhile: Callable[[], None] | None) -> bool:
        """Runs a pass; the caller drives. -> False: there was nothing to run."""
        if self._batch is not None:  # an interrupted driver left it
            self._settle(self._batch)
        batch = self._gather(caller)
        if batch is None:
            return False
        try:
            self._run(batch, caller, meanwhile)
        finally:
            self._settle(batch)
        return True

    def take_news(self) -> list[Caller]:
        """Callers with owners that have results, or ended, since the last call."""
        out = []
        while self._news:
            out.append(self._news.popitem()[0])
        return out

    def fail(self, error: Exception, *, owned: bool = False) -> None:
        """Ends all requests with an error. owned: only those of callers with owners; others go on by themselves."""
        with self._after, self._lock:
            for caller in {work.caller for work in (*self._running, *self._waiting)}:
                if caller.owner is not None:
                    caller.failure = error
                    self._news[caller] = None
                elif not owned:
                    caller.failure = error
                    caller.event.set()

    def next_deadline(self) -> float | None:
        """The earliest deadline of the requests, a time of time.monotonic; None: there is none."""
        with self._after, self._lock:
            times = [one.deadline for one in (*self._running, *self._waiting) if one.deadline is not None]
        return min(times, default=None)

    # ---- passes -----------------------------------------------------------------------------------------------

    def _drive(self, caller: Caller, until: float | None = None) -> bool:
        """Runs passes until the caller has a result (or as many as it takes together, or for LONG), or failed, or is
        cancelled. The caller has the seat. -> False: a call has its turn first."""
        if self._batch is not None:  # an interrupted driver left it
            self._settle(self._batch)
        left, begun = 0 if caller.ready else caller.together, time.perf_counter()
        while not (caller.ready and (left < 1 or time.perf_counter() - begun > LONG)):
            if caller.failure is not None or caller.stopped():
                return True
            if until is not None and time.monotonic() > until:
                return True
            crowded = self._crowded  # before `_gather`: a call that ends meanwhile makes room for the next pass
            batch = self._gather(caller, bool(caller.ready))
            if batch is not None:
                try:
                    self._run(batch, caller)
                finally:
                    self._settle(batch)
                left -= batch.done
            elif caller.ready or caller.cancelled:
                return True
            elif crowded:
                time.sleep(SOON)
            else:  # while a caller waits, one of its requests can always run
                raise PellucidError("no request can run")
            if self._turns and not caller.ready:
                return False
        return True

    def _gather(self, caller: Caller, together: bool = False) -> Batch | None:
        """The next pass; None if nothing is left to do. together: only one like the last, in which all decoded."""
        with self._after, self._lock:
            batch = None
            if together and (self._turns or any(not work.job.taken for work in self._running)):
                return None  # a first token is taken immediately
            if self._steady and not self._waiting and self._steady == self._running:
                with suppress(Exception):  # `_wants` meets it again
                    batch = Batch.decoding(self._running)
                    if batch and batch.callers == {caller} and caller.together > 1 and self._speculation.rests(batch):
                        batch.follow(caller.together)
            if batch is None and not together:
                batch = self._alone() if len(self._running) == 1 and not self._waiting else self._together()
                self._steady = [] if batch is None else batch.steady()
            if batch is not None and len(batch.entries) == 1:
                batch.sole = self._holders.only(batch.entries[0][0], self._running, self._waiting)
                batch.sole &= self.reuse is None or not self.reuse.bytes
            self._batch = batch
        return batch

    def _alone(self) -> Batch | None:
        """The pass of the only request."""
        work = self._running[0]
        if work.deadline is not None and time.monotonic() > work.deadline:
            self._expire(work, self._running)
            return None
        want = self._want(work)
        if want is None:
            return None
        batch = Batch()
        most = self._open().max_rows
        elsewhere = None if want.fresh else self._elsewhere()
        if elsewhere is not None:
            _, most = self._limits([work], [want], most, elsewhere)
        batch.add(work, min(self._before_cut(work, want).rows, most, work.caller.rows))
        return batch

    def _together(self) -> Batch | None:
        """The pass of all requests."""
        works, wants, callers = self._wanting()
        if not works and not self._crowded:
            self._short = False
            works, wants, callers = self._wanting()
        if not works:
            return None
        room = prefill = self._open().max_rows
        if not all(want.fresh for want in wants):
            elsewhere = self._elsewhere()
            if elsewhere is not None or len(callers) > 1:
                room, prefill = self._limits(works, wants, room, elsewhere)
            room = room if elsewhere is None else min(room, prefill)
        batch = Batch()
        for work, rows in zip(works, shares(wants, room, prefill), strict=True):
            if rows:
                batch.add(work, rows)
        return batch

    def _run(self, batch: Batch, leader: Caller, meanwhile: Callable[[], None] | None = None) -> None:
        """Runs a pass. Errors become those of its requests or callers; interrupts are raised. meanwhile: called while
        the pass runs."""
        cancel = leader.cancel
        alone = len(batch.callers) == 1 and leader in batch.callers and leader.owner is None
        if not alone:

            def cancel() -> bool:
                try:
                    leader.stopped()
                except Exception as error:  # raised by its function: the pass goes on for the others
                    leader.failure = untraced(error)
                return batch.all_stopped()

        try:
            extra: dict[str, Any] = {"cancel": cancel}
            if meanwhile is not None:
                extra["meanwhile"] = meanwhile
            if batch.bounds:
                extra["masks"] = batch.fill_masks
            engine = self._open()
            self._speculation.add(batch, engine.max_rows, cancel)
            batch.run(engine, lambda: self._waiting or self._turns or batch.seconds > LONG, **extra)
        except OutOfMemoryError as error:
            if batch.done:  # the results so far are delivered first
                pass
            elif batch.guesses:  # without them, there may be enough memory
                for i in batch.guesses:
                    batch.entries[i][0].hold()
            elif not self._preempt(batch):  # it has a single request, which fails
                self._fail_one(batch.entries[0][0], error)
        except Exception as error:
            if isinstance(error, _engine.Cancelled):
                if alone:
                    leader.cancelled = True
            else:
                self._fail(batch, error)
        finally:
            if batch.done:
                self._count(batch)

    def _fail(self, batch: Batch, error: Exception) -> None:
        untraced(error)
        for caller in batch.callers:
            caller.failure = error
            self._note_news(caller)

    def _preempt(self, batch: Batch) -> bool:
        """Makes room for a pass that lacked memory. -> False: it will never have enough."""
        with self._after, self._lock:
            freed = self._holders.free(self._running, self._waiting, batch=batch)
            if isinstance(freed, Work):
                self._pause(freed)
        if freed is Freed.NOTHING and self.room is not None and len(batch.entries) == 1:
            work = batch.entries[0][0]
            fewer: int = self.room.fewer(work.job.sequence.length, batch.rows)
            if fewer < batch.rows:
                work.most = fewer
                return True
        if freed is Freed.SOON:
            time.sleep(SOON)
        return freed is not Freed.NOTHING

    def _settle(self, batch: Batch) -> None:
        """Delivers the results of a pass. May be called again after an interrupt."""
        failed, found = batch.failed, batch.results()
        for i, (work, before) in enumerate(batch.entries):
            job = work.job
            if failed and i in failed:
                if i in batch.guesses:  # a guess may be the reason
                    work.hold()
                else:
                    self._fail_one(work, failed[i] if job.bound is None else job.bound.blame(failed[i]))
            results = found[i]
            if i in batch.guesses:
                results = self._speculation.verified(batch, i, results)
            if results:
                new = results[len(job.drawn) - before :]
                job.drawn.extend(new)
                if batch.done > 1:
                    job.advance()  # so that what its sequence holds is known
                if i in batch.guesses and new:
                    self._speculation.count(work, batch.guesses[i], len(results))
                self._follow(work)
        batch.parts.clear()  # an error's traceback may keep the pass, but not its sequences
        with self._after, self._lock:
            for work, _ in batch.entries:
                if work.cuts:
                    self._cut(work)
            self._batch = None
            for caller in self._sleeping:
                if caller.ready or caller.failure is not None:
                    caller.event.set()

    def _follow(self, work: Work) -> None:
        """Adds the tokens that follow from a request's new results, and tells its caller of all."""
        if work.job.bound is not None:
            try:
                work.job.bound.follow(work.job.drawn)
            except Exception as error:
                self._fail_one(work, error)
        self._tell_results(work)

    # ---- the prefix cache -------------------------------------------------------------------------------------

    def spare(self) -> bool:
        """Called when a pass lacks memory, by whoever runs it -> whether the prefix cache freed some."""
        with self._after, self._lock:
            return self.reuse is not None and self.reuse.spare()

    def stats(self, used: int = 0, limit: int | None = None) -> Stats:
        """used, limit: bytes of the cache."""
        with self._after, self._lock:
            return Stats(
                running=len(self._running),
                waiting=len(self._waiting),
                passes=self.passes,
                rows=self.rows,
                pass_seconds=self.pass_seconds,
                preemptions=self.preemptions,
                cache_bytes_used=used,
                cache_bytes_limit=limit,
                prefix_queries=self.prefix_queries,
                prefix_hits=self.prefix_hits,
                prompt_tokens=self.prompt_tokens,
                generated_tokens=self.generated,
                drafted_tokens=self._speculation.drafted,
                accepted_tokens=self._speculation.accepted,
            )


_starting = threading.RLock()  # as a signal handler may close a model
_all: weakref.WeakSet[Scheduler] = weakref.WeakSet()


def _after_fork() -> None:
    global _starting
    _starting = threading.RLock()
    for scheduler in list(_all):
        scheduler.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
