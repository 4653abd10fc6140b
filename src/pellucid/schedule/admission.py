"""The requests of a scheduler: those that run, those that wait, and which are admitted next."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from pellucid.errors import OutOfMemoryError, QueueFullError, untraced
from pellucid.schedule.batch import Batch
from pellucid.schedule.caller import Caller, Work
from pellucid.schedule.cost import Cost
from pellucid.schedule.departures import Departures
from pellucid.schedule.driver import Driver
from pellucid.schedule.locks import Signal
from pellucid.schedule.memory import Call, drop, keeps
from pellucid.schedule.passes import Want
from pellucid.schedule.reuse import Reuse

__all__ = ["Requests"]

TOGETHER = 1.0  # predicted seconds of a pass that several callers share: none can end it alone
# The part of the longest gap that a pass is planned to take if prompts are computed beside new tokens: other work falls
# into the gap, too, and the speed of a machine drifts.
AIM = 0.85


class Requests(Departures):
    """Requests of one engine, and the rows that they want, of which the scheduler makes passes.

    sequence: makes an empty sequence. sequences: how many requests run at the same time; those that wait for their
    reader do not count. max_gap: the most seconds that a pass is planned to take while a request of another caller
    decodes. elsewhere: returns the same for decoding requests of other models and of views, or None if there are none;
    it must not block. tile: see Cost.
    """

    passes = rows = 0  # computed so far
    pass_seconds = 0.0

    def __init__(
        self,
        sequence: Callable[[], Any],
        sequences: int,
        max_gap: float,
        reuse: Reuse | None = None,
        lock: Callable[[], Any] = threading.Lock,
        event: Callable[[], Any] = Signal,
        room: Any = None,
        elsewhere: Callable[[], float | None] = lambda: None,
        tile: int = 8,
    ) -> None:
        self.room = room  # a Room, if there is a limit
        self._new_sequence = sequence
        self._sequences = sequences
        self.max_gap = max_gap
        self._elsewhere = elsewhere
        self.max_waiting = self.max_waiting_tokens = math.inf  # requests; tokens of their prompts
        self.max_wait = math.inf  # seconds of computing that these take
        self._tile = tile
        self._cost = Cost(tile)
        self._costs: dict[str, Cost] = {"prompt": self._cost}  # of the passes of calls, by their kind
        self.preemptions = self.prompt_tokens = self.generated = self.prefix_queries = self.prefix_hits = 0
        super().__init__(lock, event, reuse)

    def _clear(self) -> None:
        super()._clear()
        self._permanent: Driver | None = None
        self._news: dict[Caller, None] = {}  # for `_permanent`: callers with owners that have results, or have ended
        self._short_of = False  # memory ran out for a call: no request is admitted before a call ends

    @property
    def _crowded(self) -> bool:
        return self._short_of and bool(self._holders.calls)  # an interrupt may have ended the call

    # ---- arrivals ---------------------------------------------------------------------------------------------

    def submit(self, work: Work) -> None:
        """Adds a request. Its passes begin when its caller, or another, waits."""
        with self._after, self._lock:
            self._served.came(work.key)
            self._waiting.append(work)
        self.arrived()

    def check_room(self, requests: int, tokens: int, key: str = "") -> None:
        """Raises QueueFullError if this many requests, with so many tokens in all, would exceed the limits on waiting.
        While others wait, a single request of a key that has none waiting is always accepted: no key can shut out
        another."""
        with self._after, self._lock:
            if requests == 1 and self._waiting and not any(one.key[1] == key for one in self._waiting):
                return
            free = self._sequences - len(self._running)
            waiting = len(self._waiting) + requests - max(free, 0)
            lacking = sum(len(one.job.tokens) for one in self._waiting)
            for job in (one.job for one in self._running if one.job.sequence is not None):
                rows = len(job.tokens) - job.sequence.length
                lacking += rows if rows > 0 and not job.fresh(rows) else 0
            busy = bool(self._waiting or self._running)
        found = self._cost.seconds()
        seconds = 0.0 if found is None else (lacking + tokens) * (found.row + found.each / 256)
        if not busy:
            return
        many = seconds >= self.max_wait or lacking + tokens > self.max_waiting_tokens
        if waiting > self.max_waiting or (lacking and many):
            raise QueueFullError(retry_after=round(max(1.0, min(seconds, self.max_wait)), 1))

    def decodes(self) -> bool:
        """Whether a request has begun to decode. Never waits."""
        return any(work.job.drawn and not work.gone for work in list(self._running))

    def busy(self) -> bool:
        """Whether there is something to compute. Never waits."""
        return bool(self._running or self._waiting or self._holders.calls)

    def _gap(self, decodes: bool, elsewhere: float | None) -> float:
        """The most seconds of a pass. decodes: whether one of these requests decodes; elsewhere: see the class."""
        return min(self.max_gap if decodes else math.inf, math.inf if elsewhere is None else elsewhere)

    # ---- calls that are not generations -----------------------------------------------------------------------

    def begin_call(self, call: Call) -> bool:
        """Adds a call, whose passes run between those of the requests. False: its memory does not fit beside that of
        the calls before it."""
        with self._after, self._lock:
            limit = None if self.room is None else self.room.limit
            others = sum(one.most for one in self._holders.others())
            fits = not others or not call.most or limit is None or others + call.most <= limit
            if fits:
                self._holders.begin(call)
        return fits

    def end_call(self, call: Call) -> None:
        """Removes a call, after its memory has been freed."""
        with self._after, self._lock:
            self._holders.end(call)
            self._short_of = False

    def beside(self, rows: int, depth: int = 0, kind: str = "prompt") -> int:
        """How many of so many rows the next pass of a call may have without delaying decoding requests for longer than
        a prompt's pass may. depth: tokens that the call's sequence holds; kind: of the call."""
        running = [(len(work.job.tokens), bool(work.job.drawn)) for work in list(self._running) if not work.gone]
        decoding = [length for length, drawn in running if drawn]
        elsewhere = self._elsewhere()
        if not decoding and elsewhere is None:
            return rows
        gap = self._gap(bool(decoding), elsewhere)
        if len(decoding) < len(running):  # prompts have the other half
            gap /= 2
        found = self._cost.seconds()
        if found is not None and decoding:
            gap -= found.of(len(decoding), sum(decoding))
        return self._kind(kind).rows(gap, 0, 0, depth, rows)

    def took(self, kind: str, rows: int, deep: int, seconds: float) -> None:
        """Notes how long a pass of a call took. deep: sum of rows x depth."""
        if rows > 1:
            self._kind(kind).add(rows, deep, seconds)

    def _kind(self, name: str) -> Cost:
        return self._costs.setdefault(name, Cost(self._tile))

    def arrived(self) -> None:
        """Called when there may be something new to run."""

    # ---- what a pass may take ----------------------------------------------------------------------------------

    def _wanting(self) -> tuple[list[Work], list[Want], set[Caller]]:
        """The requests that want rows, the most urgent first, with those that can be admitted."""
        works, wants, callers = [], [], set()
        now = 0.0
        if self._waiting and self._running:
            self._make_way()
        for work in list(self._running):
            if work.deadline is not None:
                now = now or time.monotonic()
                if now > work.deadline:
                    self._expire(work, self._running)
                    continue
            want = self._want(work)
            if want is not None:
                works.append(work)
                wants.append(want)
                callers.add(work.caller)
        for work in list(self._waiting):
            if work.deadline is not None and time.monotonic() > work.deadline:
                self._expire(work, self._waiting)
        if self._waiting and not (works and self._short):
            admitted = full = False
            names = {one.key[1] for one in self._running}
            for work in self._next(names, len(works) >= self._sequences):
                if self._crowded and not self._holders.wait_for(work):
                    continue
                elif works and (self._short or full):
                    continue
                elif len(works) >= self._sequences and work.key[1] in names:  # each key may have one
                    continue
                elif works and self._lacking(work) > 0:
                    full = True  # no later one passes it
                elif self._admit(work, works):
                    admitted = True
                    names.add(work.key[1])
                    want = self._want(work)
                    if want is not None:
                        works.append(work)
                        wants.append(want)
                        callers.add(work.caller)
            if admitted:
                self._running.sort(key=Work.order)
                pairs = sorted(zip(works, wants, strict=True), key=lambda pair: pair[0].order())
                works, wants = [work for work, _ in pairs], [want for _, want in pairs]
        if len({work.key[1] for work in works}) > 1:
            served = (self._served[work.key] for work in works)
            wants = [want._replace(served=rows) for want, rows in zip(wants, served, strict=True)]
        # At the end, for a request that waits for another makes a cut there.
        wants = [self._before_cut(work, want) if work.cuts else want for work, want in zip(works, wants, strict=True)]
        return works, wants, callers

    def _next(self, names: set[str], others: bool = False) -> list[Work]:
        """The waiting requests in the order of admission: first those that calls wait for. names: keys with running
        requests; others: whether to list only requests of other keys."""
        served = self._served
        some = [work for work in self._waiting if work.key[1] not in names] if others else self._waiting
        waits = self._holders.wait_for
        return sorted(some, key=lambda w: (not waits(w), w.priority, w.key[1] in names, served[w.key], w.number))

    def _make_way(self) -> None:
        """Preempts requests of the key that has the most if that makes room for the first request of another key, which
        would otherwise wait for memory until one of them ends."""
        count = Counter(one.key[1] for one in self._running)
        if self.room is None or all(one.key[1] in count for one in self._waiting):
            return
        work = self._next({*count})[0]
        lacking = max(self._lacking(work), 1 if self._short else 0)
        if work.key[1] in count or lacking <= 0:
            return
        name, n = count.most_common(1)[0]
        given: list[Work] = []
        for one in sorted(self._running, key=Work.order, reverse=True):
            if lacking > 0 and len(given) < n - 1 and one.key[1] == name and one.priority >= work.priority:
                if one.holds and not keeps(one):
                    given.append(one)
                    lacking -= self.room.need(one.job.soon())
        if lacking <= 0:
            for one in given:
                drop(one)
                self._pause(one)
            self._short = False

    def _pause(self, work: Work) -> None:
        """Puts a request whose memory was given up back into the queue; it begins again when there is room."""
        work.preempted += 1
        work.paused_at = time.monotonic()
        self.preemptions += 1
        left = [one for one in self._running if one is not work]
        self._running, self._waiting = left, [*self._waiting, work]  # together: no signal handler runs in between
        self._short = True

    def _wants(self, work: Work) -> int:
        """How many rows a request could use."""
        job = work.job
        if work.told < len(job.drawn) and not work.gone:  # decided without a draw
            self._tell_results(work)
        if work.gone or work.failure is not None or work.lag() >= work.ahead:
            return 0
        try:
            more = job.advance()
        except Exception as error:
            self._fail_one(work, error)
            return 0
        if not more:
            return 0
        if job.sequence.length >= job.begun + len(job.drawn):
            # Computed by a pass whose driver was interrupted before it had the result.
            job.sequence.rewind(job.begun + len(job.drawn) - 1)
        return min(job.rows(), work.most)

    def _want(self, work: Work) -> Want | None:
        rows = self._wants(work)
        if not rows:
            return None
        caller = work.caller
        return Want(rows, rows == 1 or work.job.fresh(rows), caller.number, caller.rows)

    @staticmethod
    def _before_cut(work: Work, want: Want) -> Want:
        n = work.job.sequence.length
        cut = next((cut for cut in work.cuts if cut > n), None)
        return want if cut is None or cut - n >= want.rows else want._replace(rows=cut - n)

    def _lacking(self, work: Work) -> int:
        """Bytes that are missing for a request, its prompt and its next tokens, beside what the running requests will
        soon need. 0 or less: it fits."""
        room = self.room
        if room is None or room.limit is None:
            return 0
        free: int = room.free()
        if self.reuse is not None:
            free += self.reuse.bytes  # evicted when memory is short
        for one in self._running:
            sequence = one.job.sequence
            held = 0 if sequence is None else sequence.length
            free -= max(room.need(one.job.soon()) - room.need(held), 0)
        free -= sum(max(call.most - call.held(), 0) for call in self._holders.calls)
        shared = work.shared
        known = shared is not None and (shared.sequence is not None or shared.by not in (None, work))
        needed: int = room.beside(work.job.soon(), shared.length if shared is not None and known else 0)
        return needed - free

    def _admit(self, work: Work, computing: list[Work]) -> bool:
        """Gives a request its sequence. False: it has to wait for a prompt that another computes, or has failed.
        computing: the requests that want rows."""
        shared, forked = work.shared, False
        if shared is not None:
            if shared.sequence is not None:
                work.job.sequence = shared.sequence.fork()
                work.shared, work.holds, work.cached = None, True, shared.length
                forked = True
            elif shared.by is None or shared.by is work or shared.by.gone or shared.by.failure is not None:
                shared.by = work
            else:
                return False
        if self.reuse is not None and work.root is not None and not work.holds:
            if not self.reuse.begin(work, self._running, computing):
                return False
            work.job.cached = work.cached
            self.prefix_queries, self.prefix_hits = self.reuse.queries, self.reuse.hits
        if work.job.sequence is None:
            try:
                work.job.sequence = self._new_sequence()
            except OutOfMemoryError as error:
                self._fail_one(work, error)
                self._quit(self._waiting, work)
                return False
        if work.shared is not None:
            work.cuts = sorted({*work.cuts, work.shared.length})
            self._cut(work)
        now = time.monotonic()
        if work.started is None:
            work.started = now
            self.prompt_tokens += 0 if forked else len(work.job.tokens)
        elif work.paused_at:
            work.paused += now - work.paused_at
            work.paused_at, work.admitted = 0.0, now
        left = [one for one in self._waiting if one is not work]
        self._waiting, self._running = left, [*self._running, work]  # together, as in `_pause`
        return True

    def _expire(self, work: Work, queue: list[Work]) -> None:
        drop(work)  # its reader may take a while to notice
        work.expired = True
        work.ended = time.monotonic()
        self._tell_end(work)
        self._quit(queue, work)  # last, so that it expires again if this was interrupted

    def _limits(self, works: list[Work], wants: list[Want], room: int, elsewhere: float | None) -> tuple[int, int]:
        """(rows of a pass of several callers, rows of prompts in it). elsewhere: see the class."""
        lengths = [work.job.sequence.length for work in works]
        decoding = [length for length, want in zip(lengths, wants, strict=True) if want.fresh]
        depth = next(length for length, want in zip(lengths, wants, strict=True) if not want.fresh)
        rows, deep = len(decoding), sum(decoding)
        room = min(room, rows + self._cost.rows(TOGETHER, rows, deep, depth, room))
        gap = self._gap(rows > 0, elsewhere) / (2 if self._holders.calls else 1)  # calls have the other half
        return room, self._cost.rows(AIM * gap, rows, deep, depth, room)

    def kept(self) -> list[tuple[str, list[int]]]:
        """The sequences of the prefix cache: see `Reuse.kept`."""
        with self._after, self._lock:
            return [] if self.reuse is None else self.reuse.kept()

    def copy(self, root: str, ids: list[int]) -> Any:
        """A copy of a sequence of the prefix cache: see `Reuse.copy`."""
        with self._after, self._lock:
            return None if self.reuse is None else self.reuse.copy(root, ids)

    def put(self, root: str, ids: list[int], sequence: Any) -> None:
        """Adds a sequence to the prefix cache."""
        with self._after, self._lock:
            if self.reuse is not None:
                self.reuse.put(root, ids, sequence)

    def _fail_one(self, work: Work, error: Exception) -> None:
        work.failure = untraced(error)
        self._tell_end(work)

    def _tell_end(self, work: Work) -> None:
        """Tells the caller that a request ended, and first of its last results: those decided without a draw may not
        have been told yet."""
        self._tell_results(work)
        self._tell(work)

    def _count(self, batch: Batch) -> None:
        """Notes what a batch computed."""
        done, seconds = batch.done, batch.seconds
        self.passes += done
        self.rows += batch.rows * done
        self.pass_seconds += seconds
        if batch.rows > 1 or not self.passes % 16 or self.passes < 16:
            self._cost.add(batch.rows, batch.deep + batch.rows * (done - 1) // 2, seconds / done)
        of_key: dict[tuple[int, str], int] = {}
        for (work, _), (_, part, _) in zip(batch.entries, batch.parts, strict=True):
            n = len(part) * done
            work.job.computed += n
            of_key[work.key] = of_key.get(work.key, 0) + n
        for key, n in of_key.items():
            self._served.add(key, n)

    def _tell_results(self, work: Work) -> None:
        """Tells the caller of results that it does not know of."""
        while work.told < len(work.job.drawn):
            self._tell(work)
            work.told += 1
            self.generated += 1

    def _tell(self, work: Work) -> None:
        """Tells the caller that a request has a result, or ended."""
        work.caller.ready.append(work)
        self._note_news(work.caller)

    def _note_news(self, caller: Caller) -> None:
        """Tells the permanent driver, if there is one, of a caller with an owner; without a driver, owners look for
        themselves."""
        if caller.owner is not None and self._permanent is not None:
            self._news[caller] = None

    def _cut(self, work: Work) -> None:
        """Keeps what a request has computed if it is at one of its cuts."""
        n, shared = work.job.sequence.length, work.shared
        if n in work.cuts and self.reuse is not None and work.root is not None:
            self.reuse.reached(work)
        work.cuts = [cut for cut in work.cuts if cut > n]
        if shared is not None and shared.length <= n:
            work.shared = shared.by = None
            if shared.length < n:  # after an interrupt; another request computes it again
                return
            try:
                shared.sequence = work.job.sequence.fork()
                self._holders.shared.add(shared)
            except OutOfMemoryError:
                pass
