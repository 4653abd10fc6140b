"""Streams: generations that a caller reads piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from types import GeneratorType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from pellucid.display import follow
from pellucid.errors import BatchError, ClosedError, ContextBusyError, WrongType, again
from pellucid.markup import Fragment, count, in_notebook
from pellucid.results import Completion, Gathered, Piece

if TYPE_CHECKING:
    from typing import Self

__all__ = ["BatchStream", "Reader", "Stream"]

Item = TypeVar("Item")


class Reader:
    """What the reader of a generation wants. closed: nothing more; whole: all that is left, in one go."""

    __slots__ = ("closed", "whole")

    def __init__(self, whole: bool = False) -> None:
        self.closed = False
        self.whole = whole


class _Running(Iterator[Item], Generic[Item]):
    """Items of a generator. `release` is called once: when the generator ends, fails or is closed, or when the
    object is collected, whichever comes first, but never while another thread still runs it.

    An exception from a user's function is kept with its traceback, whose frames drop `self` as it leaves them:
    otherwise both would live until Python's cycle collector runs.

    reader: what the generator should yield; once closed, it yields what is left without computing, and ends.
    """

    def __init__(self, items: Generator[Item, None, None], reader: Reader, release: Callable[[], None] | None) -> None:
        self._items = cast("GeneratorType[Item, None, None]", items)
        self._reader = reader
        self._releases = [] if release is None else [release]
        self._failure: Exception | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        raise WrongType(type(self).__name__, ": a running generation can be neither pickled nor copied")

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        try:
            item = self._take()
        finally:
            del self
        if item is None:
            raise StopIteration
        return item

    def _take(self, *, every: bool = False) -> Item | None:
        """Takes the next item, or all that are left in one loop -> the last one; None if there was none."""
        item = None
        try:
            for item in self._items:
                self._add(item)
                if not every:
                    break
        except BaseException as error:
            self._raised(error)
            raise
        finally:
            if self._items.gi_frame is None:
                self._give_back()
            del self
        return item

    def close(self) -> None:
        """Stops the generation. May be called again. Raises ContextBusyError while another thread takes a piece."""
        if self._items.gi_running:
            raise _busy()
        self._reader.closed = True
        with suppress(Exception):  # an error that `result` raises
            for _ in self:
                pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_releases"):  # false if __init__ was called with wrong arguments
            self._give_back()

    def _give_back(self) -> None:
        for release in self._releases:  # repeated, since an interrupt may have stopped it
            release()
        self._releases.clear()

    def _drain(self) -> None:
        """Takes all items that are left. Raises the error that ended the stream, each time."""
        if self._items.gi_running:
            raise _busy()
        reader = self._reader
        reader.whole = True
        try:
            self._take(every=True)
            failure = self._failure
        finally:
            reader.whole = False
            del self
        try:
            if failure is not None:
                raise again(failure)
        finally:
            del failure

    def _raised(self, error: BaseException) -> None:
        """Records what taking an item raised; after an interrupt, which may have lost an item, no more are yielded.
        Raises ContextBusyError if another thread is taking one."""
        if isinstance(error, ValueError) and self._items.gi_running:
            raise _busy() from None
        if isinstance(error, Exception):
            self._failure = again(self._failed(error))
        else:
            self._items.close()

    def _ipython_display_(self) -> None:
        """In a notebook, takes all items that are left, shows them as they arrive, then the whole."""
        if not in_notebook():
            raise NotImplementedError  # IPython then shows the repr
        follow(self, self._draw, self.__repr__)

    def _add(self, item: Item) -> None:
        raise NotImplementedError

    def _draw(self, fragment: Fragment) -> None:
        raise NotImplementedError

    def _failed(self, error: Exception) -> Exception:
        return error


class Stream(_Running[Piece]):
    """A generation that runs as its pieces are read: an iterator of :class:`Piece`, returned by ``stream`` and by
    ``chat(stream=True)``.

    A context manager, which closes the stream at the end. A context is in use until its stream ends or is closed.

    As the last value of a notebook cell, it shows the text as it arrives, then the whole Completion.
    """

    def __init__(
        self,
        pieces: Generator[Piece, None, None],
        gathered: Gathered,
        reader: Reader,
        release: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(pieces, reader, release)
        self._gathered = gathered

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._gathered.text)

    @property
    def dropped(self) -> int:
        """Number of messages that ``chat(on_full="trim")`` left out of the prompt."""
        return self._gathered.dropped

    def result(self) -> Completion:
        """Generates the rest -> the whole Completion. After an early :meth:`close`, the text up to then, with the
        finish reason "cancelled". Raises the error that ended the generation."""
        gathered = self._gathered
        try:
            self._drain()
        finally:
            del self
        return gathered.completion() or _interrupted()

    def __repr__(self) -> str:
        return f"<Stream: {count(len(self._gathered.ids), 'token')} so far>"

    def _add(self, item: Piece) -> None:
        self._gathered.add(item)

    def _draw(self, fragment: Fragment) -> None:
        self._gathered.draw(fragment)


class BatchStream(_Running[tuple[int, Piece]]):
    """Generations from several prompts in the same passes: an iterator of (index, :class:`Piece`), returned by
    ``stream`` for several prompts. With ``n``, indices are ordered by prompt: those of the first prompt's completions
    come first.

    A context manager, which closes the stream at the end. If some of the prompts fail, the others continue; at the end,
    iterating raises a BatchError. A notebook shows it like a :class:`Stream`.
    """

    def __init__(
        self, pieces: Generator[tuple[int, Piece], None, None], gathered: Sequence[Gathered], reader: Reader
    ) -> None:
        super().__init__(pieces, reader, None)
        self._gathered = gathered

    @property
    def texts(self) -> list[str]:
        """The texts so far, by index."""
        return ["".join(one.text) for one in self._gathered]

    def result(self) -> list[Completion]:
        """Generates the rest -> the whole completions, by index. After an early :meth:`close`, the texts up to then.
        Raises BatchError, with the errors of some prompts and the completions of the others."""
        gathered = self._gathered
        try:
            self._drain()
        finally:
            del self
        return [one.completion() or _interrupted() for one in gathered]

    def __repr__(self) -> str:
        tokens = sum(len(one.ids) for one in self._gathered)
        return f"<BatchStream of {len(self._gathered)}: {count(tokens, 'token')} so far>"

    def _add(self, item: tuple[int, Piece]) -> None:
        index, piece = item
        self._gathered[index].add(piece)

    def _draw(self, fragment: Fragment) -> None:
        for index, one in enumerate(self._gathered):
            fragment.heading(str(index))
            one.draw(fragment)

    def _failed(self, error: Exception) -> Exception:
        if isinstance(error, BatchError):
            error.completions = [one.completion() for one in self._gathered]
        return error


def _busy() -> ContextBusyError:
    return ContextBusyError("the stream is in use by another thread")


def _interrupted() -> Completion:
    raise ClosedError("the stream was interrupted: it has no result")
