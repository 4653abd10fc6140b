"""Calls for asyncio. Each runs in a thread of its own, which ends with the call. asyncio is imported on first use.

Cancelling a task stops its work. The task waits until the work has stopped, which takes one stage of a forward pass,
before CancelledError is raised; by then, what the work used is free again.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pellucid.errors import ClosedError, ContextBusyError, out_of_memory
from pellucid.results import Completion, Piece

if TYPE_CHECKING:
    import asyncio
    from typing import Self

__all__ = ["AsyncBatchStream", "AsyncStream", "call", "each"]

Item = TypeVar("Item")
Result = TypeVar("Result")
T = TypeVar("T")
_END: Any = object()  # after the last item


async def call(function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """``function(*arguments, **options)`` in a thread; the function must accept the option ``cancel``."""
    options, stop = _stoppable(options)
    return await _run(lambda: function(*arguments, **options), stop)


async def each(function: Callable[..., Iterator[T]], *arguments: Any, **options: Any) -> AsyncIterator[T]:
    """The items that ``function(*arguments, **options)`` yields; each step runs in a thread. The function must accept
    the option ``cancel``."""
    options, stop = _stoppable(options)
    running = function(*arguments, **options)
    try:
        while True:
            item: Any = await _run(lambda: next(running, _END), stop)
            if item is _END:
                return
            yield item
    finally:
        close = getattr(running, "close", None)
        if close is not None:
            close()


class _Stop:
    """The signal to end a call: it was set, or the event loop that awaits the call was closed."""

    def __init__(self) -> None:
        self._set = False
        self.loop: asyncio.AbstractEventLoop | None = None

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set or (self.loop is not None and self.loop.is_closed())


def _stoppable(options: Mapping[str, Any]) -> tuple[dict[str, Any], _Stop]:
    """(options whose ``cancel`` also checks a new signal, that signal)."""
    stop, cancel = _Stop(), options.get("cancel")
    if cancel is None:
        cancel = getattr(options.get("options"), "cancel", None)
    asked = getattr(cancel, "is_set", cancel)
    if callable(asked):
        return {**options, "cancel": lambda: stop.is_set() or asked()}, stop
    return {**options, "cancel": stop if cancel is None else cancel}, stop  # the call refuses a wrong one


async def _run(work: Callable[[], T], stop: _Stop) -> T:
    """Runs `work` in a thread of its own and returns or raises what it does. When the task is cancelled, `stop` is
    set, and CancelledError is raised once the work has ended."""
    import asyncio
    import contextvars

    loop, context = asyncio.get_running_loop(), contextvars.copy_context()
    stop.loop = loop
    ended = loop.create_future()
    results: list[T] = []
    errors: list[BaseException] = []

    def end() -> None:
        if not ended.done():
            ended.set_result(None)

    def run() -> None:
        try:
            results.append(context.run(work))
        except BaseException as error:
            errors.append(error)
        with suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(end)

    thread = threading.Thread(target=run, name="pellucid call")
    with out_of_memory("to compute"):
        thread.start()
    cancelled = None
    while not ended.done():
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError as error:
            stop.set()
            cancelled = error
        except BaseException:  # the coroutine was closed
            stop.set()
            raise
    thread.join()  # it has nothing left to do
    try:
        if cancelled is not None:
            raise cancelled
        if errors:
            raise errors[0]
        return results[0]
    finally:
        errors.clear()  # its traceback refers to this frame
        cancelled = None


class _AsyncRunning(AsyncIterator[Item], Generic[Item, Result]):
    """A stream whose steps run in threads. Nothing is computed between two steps, so a caller that stops between them
    leaves nothing running.

    start: creates the stream, from options to which ``cancel`` was added.
    """

    def __init__(self, start: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        options, self._stop = _stoppable(options)
        self._start: Callable[[], Any] = lambda: start(*arguments, **options)
        self._stream: Any = None
        self._closed = False
        self._taken = threading.Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: not begun>" if self._stream is None else f"<Async{repr(self._stream)[1:]}"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        item: Any = _END if self._closed else await self._take(lambda: next(self._begun(), _END))
        if item is _END:
            raise StopAsyncIteration
        taken: Item = item
        return taken

    def __await__(self) -> Generator[Any, None, Self]:
        return self._begin().__await__()

    async def _begin(self) -> Self:
        await self._take(self._begun)
        return self

    async def result(self) -> Result:
        result: Result = await self._take(lambda: self._begun().result())
        return result

    async def aclose(self) -> None:
        """Stops the generation and frees what it used. May be called again. Raises ContextBusyError while another task
        waits for a piece."""
        with self._use():
            self._close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    def _begun(self) -> Any:
        if self._stream is None:
            if self._closed:
                raise ClosedError("the stream was closed before it began")
            self._stream = self._start()
        return self._stream

    def _close(self) -> None:
        self._closed = True
        self._stop.set()
        if self._stream is not None:
            self._stream.close()  # computes nothing

    async def _take(self, work: Callable[[], T]) -> T:
        with self._use():
            try:
                return await _run(work, self._stop)
            finally:
                if self._stop.is_set():  # the task was cancelled
                    with suppress(ContextBusyError):  # the coroutine was closed, and the work runs until it notices
                        self._close()

    @contextmanager
    def _use(self) -> Iterator[None]:
        if not self._taken.acquire(blocking=False):
            raise ContextBusyError("the stream is in use by another task")
        try:
            yield
        finally:
            self._taken.release()


class AsyncStream(_AsyncRunning[Piece, Completion]):
    """A generation that runs as its pieces are taken: an asynchronous iterator of :class:`Piece`, made by ``astream``
    and by ``achat(stream=True)``. It begins when its first piece is awaited; ``await stream`` begins it earlier and
    returns the stream.

    ``async with`` closes it at the end. A context is in use until its stream ends, is closed or is garbage-collected,
    as it is on leaving ``async for`` if nothing else refers to it. Cancelling a task that waits for a piece closes the
    stream.
    """

    @property
    def text(self) -> str:
        """The text so far."""
        text: str = "" if self._stream is None else self._stream.text
        return text

    async def result(self) -> Completion:
        """Generates the rest -> the whole Completion; after an early :meth:`aclose`, what had been generated by then.
        Raises the error that ended the generation."""
        return await super().result()


class AsyncBatchStream(_AsyncRunning[tuple[int, Piece], list[Completion]]):
    """Generations from several prompts in the same passes: an asynchronous iterator of (index, :class:`Piece`), made
    by ``astream`` of several prompts. Otherwise as :class:`AsyncStream`, and as ``BatchStream``."""

    @property
    def texts(self) -> list[str]:
        """The texts so far, by index."""
        texts: list[str] = [] if self._stream is None else self._stream.texts
        return texts

    async def result(self) -> list[Completion]:
        """Generates the rest -> the whole completions, by index. If some prompts failed, raises BatchError, with their
        errors and the completions of the others."""
        return await super().result()
