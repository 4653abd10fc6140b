"""A request: what ``Model.submit`` returns."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from pellucid import _engine, checks
from pellucid.asynchronous import call
from pellucid.errors import BatchError, PellucidError, WrongType, again, untraced
from pellucid.generation import Job, canceller
from pellucid.results import Completion, Gathered, Piece
from pellucid.schedule.caller import Work
from pellucid.schedule.locks import Signal, acquire
from pellucid.schedule.scheduler import Scheduler
from pellucid.schedule.seat import SLICE
from pellucid.schedule.stats import RequestStats
from pellucid.schedule.turns import score
from pellucid.snapshot import snapshot

if TYPE_CHECKING:
    import asyncio
    from typing import Self

__all__ = ["Request"]


class Request(Iterator[Piece], AsyncIterator[Piece]):
    """A generation that was submitted to a model: an iterator and an asynchronous iterator of :class:`Piece`, made by
    ``Model.submit``.

    It runs in the passes that the model's callers share. Any thread or task may use it, but only one at a time may read
    its pieces: each piece is given once. With n completions, their pieces are given as they are made, each with its
    ``index``; if some fail, the others go on, and the end of the iteration raises their error. A request that nothing
    refers to any more is cancelled. One whose reader is interrupted (Ctrl-C) can be read again; if a piece was being
    made at that time, an error at the end says so.
    """

    def __init__(self, scheduler: Scheduler, works: list[Work], gathered: list[Gathered], several: bool) -> None:
        self._scheduler = scheduler
        self._works = works
        self._gathered = gathered
        self._several = several
        self._forks = scheduler.forks
        # Held by `collect`, and only briefly: its holder never waits, nor ends requests, which could end those of
        # another that waits. A finalizer or a signal handler that interrupts the holder leaves everything to it.
        self._lock = threading.RLock()
        self._active = {work: i for i, work in enumerate(works)}
        self._stopped: deque[Work] = deque()  # at a stop string, and no pass uses their sequences any more
        self._unscored: deque[Work] = deque()  # those of them whose last tokens a reader is to compute
        self._scoring: Work | None = None  # the one that it computes
        self._ended: deque[tuple[Work, Callable[[], None] | None]] = deque()  # to leave, and what is called then
        self._pieces: deque[Piece] = deque()
        self._errors: dict[int, Exception] = {}
        self._collecting = 0  # the thread in `collect`
        # After an interrupt, whoever comes next finds these set.
        self._making: Work | None = None  # the one of which a piece is being made
        self._giving: Piece | None = None  # the piece that is being read
        self._turn = threading.Lock()  # held by the thread that reads
        self._loop: asyncio.AbstractEventLoop | None = None
        self._readers: list[asyncio.Future[None]] = []
        self._news = Signal()  # for threads that wait for what others make ready
        self._caller = works[0].caller

    def begin(self, echo: bool) -> None:
        """Submits it. echo: whether the prompt's text is given first."""
        self._caller.owner = weakref.ref(self)
        for index, work in enumerate(self._works):
            job = _job(work)
            if echo and job.prompt_text:
                self._put(index, work, Piece(job.prompt_text, [], []))
            if job.finish:
                del self._active[work]
                work.ended = work.submitted
                self._put(index, work, job.end(""))
        for work in list(self._active):
            self._scheduler.submit(work)

    # ---- what a caller asks -----------------------------------------------------------------------------------

    def __reduce__(self) -> tuple[Any, ...]:
        raise WrongType("Request", ": a running generation can be neither pickled nor copied")

    def __repr__(self) -> str:
        tokens = sum(len(one.ids) for one in self._gathered)
        return f"<Request: {tokens} tokens read, {'done' if self.done else 'running'}>"

    @property
    def done(self) -> bool:
        """Whether everything has been generated, or has failed; pieces may be left to read."""
        return not self._active

    @property
    def prompt_tokens(self) -> int:
        """Number of tokens of the prompt."""
        return len(self._gathered[0].prompt_ids)

    @property
    def stats(self) -> RequestStats:
        """Its statistics so far."""
        works, now = self._works, time.monotonic()
        ends = [work.ended or now for work in works]
        drafted, accepted = (sum(getattr(_job(work), name) for work in works) for name in ("drafted", "accepted"))
        computed = sum(work.job.computed - max(len(work.job.drawn) - 1, 0) for work in works)
        first = min((work.started for work in works if work.started is not None), default=None)
        queued = (max(ends) if first is None else first) - works[0].submitted
        return RequestStats(
            queued=max(queued, 0.0),
            cached=sum(work.cached for work in works),
            prefilled=max(computed - drafted + accepted, 0),
            preempted=sum(work.preempted for work in works),
            preempted_seconds=sum(
                work.paused + (max(end - work.paused_at, 0) if work.paused_at else 0)
                for work, end in zip(works, ends, strict=True)
            ),
            expired=any(work.expired for work in works),
            drafted=drafted,
            accepted=accepted,
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """The parts of a schema that are ignored, because it is not strict."""
        bound = _job(self._works[0]).bound
        return () if bound is None else bound.warnings

    def cancel(self) -> None:
        """Ends it: nothing more is generated, and the finish reason is "cancelled". Returns immediately; no later pass
        has rows of it. May be called again, from any thread, and in a signal handler."""
        if self._scheduler.forks != self._forks:
            return
        self._caller.cancelled = True
        self.collect()
        self._caller.event.set()
        self._tell_loop()

    def __del__(self) -> None:
        # Calls only what may be called in a finalizer.
        if not hasattr(self, "_caller"):  # its constructor failed
            return
        self._caller.over = True
        ended = [work for work, _ in snapshot(self._ended)]  # those that an interrupt kept from being noted
        left = [*self._active, *ended]
        if left and self._scheduler.forks == self._forks:
            self._scheduler.leave(left, free=True)
            for work in self._active:
                _job(work).failed(None)
        self._caller.ready.clear()  # the caller and its works refer to each other

    # ---- reading in a thread ----------------------------------------------------------------------------------

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Piece:
        piece = self._read(None)
        if piece is None:
            self._raise()
            raise StopIteration
        return piece

    def result(self, timeout: float | None = None) -> Completion | list[Completion]:
        """Waits for the whole completion; with n, for a list of them. It includes pieces that were read before.

        timeout: seconds, after which TimeoutError is raised; the request goes on. Raises what iterating raises;
        ValueError or TypeError for a wrong timeout.
        """
        until = None if timeout is None else time.monotonic() + checks.number("timeout", timeout, 0)
        while self._read(until) is not None:
            pass
        return self._whole()

    def _read(self, until: float | None) -> Piece | None:
        """The next piece; None at the end."""
        self._check_fork()  # first: a thread that read it in the parent holds the turn for ever
        left = -1 if until is None else min(max(until - time.monotonic(), 0), threading.TIMEOUT_MAX)
        taken: list[bool] = []
        try:
            acquire(taken, self._turn, True, left)
            if not taken[0]:
                raise TimeoutError("the request is not done yet")
            while True:
                self._check_fork()
                self.collect()
                piece = self._get()
                if piece is not None or not self._active:
                    return piece or self._get()
                if until is not None and time.monotonic() > until:
                    raise TimeoutError("the request is not done yet")
                if not self._score():
                    self._wait(until)
        finally:
            if taken and taken[0]:
                self._turn.release()

    def _wait(self, until: float | None) -> None:
        """Waits for results, and drives if nobody else does."""
        caller, scheduler = self._caller, self._scheduler
        scheduler.check_here()
        if all(_job(work).finish for work in list(self._active)):  # what comes before a stop string is being settled
            scheduler.leave(())  # unless an interrupt prevented that
            self._news.wait(SLICE)
            self._stop_lost()
        elif self._loop is not None:  # a permanent driver delivers
            scheduler.start_driver()
            self._news.wait(SLICE)
        else:
            soon = time.monotonic() + 0.5
            work = self._works[0]
            try:
                if len(self._works) > 1 or not work.job.drawn or caller.ready or not scheduler.step(work):
                    scheduler.wait(caller, soon if until is None else min(soon, until))
            except PellucidError as error:
                caller.failure = untraced(error)
            except BaseException:
                scheduler.leave_seat(caller)
                raise
        self._news.clear()
        if caller.stopped():
            self.cancel()

    def _score(self, cancel: Any = None) -> bool:
        """Computes the log probabilities of the last tokens of a generation that ends before a stop string -> whether
        there was one. Unlike what makes pieces, it may wait for its turn, since nobody else waits for it."""
        if self._unscored:
            self._scheduler.check_here()
        work, asked = None, canceller(cancel)
        try:
            with self._lock:
                if self._scoring is not None or not self._unscored:
                    return False
                work = self._scoring = self._unscored[0]
            if work in self._active:
                score(self._scheduler, work, lambda: self._caller.cancelled or (asked is not None and asked()))
                self._stopped.append(work)
            self._unscored.remove(work)
        except _engine.Cancelled:
            pass
        except Exception as error:
            assert work is not None
            work.failure = error
            self._stopped.append(work)
            self._unscored.remove(work)
        finally:
            if work is not None:  # an interrupt may be raised anywhere
                self._scoring = None
        self.collect()
        self._tell_loop()
        return True

    # ---- reading in an event loop -----------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        piece = await self._aread()
        if piece is None:
            self._raise()
            raise StopAsyncIteration
        return piece

    def __await__(self) -> Generator[Any, None, Completion | list[Completion]]:
        return self._aresult().__await__()

    async def _aresult(self) -> Completion | list[Completion]:
        while await self._aread() is not None:
            pass
        return self._whole()

    async def _aread(self) -> Piece | None:
        """The next piece; None at the end."""
        import asyncio

        loop = asyncio.get_running_loop()
        while True:
            self._check_fork()
            piece = self._get()
            if piece is not None:
                return piece
            if self._loop is not loop:
                self._loop = loop
                self.collect()  # what was ready before a driver knew of the loop
                continue
            if not self._active:
                return self._get()
            self._scheduler.start_driver()
            if self._due():  # what became ready while there was no driver
                self.collect()
                continue
            if self._unscored and self._scoring is None:
                await call(self._score)
                continue
            reader = loop.create_future()
            self._readers.append(reader)
            try:
                if self._caller.cancel is None:
                    if not self._pieces and self._active and (self._scoring is not None or not self._unscored):
                        await reader
                elif not self._pieces and self._active:
                    await asyncio.wait([reader], timeout=SLICE)
                    if self._caller.stopped():
                        self.cancel()
            finally:
                if reader in self._readers:
                    self._readers.remove(reader)

    def tell(self) -> None:
        """Called in the loop: there is something to read."""
        for reader in self._readers:
            if not reader.done():
                reader.set_result(None)

    def _tell_loop(self) -> None:
        loop = self._loop
        if loop is not None and self._readers:
            with suppress(RuntimeError):  # it is closed
                loop.call_soon_threadsafe(self.tell)

    # ---- pieces -----------------------------------------------------------------------------------------------

    def deliver(self) -> asyncio.AbstractEventLoop | None:
        """Called by the permanent driver if there are results -> the loop to be told, if any. Without a loop, the
        thread that reads makes the pieces."""
        if self._loop is None:
            return None
        self.collect()
        return self._loop if self._readers else None

    def collect(self) -> None:
        """Makes pieces of the results so far, and ends what is to end. If called by code that interrupted this same
        method in its thread, returns: the interrupted call does the rest."""
        if self._collecting == threading.get_ident():
            return
        while self._due():
            with self._lock:
                try:
                    self._collecting = threading.get_ident()
                    while self._due():
                        self._go_on()
                finally:
                    self._collecting = 0
        self._news.set()
        if not self._ended:
            return
        while self._ended:
            with suppress(IndexError, ValueError):  # another thread may do the same
                work, then = one = self._ended[0]
                self._scheduler.note((work,), then, free=then is None)
                self._ended.remove(one)
        self._scheduler.leave(())

    def _due(self) -> bool:
        """Whether `_go_on` has something to do."""
        caller = self._caller
        if caller.ready or self._stopped or self._making is not None:
            return True
        return bool(self._active and (caller.failure is not None or (caller.cancelled and self._unfinished())))

    def _unfinished(self) -> list[Work]:
        """Those that have reached no stop string, or that wait to compute the tokens before it."""
        waits = [work for work in snapshot(self._unscored) if work is not self._scoring]
        return [work for work in list(self._active) if not _job(work).finish or work in waits]

    def _go_on(self) -> None:
        """Does the first of the things to be done. With the lock. After an interrupt it may be called again, and does
        the rest: nothing is removed from a queue before it is done."""
        caller, making = self._caller, self._making
        if making is not None:
            self._end(making, _interrupted())
            self._making = None
        elif self._stopped:
            work = self._stopped[0]
            if work.failure is None:
                self._make(work, _job(work).stop)
            else:
                self._end(work, work.failure)
            self._stopped.popleft()
        elif caller.cancelled and (unfinished := self._unfinished()):
            for work in unfinished:
                self._make(work, _job(work).cancelled)
        elif caller.ready:
            work = caller.ready[0]
            job = _job(work)
            if work not in self._active or job.finish:
                pass
            elif job.taken < len(job.drawn):
                self._make(work, job.next)
            elif work.failure is not None:
                self._end(work, work.failure)
            elif work.expired:
                self._make(work, job.cancelled)
            caller.ready.popleft()
        elif caller.failure is not None:
            for work in list(self._active):
                self._end(work, caller.failure)

    def _make(self, work: Work, make: Callable[[], Piece | None]) -> None:
        """Makes a piece of a request. Its results count as taken from the beginning, so that a request whose piece was
        interrupted cannot go on."""
        index = self._active.get(work)
        if index is None:
            return
        self._making = work
        try:
            piece = make()
        except Exception as error:
            self._end(work, error)
        else:
            if piece is None and _job(work).unscored:
                self._scheduler.note((work,), rest=True)  # its reader may take a while
                self._unscored.append(work)
            elif piece is None:  # a stop string
                self._ended.append((work, partial(self._stop, work)))
            else:
                self._put(index, work, piece)
                if _job(work).finish:
                    self._ended.append((work, None))
                    del self._active[work]
        self._making = None

    def _stop_lost(self) -> None:
        """Does what `_stop` does for those whose call to it was lost in an interrupt."""
        with self._lock:
            known = {*snapshot(self._stopped), *snapshot(self._unscored), *(work for work, _ in snapshot(self._ended))}
            for work in list(self._active):
                if _job(work).finish and work not in known and not self._scheduler.leaves(work):
                    self._stopped.append(work)

    def _stop(self, work: Work) -> None:
        """Called when no pass uses the sequence of a generation that ends before a stop string."""
        self._stopped.append(work)
        self.collect()
        self._caller.ready.append(work)
        self._caller.event.set()
        self._tell_loop()

    def _end(self, work: Work, error: Exception) -> None:
        index = self._active.get(work)
        if index is not None:
            self._errors[index] = untraced(error)
            self._ended.append((work, None))
            _job(work).failed(error)
            self._active.pop(work, None)

    def _put(self, index: int, work: Work, piece: Piece) -> None:
        self._pieces.append(piece._replace(index=index) if index else piece)
        work.unread += 1

    def _get(self) -> Piece | None:
        with self._lock:
            lost = self._giving
            if lost is not None and not (self._pieces and self._pieces[0] is lost):
                self._errors[lost.index] = _interrupted()
            self._giving = None
            if not self._pieces:
                return None
            piece = self._giving = self._pieces[0]
            self._works[piece.index].unread -= 1
            self._pieces.popleft()
            self._gathered[piece.index].add(piece)
            self._giving = None
        self._scheduler.arrived()
        return piece

    def _check_fork(self) -> None:
        if self._scheduler.forks != self._forks:
            raise PellucidError("the process was forked while the request ran: it runs only in the parent")

    def _raise(self) -> None:
        """Raises the error of the completions that failed, if any."""
        if not self._errors:
            return
        first = min(self._errors)
        if not self._several:
            raise again(self._errors[first])
        done = [one.completion() for one in self._gathered]
        text = f"completion {first}: {self._errors[first]} ({len(self._errors)} of {len(done)} completions failed)"
        raise BatchError(text, errors=dict(self._errors), completions=done)

    def _whole(self) -> Completion | list[Completion]:
        self._raise()
        done = [one.completion() for one in self._gathered]
        found = [one for one in done if one is not None]
        return found if self._several else found[0]


def _job(work: Work) -> Job:
    return cast(Job, work.job)


def _interrupted() -> PellucidError:
    return PellucidError("the request was interrupted while its pieces were made: they are incomplete")
