"""The models that are served: each is loaded when it is first requested, and unloaded when others need its memory."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from pellucid import cache_folder, memory
from pellucid.errors import OutOfMemoryError, UnsupportedModelError
from pellucid.info import ModelInfo
from pellucid.model import Model
from pellucid.server.failures import Failure, LoadError, busy, stopping
from pellucid.server.identity import fingerprint
from pellucid.server.record import log
from pellucid.server.settings import Limits

__all__ = ["Hosted", "Models", "Source", "at_work", "wait_for_writes"]

T = TypeVar("T")

LOAD, UNLOAD, SAVE = "pellucid load", "pellucid unload", "pellucid save"  # names of threads
IDLE = 2.0  # seconds without requests after which the prefix cache is written to its folder
BUSY = 60.0  # seconds after which it is written again while there are requests


@dataclass(frozen=True, slots=True)
class Source:
    """A model to serve. names: what clients call it, its own name first. load: loads it; called in a thread, and may
    take a while. None: the server is given the model. nbytes: of its files, 0 if that is not known."""

    names: tuple[str, ...]
    load: Callable[[], Model] | None = None
    nbytes: int = 0


class Hosted:
    """A model that is served. uses: requests that use it or wait for it; while there are any, it stays loaded. last:
    when the last one ended. saved: when its prefix cache was last written. context: tokens that a sequence may hold, 0
    before it is first loaded. past: what was counted for it before it was unloaded."""

    def __init__(self, source: Source) -> None:
        self.names = source.names
        self.load = source.load
        self.nbytes = source.nbytes
        self.model: Model | None = None
        self.loading: asyncio.Task[None] | None = None
        self.uses = 0
        self.last = self.saved = 0.0
        self.loads = 0
        self.past: Counter[str] = Counter()
        self.context = 0
        self.info: ModelInfo | None = None  # from when it was last loaded
        self.generates = True
        self.created = int(time.time())
        self.fingerprint = ""

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def state(self) -> str:
        return "loaded" if self.model is not None else "loading" if self.loading is not None else "unloaded"

    def begin(self, model: Model, limits: Limits, template: str | None = None) -> None:
        """Begins to serve it. template: chat template in place of its own. Raises ChatTemplateError."""
        if template is not None:
            model.core.need_tokenizer().chat(template)
        self.info = model.info()
        self.fingerprint = fingerprint(self.info, template)
        try:
            model.drive(**limits.queue())
        except UnsupportedModelError:  # it cannot generate, but may give embeddings
            self.generates = False
        self.loads += 1
        self.context = model.context_length
        self.last = self.saved = time.monotonic()
        self.model = model
        self.nbytes = self.taken()

    def taken(self) -> int:
        """Bytes that it takes at present: weights, working memory, keys and values."""
        if self.model is None or self.model.core.closed:
            return 0
        info = self.model.core.engine.info()
        return int(info["packed_bytes"] + info["work_bytes"] + info["cache_bytes"])


class Models:
    """All models that are served. limit: bytes that they may take together; None: what the machine has left.
    keep_alive: seconds without use after which one is unloaded; None: never. cache_dir: folder that keeps the prefix
    caches, also of models that are not loaded, in at most cache_dir_bytes; None: there is none. template: chat template
    in place of the only model's own."""

    def __init__(
        self,
        sources: Iterable[Source],
        limits: Limits,
        limit: int | None = None,
        keep_alive: float | None = None,
        cache_dir: str | None = None,
        cache_dir_bytes: int = 0,
        template: str | None = None,
    ) -> None:
        self.all = [Hosted(source) for source in sources]
        self._by_name = {name: one for one in self.all for name in one.names}
        self._limits = limits
        self._limit = limit
        self._keep_alive = keep_alive
        self._cache_dir, self._cache_dir_bytes = cache_dir, cache_dir_bytes
        self._template = template
        self._writing = threading.Lock()
        self._lock = asyncio.Lock()
        self._pending = 0  # tasks that load or unload
        self._released: asyncio.Event | None = None  # a request ended
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def names(self) -> list[str]:
        return list(self._by_name)

    def find(self, name: str) -> Hosted | None:
        """The model of a name, to which clients of Ollama add a tag."""
        return self._by_name.get(name) or self._by_name.get(name.removesuffix(":latest"))

    def begin(self, one: Hosted, model: Model) -> None:
        """Begins to serve a model."""
        if self._cache_dir is not None:
            cache_folder.load(model.core, self._cache_dir, log.warning)
        one.begin(model, self._limits, self._template)

    def _end(self, model: Model) -> None:
        try:
            self._write(model)
        finally:
            model.close()

    def _write(self, model: Model) -> None:
        """Writes the prefix cache of a model to its folder."""
        with self._writing:
            if self._cache_dir is not None and not model.core.closed:
                cache_folder.save(model.core, self._cache_dir, self._cache_dir_bytes, log.warning)

    def close(self) -> None:
        for one in self.all:
            if one.model is not None:
                self._end(one.model)

    # ---- what requests do -------------------------------------------------------------------------------------

    @asynccontextmanager
    async def use(self, one: Hosted) -> AsyncIterator[Model]:
        """The model, which stays loaded until the block ends. Raises Failure: 503 if loading takes longer than a
        request may wait, 429 if too many wait; LoadError if it cannot be loaded."""
        if one.model is None and one.uses >= self._limits.waiting:
            raise busy(429, f"too many requests wait for {one.name} to be loaded", "queue_full", 5)
        one.uses += 1
        try:
            model = one.model or await self._loaded(one)
            yield model
        finally:
            one.uses -= 1
            one.last = time.monotonic()
            if self._released is not None:
                self._released.set()

    async def _loaded(self, one: Hosted) -> Model:
        until = time.monotonic() + self._limits.load_seconds
        while one.model is None:
            if one.loading is None:
                one.loading = self._begin(self._load(one))
            task = one.loading
            await asyncio.wait({task}, timeout=until - time.monotonic())
            if not task.done():
                raise busy(503, f"{one.name} is being loaded", "loading", 5)
            if task.cancelled():
                raise stopping()
            task.result()
        return one.model

    async def unload(self, one: Hosted) -> None:
        """Unloads a model unless it is in use, or was not loaded by this server."""
        await asyncio.wait({self._begin(self._unload_idle(one))}, timeout=self._limits.load_seconds)

    # ---- loading and unloading --------------------------------------------------------------------------------

    def _begin(self, work: Any) -> asyncio.Task[None]:
        if not self._pending:
            self._lock = asyncio.Lock()  # of this event loop
        self._pending += 1
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)

        def ended(done: asyncio.Task[None]) -> None:
            self._pending -= 1
            self._tasks.discard(done)
            if not done.cancelled():
                done.exception()  # so that asyncio does not report it as never retrieved

        task.add_done_callback(ended)
        return task

    async def _load(self, one: Hosted) -> None:
        try:
            async with self._lock:
                await self._make_room(one)
                begun = time.monotonic()
                model = await self._read(one)
                try:
                    await in_thread(lambda: self.begin(one, model), LOAD)
                except BaseException:
                    model.close()
                    raise
                log.info("loaded %s in %.1f s", one.name, time.monotonic() - begun)
                while self._limit is not None and self._short(one):  # its files had less than it takes
                    if not await self._unload_one(one):
                        break
        except (Failure, asyncio.CancelledError):
            raise
        except Exception as error:
            raise LoadError(f"{one.name} could not be loaded", error) from None
        finally:
            one.loading = None

    async def _read(self, one: Hosted) -> Model:
        assert one.load is not None
        while True:
            try:
                return await in_thread(one.load, LOAD, Model.close)
            except OutOfMemoryError:
                if not await self._unload_one(one):
                    raise

    async def _make_room(self, one: Hosted) -> None:
        """Unloads models that are not in use, the least recently used first, while memory is short; then, if there is a
        limit, waits for requests to end."""
        while self._short(one):
            if await self._unload_one(one):
                continue
            if self._limit is None or not any(other.model for other in self.all if other is not one):
                return
            if not one.uses:
                raise busy(503, f"there is no room for {one.name} beside the models in use", "no_room", 5)
            self._released = asyncio.Event()
            try:
                await asyncio.wait_for(self._released.wait(), 1.0)
            except TimeoutError:
                pass
            finally:
                self._released = None

    def _short(self, one: Hosted) -> bool:
        if self._limit is not None:
            return sum(other.taken() for other in self.all if other is not one) + one.nbytes > self._limit
        left = memory.available()
        return left is not None and one.nbytes > left

    async def _unload_one(self, besides: Hosted) -> bool:
        idle = [other for other in self.all if other.model is not None and not other.uses and other is not besides]
        if not idle:
            return False
        await self._unload(min(idle, key=lambda other: other.last))
        return True

    async def _unload(self, one: Hosted) -> None:
        model, one.model = one.model, None
        if model is not None:
            one.past.update({name: value for name, value in model.stats().to_dict().items() if value})
            info = model.core.engine.info()
            one.nbytes = int(info["packed_bytes"] + info["work_bytes"])
            await in_thread(lambda: self._end(model), UNLOAD)
            log.info("unloaded %s", one.name)

    def tick(self, now: float) -> None:
        """Unloads models that have not been used for long, and writes prefix caches. To be called in the event loop,
        now and then."""
        for one in self.all:
            if self._pending:
                return
            if self._keep_alive is not None and self._is_stale(one, now):
                self._begin(self._unload_stale(one))
            elif self._cache_dir is not None and one.last > one.saved:  # requests ended since
                if now - one.last >= IDLE if not one.uses else now - one.saved >= BUSY:
                    self._begin(self._save(one))

    async def _save(self, one: Hosted) -> None:
        model, one.saved = one.model, time.monotonic()
        if model is not None:
            await in_thread(lambda: self._write(model), SAVE)

    def _is_stale(self, one: Hosted, now: float) -> bool:
        assert self._keep_alive is not None
        return one.model is not None and one.load is not None and not one.uses and now - one.last >= self._keep_alive

    async def _unload_idle(self, one: Hosted) -> None:
        async with self._lock:
            if one.load is not None and not one.uses:
                await self._unload(one)

    async def _unload_stale(self, one: Hosted) -> None:
        async with self._lock:
            if self._is_stale(one, time.monotonic()):
                await self._unload(one)


def at_work() -> bool:
    """Whether a thread is loading a model, perhaps one that nobody waits for any more."""
    return any(thread.name == LOAD for thread in threading.enumerate())


def wait_for_writes() -> None:
    """Waits until no thread saves or unloads a model, so that what it writes is complete."""
    for thread in threading.enumerate():
        if thread.name in (UNLOAD, SAVE):
            thread.join()


async def in_thread(work: Callable[[], T], name: str, undo: Callable[[T], object] | None = None) -> T:
    """The result of `work`, which runs in a thread of its own that does not keep the process alive. undo: called with
    the result if nobody waits for it any more."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    def abandoned(done: Future[T]) -> None:
        if undo is not None and done.exception() is None:
            undo(done.result())

    waited = asyncio.wrap_future(result)
    threading.Thread(target=run, name=name, daemon=True).start()
    try:
        return await asyncio.shield(waited)
    except asyncio.CancelledError:
        waited.add_done_callback(lambda done: done.cancelled() or done.exception())
        result.add_done_callback(abandoned)
        raise
