"""Calls that are not generations: scores, logits, traces, embeddings, what a context computes.

Their passes have the scheduler's seat one at a time, between the passes of the requests. While a request decodes, they
are as short as a prompt's pass then is. Their memory counts when requests are admitted. If memory is short, a call
waits for the calls before it, and requests are preempted for it, to be computed again: neither makes the other fail.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from pellucid import _engine
from pellucid.core import Core
from pellucid.errors import OutOfMemoryError
from pellucid.generation import Job
from pellucid.schedule.caller import Caller, Work
from pellucid.schedule.locks import acquire
from pellucid.schedule.memory import SOON, Freed
from pellucid.schedule.room import MOST_TOGETHER
from pellucid.schedule.run import of
from pellucid.schedule.scheduler import Scheduler
from pellucid.schedule.seat import SLICE

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Turns", "score"]

MOST_PAIRS = 1 << 24  # queries x keys of one step of `attention`: well under a tenth of a second on two cores
T = TypeVar("T")


class _Asked(Exception):
    """Holds the error of a `cancel` function that lacked memory: a pass that lacks some is tried again, but this one
    may be over."""


def _ask(cancel: Callable[[], bool]) -> bool:
    try:
        return cancel()
    except OutOfMemoryError as error:
        raise _Asked(error) from None


class Turns:
    """The passes of one such call, which uses an engine through it. A context manager, which empties its sequences at
    the end.

    kind: calls of one kind have passes that take equally long for equally many rows. lengths: how many tokens each
    sequence is to compute; those that are done are dropped (`drop`). cancel: whether to end, called by the call's
    thread; then `_engine.Cancelled` is raised. engine: one that has the core's weights; None: the core's.
    """

    def __init__(
        self,
        core: Core,
        kind: str,
        lengths: Sequence[int] = (),
        cancel: Callable[[], bool] | None = None,
        engine: _engine.Engine | None = None,
    ) -> None:
        opened = core.open()
        self.engine = engine = opened if engine is None else engine
        self.max_rows, self.vocab, self.dim, self.plan = engine.max_rows, engine.vocab, engine.dim, engine.plan
        self.kind = kind
        self.together = MOST_TOGETHER  # sequences in a pass, at most
        self.short = False  # memory was short in its last pass
        self.sole = False  # it was the only one that held memory when its last pass began
        self._scheduler = scheduler = of(core)
        self.caller = Caller(None if cancel is None else partial(_ask, cancel), 1 << 30, scheduler.new_event)
        self.caller.thread = threading.get_ident()
        self.most = 0
        if scheduler.room is not None:
            scheduler.room.check_call(lengths)
            self.most = scheduler.room.most(lengths, self.max_rows)
        self._sequences: dict[int, _engine.Sequence] = {}

    def __enter__(self) -> Self:
        try:
            while not self._scheduler.begin_call(self) and not self._scheduler.computes_here():
                if self.caller.stopped():
                    raise _engine.Cancelled("the call was cancelled")
                time.sleep(SLICE)
        except BaseException as error:  # perhaps after the call had begun
            self.__exit__(None, error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for sequence in self._sequences.values():  # the error's traceback may keep them
            sequence.rewind(0)
        self._sequences.clear()
        self._scheduler.end_call(self)
        if isinstance(error, _Asked):
            raise error.args[0] from None

    # ---- sequences --------------------------------------------------------------------------------------------

    def sequence(self, begun: _engine.Sequence | None = None) -> _engine.Sequence:
        """-> an empty sequence, or a fork of one, which is dropped at the end."""
        made = _engine.Sequence(self.engine) if begun is None else begun.fork()
        self._sequences[id(made)] = made
        return made

    def drop(self, sequence: _engine.Sequence) -> None:
        """Frees the pages of a sequence that is done."""
        del self._sequences[id(sequence)]
        sequence.rewind(0)

    def held(self) -> int:
        """Bytes that its sequences have at least. Any thread may call it."""
        room = self._scheduler.room
        lengths = [one.length for one in list(self._sequences.values())]
        return 0 if room is None else sum(room.need(n) for n in lengths if n)

    # ---- passes -----------------------------------------------------------------------------------------------

    def rows(self, most: int, depth: int = 0, *, part: bool = False) -> int:
        """How many of so many rows the next pass may have. depth: tokens that their sequence holds. part: whether it is
        a pass over a part of the plan."""
        room = self._scheduler.room
        if room is not None:
            most = room.rows(depth, most)
        return self._scheduler.beside(most, depth, self._kind(part))

    def _kind(self, part: bool) -> str:
        return f"{self.kind}, a part" if part else self.kind

    def fewer(self, parts: int) -> bool:
        """Called when a pass of `parts` sequences lacked memory -> whether to try again with fewer, `together`."""
        self.together = parts // 2
        return self.together > 0

    def forward(self, parts: Sequence[tuple[_engine.Sequence, Any, int]], **options: Any) -> Any:
        """``Engine.forward``."""
        forward: Any = self.engine.forward
        if (cancel := options.get("cancel")) is not None:
            options["cancel"] = partial(_ask, cancel)
        options.setdefault("cancel", self.caller.cancel)
        return self._pass(parts, lambda: forward(parts, **options))

    def observe(self, parts: Sequence[tuple[_engine.Sequence, Any, int]], **options: Any) -> Any:
        """``Engine.observe``."""
        part = options.get("ops") is not None
        return self._pass(parts, lambda: self.engine.observe(parts, cancel=self.caller.cancel, **options), part)

    def rows_of(
        self, sequence: _engine.Sequence, ids: Sequence[int], end: int, taps: Sequence[tuple[int, int]]
    ) -> dict[tuple[int, int], npt.NDArray[np.float32]]:
        """Computes a sequence's tokens up to `end`, in as many passes as they take -> their rows of each tap (op,
        buffer). What is computed from these does not depend on what else runs."""
        parts: dict[tuple[int, int], list[npt.NDArray[np.float32]]] = {}
        while sequence.length < end:
            start = sequence.length
            part = np.array(ids[start : start + self.rows(end - start, start)], np.int32)
            found, _ = self.observe([(sequence, part, len(part))], taps=taps)
            for tap, rows in found.items():
                parts.setdefault(tap, []).append(rows)
        return {tap: some[0] if len(some) == 1 else np.concatenate(some) for tap, some in parts.items()}

    def keys(
        self, sequence: _engine.Sequence, cache: int, layer: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """``Sequence.keys``."""
        return self._turn(lambda: sequence.keys(cache, layer))

    def attention(
        self,
        q: npt.NDArray[np.float32],
        k: npt.NDArray[np.float32],
        groups: Sequence[int],
        positions: Sequence[int] | npt.NDArray[Any],
        *,
        scores: npt.NDArray[np.float32] | None,
        weights: npt.NDArray[np.float32] | None,
        **options: Any,
    ) -> None:
        """``Engine.attention``, some rows at a time; how many changes no bit."""
        heads, m, n = q.shape[0], q.shape[1], k.shape[1]
        step = max(MOST_PAIRS // (heads * n), 1)
        for start in range(0, m, step):
            rows = slice(start, min(start + step, m))
            whole = rows == slice(0, m)
            outs = {name: out for name, out in (("scores", scores), ("weights", weights)) if out is not None}
            parts = outs if whole else {name: np.zeros((heads, rows.stop - start, n), np.float32) for name in outs}
            some = np.ascontiguousarray(q[:, rows])

            def work(some: Any = some, rows: slice = rows, parts: dict[str, Any] = parts) -> None:
                self.engine.attention(some, k, groups, positions[rows], **parts, **options)

            self._turn(work)
            if not whole:
                for name, out in outs.items():
                    out[:, rows] = parts[name]

    def _pass(self, parts: Sequence[tuple[_engine.Sequence, Any, int]], work: Callable[[], T], part: bool = False) -> T:
        rows = sum(len(ids) for _, ids, _ in parts)
        deep = sum(len(ids) * sequence.length for sequence, ids, _ in parts)

        def timed() -> T:
            start = time.perf_counter()
            found = work()
            self._scheduler.took(self._kind(part), rows, deep, time.perf_counter() - start)
            return found

        return self._turn(timed)

    def _turn(self, work: Callable[[], T]) -> T:
        """Runs one pass; if it lacks memory, again once some was freed."""
        scheduler = self._scheduler
        if scheduler.computes_here():  # called by a function that was given as `cancel`
            return work()
        if self.caller.stopped():  # a pass itself checks only every 20 ms
            raise _engine.Cancelled("the call was cancelled")
        while True:
            freed = Freed.AGAIN
            try:
                scheduler.take_turn(self)
                found = work()
                self.short = False
                return found
            except OutOfMemoryError:
                freed = scheduler.make_room(self)
                if freed is Freed.NOTHING:
                    raise
            finally:
                scheduler.leave_seat(self.caller, turn=True)
            if freed is Freed.SOON:
                time.sleep(SOON)


def score(scheduler: Scheduler, work: Work, cancel: Callable[[], bool] | None = None) -> None:
    """Computes the log probabilities of the last tokens before a stop string for a request that has left, in turns. Its
    memory may be given to others while it waits; it is then computed again. cancel: must compute nothing. Raises what a
    pass raises, Cancelled."""
    scheduler.note((work,), rest=True)
    taken: list[bool] = []
    job = cast(Job, work.job)
    try:
        while not (taken and taken[-1]):  # one request at a time, as each may need all the memory
            if cancel is not None and cancel():
                raise _engine.Cancelled("the call was cancelled")
            acquire(taken, scheduler.scoring, True, SLICE)
        with Turns(job.core, "prompt", (), cancel) as turns:
            scheduler.go_on(work)
            try:
                job.score(turns, turns.rows)
            finally:
                scheduler.go_on(work, ends=True)
    finally:
        if taken and taken[-1]:  # calls no Python function, after which an interrupt could come
            scheduler.scoring.release()
