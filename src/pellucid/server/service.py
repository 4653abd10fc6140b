"""What the endpoints share: the models, their names, the running requests, the threads for text."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from pellucid.errors import OutOfMemoryError, one_line
from pellucid.model import Model
from pellucid.schedule.request import Request
from pellucid.schedule.room import NeverFits
from pellucid.server.access import Key
from pellucid.server.edits import EditedModels
from pellucid.server.failures import Failure, busy, stopping
from pellucid.server.feed import Feed
from pellucid.server.metrics import Metrics
from pellucid.server.models import Hosted, Models, Source
from pellucid.server.record import Record, log
from pellucid.server.settings import Settings

__all__ = ["Running", "Service"]

T = TypeVar("T")

QUIET = ("/health", "/metrics")  # not in the log, unless they fail


class Running:
    """A request, from its arrival to its end. feed: None until its generations are submitted; requests: these
    generations."""

    def __init__(self, record: Record, stream: bool, n: int) -> None:
        self.record = record
        self.stream = stream
        self.n = n
        self.feed: Feed | None = None
        self.requests: list[Request] = []
        self.task: asyncio.Task[Any] | None = None
        self.failure: Failure | None = None

    @property
    def waits(self) -> bool:
        """Whether nothing has been computed for it yet."""
        return not self.record.first and not any(one.stats.prefilled + one.stats.cached for one in self.requests)

    @property
    def prompt_tokens(self) -> int:
        return sum(one.prompt_tokens for one in self.requests)

    def end(self, error: Failure) -> None:
        """Ends it with an error."""
        self.failure = self.failure or error
        if self.feed is not None:
            self.feed.fail(self.failure)
        elif self.task is not None:
            self.task.cancel()


class Service:
    """The state of the server. sources: the models that are served, each loaded when it is first requested; empty: a
    single model, which is given at the start or to `loaded`."""

    def __init__(self, settings: Settings, model: Model | None = None, sources: Sequence[Source] = ()) -> None:
        self.settings = settings
        self.models = Models(
            sources or [Source(settings.names)],
            settings.limits,
            settings.memory,
            settings.keep_alive,
            settings.cache_dir,
            settings.cache_dir_bytes,
            settings.template,
        )
        self.edited = EditedModels(settings.limits)
        self.metrics = Metrics(self.models, lambda: self.running)
        self.running: set[Running] = set()
        self.draining = False
        self._begun = bool(sources)
        self._waiting_texts = 0
        self._scoring = 0
        self._computing = 0  # requests that compute, or wait to
        self._turns: asyncio.Semaphore | None = None
        self._works: set[Future[Any]] = set()  # what the threads work on
        self._texts = ThreadPoolExecutor(settings.limits.text_threads, "pellucid text")
        self._scores = ThreadPoolExecutor(1, "pellucid score")
        if model is not None:
            self.loaded(model)

    def loaded(self, model: Model) -> None:
        """Begins to serve the only model."""
        self.models.begin(self.models.all[0], model)
        self._begun = True

    @staticmethod
    def prepare(model: Model) -> None:
        """Builds what the first request with a schema would wait for, if schemas can be used."""
        with suppress(Exception):  # llguidance, or a tokenizer, is missing
            model.core.need_tokenizer().grammars(model.core.engine.vocab)

    def ended(self, record: Record) -> None:
        """Counts an answered request, and writes its line to the log."""
        record.end()
        self.metrics.ended(record)
        if not (record.path in QUIET or record.path.startswith("/ui/")) or record.status >= 400:
            log.info("%s", record.line(self.settings.log_json), extra={"is_request": True})

    def close(self) -> None:
        self.edited.close()
        self._texts.shutdown(wait=False, cancel_futures=True)
        self._scores.shutdown(wait=False, cancel_futures=True)

    @property
    def at_work(self) -> bool:
        """Whether a thread is working, perhaps on something that nobody waits for any more."""
        return bool(self._works)

    # ---- what may be asked ------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        return "stopping" if self.draining else "ok" if self._begun else "loading"

    def ready(self) -> None:
        """Raises Failure (503) while the only model is loaded for the first time, and while the server stops."""
        if self.draining:
            raise stopping()
        if not self._begun:
            raise busy(503, "the model is being loaded", "loading", 5)

    def select(self, asked: str | None, record: Record | None = None) -> tuple[str, Hosted]:
        """(the name under which a request's model answers, the model). record: gets the names. Raises Failure (404) for
        an unknown name."""
        default = self.settings.default_model
        name = asked if asked is not None else default or self.models.all[0].name
        found = self.models.find(name)
        if found is None and default is not None:
            name, found = default, self.models.find(default)
        if found is not None:
            if record is not None:
                record.model, record.served = name, found.name
            return name, found
        known = ", ".join(self.models.names)
        text = f"no model {one_line(name, 80)!r} here; there are: {known}"
        raise Failure(404, one_line(text), code="model_not_found", param="model")

    def template(self, model: Model) -> str | None:
        """The chat template: the operator's, else the model's own; None: it has none."""
        tokenizer = model.tokenizer
        own = None if tokenizer is None else tokenizer.chat_template
        return own if self.settings.template is None else self.settings.template

    @staticmethod
    def priority(asked: int | None, key: Key) -> int:
        """A request's priority. Raises Failure (400) for one that its key may not use."""
        if asked is None:
            return max(key.priority, 0)
        if asked < key.priority:
            text = f"priority={asked}: this key may ask for {key.priority} at most; lower ones go first"
            raise Failure(400, text, code="priority_not_allowed", param="priority")
        return asked

    # ---- threads ----------------------------------------------------------------------------------------------

    async def text(self, work: Callable[[], T], undo: Callable[[T], None] | None = None) -> T:
        """Runs work that tokenises or renders in one of the threads for text. undo: called with its result if nobody
        waits for it any more. Raises Failure (429) if too many wait."""
        limits = self.settings.limits
        begin = sum(one.model.core.sequences for one in self.models.all if one.model is not None)
        if self._waiting_texts >= limits.waiting + limits.text_threads + begin:  # as many may arrive together
            raise busy(429, "too many requests wait to be tokenised", "queue_full", 1)
        self._waiting_texts += 1
        try:
            return await self._in(self._texts, work, undo)
        finally:
            self._waiting_texts -= 1

    async def write(self, work: Callable[[], T]) -> T:
        """Runs work that makes a large answer in one of these threads. Never refused, as everything has been
        computed."""
        return await self._in(self._texts, work, None)

    async def score(self, model: Model, work: Callable[[Callable[[], bool]], T]) -> T:
        """Runs work that scores prompts. work: called with a function that says whether to end, because nobody waits
        for it any more. If generations hold the memory that it needs, it waits for them to end. Raises Failure (429) if
        too many wait."""
        if self._scoring > self.settings.limits.waiting:
            raise busy(429, "too many requests wait to be scored", "queue_full", 5)
        end = time.monotonic() + self.settings.limits.waiting_seconds
        left = threading.Event()
        while True:
            stats = model.stats()
            self._scoring += 1
            try:
                return await self._in(self._scores, partial(work, left.is_set), None)
            except asyncio.CancelledError:
                left.set()
                raise
            except NeverFits:
                raise
            except OutOfMemoryError:
                if time.monotonic() > end or not (stats.running or stats.waiting):
                    raise
            finally:
                self._scoring -= 1
            await asyncio.sleep(0.05)

    async def _in(self, pool: ThreadPoolExecutor, work: Callable[[], T], undo: Callable[[T], None] | None) -> T:
        running: Future[T] = pool.submit(work)
        self._works.add(running)
        running.add_done_callback(self._works.discard)

        def ended(done: Future[T]) -> None:
            if undo is not None and not done.cancelled() and done.exception() is None:
                undo(done.result())

        waited = asyncio.wrap_future(running)
        # So that asyncio does not report its exception as never retrieved.
        waited.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            return await asyncio.shield(waited)
        except asyncio.CancelledError:
            running.cancel()
            running.add_done_callback(ended)
            raise
        finally:
            del running, waited  # an error's traceback refers to this, and they to the error

    @asynccontextmanager
    async def computing(self) -> AsyncIterator[None]:
        """One of the few turns for requests that compute in a thread of their own. Raises Failure (429) if too many
        wait."""
        limits = self.settings.limits
        if self._turns is None or not self._computing:
            self._turns = asyncio.Semaphore(limits.computing)  # of this event loop
        if self._computing >= limits.waiting + limits.computing:
            raise busy(429, "too many requests wait to be computed", "queue_full", 5)
        self._computing += 1
        try:
            async with self._turns:
                self.ready()
                yield
        finally:
            self._computing -= 1

    def crowded(self, error: Exception, mine: Running) -> Exception:
        """The error of a request, or Failure (429) if it lacked memory that others hold."""
        passes = isinstance(error, OutOfMemoryError) and not isinstance(error, NeverFits)
        if passes and (self._scoring or self.running - {mine}):
            return busy(429, "other requests hold the memory that this one needs", "queue_full", 5)
        return error
