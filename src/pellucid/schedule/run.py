"""Runs generations in the scheduler and yields their pieces."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import NamedTuple, cast

from pellucid import _engine
from pellucid.core import Core
from pellucid.errors import ContextFullError, NumericsError, again, untraced
from pellucid.generation import Job, canceller
from pellucid.results import Piece
from pellucid.sampling import SamplingOptions
from pellucid.schedule.assistant import Assistant
from pellucid.schedule.caller import Caller, Shared, Work
from pellucid.schedule.draft import Drafts
from pellucid.schedule.reuse import Reuse
from pellucid.schedule.room import Room
from pellucid.schedule.scheduler import Scheduler
from pellucid.streams import Reader

__all__ = ["AT_ONCE", "Item", "drafts", "goes_back", "of", "pieces"]

AT_ONCE = 32  # requests of one call in the scheduler
TOGETHER = 8  # passes whose results are taken together if nobody waits for the first
Score = Callable[[Scheduler, Work], None]

_making = threading.Lock()
_known: tuple[weakref.ref[Scheduler], ...] = ()  # of all models and views; replaced, so that it is read without a lock


def of(core: Core) -> Scheduler:
    """The scheduler of a model, or of a view of one."""
    global _known
    if core.scheduler is None:
        with _making:
            if core.scheduler is None:
                its: Core = weakref.proxy(core)  # so that both are freed with the last reference to the core
                core.scheduler = Scheduler(
                    lambda: its.open(),  # looked up anew for each pass
                    lambda: _engine.Sequence(its.engine),
                    sequences=core.sequences,
                    max_gap=core.max_gap,
                    reuse=_reuse(core),
                    assistant=_assistant(core),
                    room=Room(its),
                    elsewhere=partial(_elsewhere, its),
                    tile=16 if core.engine.info()["isa"] == "amx" else 8,  # rows of a tile register, of a vector kernel
                )
                _known = (*(one for one in _known if one() is not None), weakref.ref(core.scheduler))
                if core.prefix_bytes != 0:
                    core.engine.spare = _spare(core.scheduler)
    scheduler: Scheduler = core.scheduler
    return scheduler


def _elsewhere(core: Core) -> float | None:
    """The seconds for which a pass may delay requests of other models and views, whose passes are computed in turn with
    it: the least `max_gap` of those that decode, divided among the others that compute. None: none decodes."""
    found = [one() for one in _known]
    schedulers = [one for one in found if one is not None and one is not core.scheduler]
    decoding = [one.max_gap for one in schedulers if one.decodes()]
    if not decoding:
        return None
    return min(decoding) / max(sum(one.busy() for one in schedulers), 1)


def _reuse(core: Core) -> Reuse | None:
    if core.prefix_bytes == 0:
        return None
    return Reuse(core.prefix_bytes, whole=goes_back(core))


def goes_back(core: Core) -> bool:
    """Whether a sequence can be rewound to any length: no layer has a window or a state."""
    return not core.engine.recurs and all(cache.window == 0 for cache in core.engine.plan.caches)


def _assistant(core: Core) -> Assistant | None:
    draft = core.draft
    return None if draft is None else Assistant(draft.open, draft.context_length, core.config.vocab)


def drafts(job: Job) -> Drafts | None:
    """The guesses at a request's tokens; None if they cannot be verified, or are not wanted."""
    return Drafts(job.begun, job.prediction) if job.speculates else None


def _spare(scheduler: Scheduler) -> Callable[[], bool]:
    """Its `Scheduler.spare` for the engine, which must not keep the scheduler alive."""
    known = weakref.ref(scheduler)

    def spare() -> bool:
        found = known()
        return found is not None and found.spare()

    return spare


class Item(NamedTuple):
    """A generation to run, its number in the call, and the prompt that it shares with others. failure: the error of an
    item that has no job."""

    number: int
    job: Job
    shared: Shared | None = None
    failure: Exception | None = None


def pieces(
    core: Core,
    items: Iterable[Item],
    options: SamplingOptions,
    reader: Reader,
    score: Score,
    *,
    at_once: Callable[[], int] = lambda: AT_ONCE,
) -> Generator[tuple[Item, Piece | Exception], None, None]:
    """Runs generations and yields (item, piece) as pieces are made, or (item, its error), which ends that one. At most
    `at_once()` are in flight; an item is taken when there is room.

    An error of a whole pass is raised, after the pieces of the passes before it. reader: what the reader wants, which
    may change meanwhile. score: `turns.score`.
    """
    cancel, scheduler = canceller(options.cancel), of(core)
    caller = Caller(_cancel(reader, cancel), options.chunk)
    patient = cancel is None  # and only tokens end generations: if text did, tokens beyond it would be computed
    active: dict[Work, Item] = {}
    prompts: weakref.WeakSet[Shared] = weakref.WeakSet()
    waiting, left = iter(items), True
    forks = scheduler.forks
    ends = scheduler.at_end(active, partial(_forget, prompts))
    try:
        while True:
            while left and len(active) < at_once():
                item = next(waiting, None)
                if item is None:
                    left = False
                    break
                if item.failure is not None:
                    yield item, item.failure
                    continue
                job = item.job
                if job.options.echo and job.prompt_text:
                    yield item, Piece(job.prompt_text, [], [])
                if job.finish:
                    yield item, job.end("")
                    continue
                patient = patient and not job.options.stop and job.spoken is None
                work = Work(job, caller, shared=item.shared, drafts=drafts(job))
                active[work] = item
                if item.shared is not None:
                    prompts.add(item.shared)
                job.leave = partial(scheduler.leave, (work,))
                scheduler.submit(work)
            if not active:
                return
            if scheduler.forks != forks:  # in a forked child, whose scheduler knows none of the parent's requests
                forks = scheduler.forks
                caller.ready.clear()
                for work, item in active.items():
                    untaken = len(item.job.drawn) - item.job.taken
                    caller.ready.extend([work] * untaken)
                    if work.failure is not None:
                        caller.ready.append(work)
                    elif item.job.advance() or not untaken:
                        scheduler.submit(work)
            here = scheduler.computes_here()  # within a pass, of whose requests this may be one
            if here and not reader.closed:
                scheduler.check_here()
            caller.together = TOGETHER if patient and reader.whole else 1
            if caller.ready or caller.failure is not None or here:
                caller.stopped()
            elif len(active) > 1 or not work.job.drawn or not scheduler.step(work):
                scheduler.wait(caller)
            if caller.cancelled:
                scheduler.leave(active, free=True) if here else scheduler.leave_and_wait(active)
                for item in active.values():
                    yield item, item.job.cancelled()
                for item in waiting:
                    if item.failure is not None:
                        yield item, item.failure
                        continue
                    if item.job.options.echo and item.job.prompt_text:
                        yield item, Piece(item.job.prompt_text, [], [])
                    yield item, item.job.end("") if item.job.finish else item.job.cancelled()
                return
            if caller.failure is not None and not caller.ready:
                raise _failure(caller)
            out = _take(scheduler, caller, active, score)
            if out is not None:
                yield out
    except Exception as error:
        for item in active.values():
            item.job.failed(error)
        raise
    finally:
        ends()  # first, as this block may be interrupted, too
        caller.over = True
        # An error's traceback may keep the prompts, but must not keep their sequences.
        scheduler.leave(active, free=True)
        for item in active.values():
            item.job.failed(None)
        active = {}
        caller.ready.clear()  # the caller and its works refer to each other


def _failure(caller: Caller) -> Exception:
    """The error of a whole pass; the caller, which will be in its traceback, no longer keeps it."""
    error, caller.failure = caller.failure, None
    assert error is not None
    return again(error)


def _forget(prompts: Iterable[Shared]) -> None:
    """Drops the sequences of prompts that no request needs any more."""
    for one in prompts:
        one.sequence = one.by = None


def _take(
    scheduler: Scheduler, caller: Caller, active: dict[Work, Item], score: Score
) -> tuple[Item, Piece | Exception] | None:
    """The next result that the scheduler made ready; None: it was already taken."""
    work = caller.ready.popleft()
    item = active.get(work)
    if item is None:
        return None
    job = item.job
    out: Piece | Exception | None
    if job.taken < len(job.drawn):
        try:
            out = job.next()
            if out is None:
                out = _before_a_stop_string(scheduler, work, score)
        except (ContextFullError, NumericsError) as error:
            out = work.failure = untraced(error)
    elif work.failure is not None:
        out = work.failure
    elif work.expired:
        out = job.cancelled()
    else:
        return None
    assert out is not None
    if isinstance(out, Exception):
        job.failed(out)
    if job.finish or work.failure is out:
        scheduler.leave((work,), free=True)
        del active[work]  # last, so that it leaves again if this was interrupted
    return item, out


def _before_a_stop_string(scheduler: Scheduler, work: Work, score: Score) -> Piece | None:
    """The last piece of a request that has reached a stop string."""
    job = cast(Job, work.job)
    job.settle()
    out = job.stop()
    if out is None:
        score(scheduler, work)
        out = job.stop()
    return out


def _cancel(reader: Reader, cancel: Callable[[], bool] | None) -> Callable[[], bool]:
    return (lambda: reader.closed) if cancel is None else (lambda: reader.closed or cancel())


def _after_fork() -> None:
    global _making
    _making = threading.Lock()  # another thread of the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
