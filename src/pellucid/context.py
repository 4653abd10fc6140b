"""A context: a sequence of tokens, and the keys and values computed for them so far."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import GeneratorType
from typing import Any, Literal, cast, overload

from pellucid import _engine, checks, generation
from pellucid.core import Core
from pellucid.errors import ContextBusyError, ContextFullError, WrongValue
from pellucid.results import Completion, Piece, collect
from pellucid.sampling import SamplingOptions

__all__ = ["Context"]


class Context:
    """A sequence that keeps its cache between calls, so that each call computes only new tokens. Created by
    ``Model.context()``.

    It has one user at a time: a call while another runs, or while a stream is unfinished, raises ``ContextBusyError``.
    Every method raises ``ClosedError`` once the model is closed.
    """

    def __init__(self, core: Core, sequence: _engine.Sequence | None = None, ids: Sequence[int] = ()) -> None:
        self._core = core
        self._lock = threading.Lock()
        self._sequence = _engine.Sequence(core.open()) if sequence is None else sequence
        self._ids = list(ids)

    @property
    def length(self) -> int:
        """Number of tokens held, those of prompts and those generated."""
        return len(self._ids)

    @property
    def ids(self) -> list[int]:
        """The tokens held (a copy)."""
        return list(self._ids)

    def __len__(self) -> int:
        return self.length

    def __repr__(self) -> str:
        return f"<Context of {self.length} tokens, {self._sequence.length} computed>"

    # ---- what it holds ----------------------------------------------------------------------------------------

    def append(self, ids: str | Sequence[int], *, chunk: int = 512, cancel: Any = None) -> None:
        """Adds tokens (or text) and computes their keys and values. If it fails or is cancelled, no token is added.

        Raises ``ContextFullError``, before computing anything; ``ValueError`` for an id out of range.
        """
        with self.in_use():
            new = self._encode(ids, "ids")
            chunk, stop = generation.check_chunk(chunk), generation.canceller(cancel)
            before = len(self._ids)
            self._ids += new
            try:
                if not generation.prefill(self._core.open(), self._sequence, self._ids, chunk, stop):
                    self._cut(before)
            except BaseException:
                self._cut(before)
                raise

    def rewind(self, n: int) -> None:
        """Removes all tokens from position n on (0 <= n <= length)."""
        n = checks.integer("n", n, 0, len(self._ids))
        with self.in_use():
            self._core.open()
            self._cut(n)

    def fork(self) -> Context:
        """-> a new context with the same tokens. They share memory until one of them is extended."""
        with self.in_use():
            self._core.open()
            return Context(self._core, self._sequence.fork(), self._ids)

    def _cut(self, n: int) -> None:
        del self._ids[n:]
        if n < self._sequence.length:
            self._sequence.rewind(n)  # recomputes everything later, where a window has freed what is needed

    # ---- generation -------------------------------------------------------------------------------------------

    def generate(self, prompt: str | Sequence[int] = (), **options: Any) -> Completion:
        """Appends a prompt (by default none) and generates; the context keeps all tokens. Options and errors: see
        ``Model.generate``."""
        pieces = self.stream(prompt, **options)
        return collect(pieces, self.ids)  # a copy of the ids, made before anything is generated

    def stream(self, prompt: str | Sequence[int] = (), **options: Any) -> Iterator[Piece]:
        """Like :meth:`generate`, but yields pieces. The context is in use until the iterator ends or is closed."""
        parsed = generation.parse_options(options)
        self._acquire()  # here, so that this call raises the error of a busy context
        try:
            self._core.open()
            new = self._encode(prompt, "prompt", empty=True)
            if not self._ids and not new:
                if not isinstance(prompt, str):
                    raise WrongValue("prompt", " is empty, and so is the context: there is nothing to continue")
                new = self._core.prompt(prompt)  # BOS alone, where the model has one
        except BaseException:
            self._lock.release()
            raise
        return self._go_on(new, prompt if isinstance(prompt, str) else "", parsed)

    @overload
    def chat(
        self, messages: Sequence[Mapping[str, Any]], *, stream: Literal[False] = False, **options: Any
    ) -> Completion: ...
    @overload
    def chat(
        self, messages: Sequence[Mapping[str, Any]], *, stream: Literal[True], **options: Any
    ) -> Iterator[Piece]: ...
    def chat(self, messages: Any, *, stream: bool = False, **options: Any) -> Any:
        """Generates the next message of a conversation -> Completion; with ``stream``, an iterator of Piece.

        ``messages`` is always the whole conversation. The context keeps the tokens at its beginning that it already
        holds, drops the rest, and computes only new ones; ``prompt_tokens`` counts those. Options and errors: see
        ``Model.chat``. If the messages are wrong or too long, the context does not change.
        """
        prompt, parsed = generation.start_chat(self._core, messages, options)
        self._acquire()
        try:
            self._core.open()
            same = next((i for i, (a, b) in enumerate(zip(self._ids, prompt.ids)) if a != b), None)
            keep = min(len(self._ids), len(prompt.ids)) if same is None else same
            # The last token is recomputed even if the context holds it, since its logits are needed.
            self._cut(min(keep, len(prompt.ids) - 1))
        except BaseException:
            self._lock.release()
            raise
        pieces = self._go_on(prompt.ids[len(self._ids) :], prompt.text if parsed.echo else "", parsed)
        return pieces if stream else collect(pieces, prompt.ids)

    def _go_on(self, new: list[int], text: str, options: SamplingOptions) -> Iterator[Piece]:
        """Adds tokens and generates. The context must be in use already; it is released at the end."""
        before = len(self._ids)
        try:
            engine = self._core.open()
            self._ids += new
            if self._sequence.length == len(self._ids):  # recompute the last token, whose logits are needed
                self._sequence.rewind(len(self._ids) - 1)
            job = generation.Job(self._core, self._ids, options, self._sequence, len(new), text)
        except BaseException:
            self._cut(before)
            self._lock.release()
            raise

        def pieces() -> Generator[Piece, None, None]:
            try:
                yield from generation.run(engine, [job], options)
            except BaseException as e:
                if not job.new and not isinstance(e, GeneratorExit):  # drop a prompt that could not be computed
                    self._cut(before)
                raise

        return _Released(cast("GeneratorType[Piece, None, None]", pieces()), self._lock.release)

    # ---- use --------------------------------------------------------------------------------------------------

    def _encode(self, text: str | Sequence[int], name: str, *, empty: bool = False) -> list[int]:
        core = self._core
        if isinstance(text, str):
            tokenizer = core.need_tokenizer()
            ids = tokenizer.encode(text, add_special=not self._ids) if text or not empty else []
        else:
            ids = core.check_ids(text, name, empty=True)
        if len(self._ids) + len(ids) > core.context_length:
            raise ContextFullError(needed=len(self._ids) + len(ids), available=core.context_length)
        return ids

    def _acquire(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise ContextBusyError

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keeps the context in use during one call. Raises ContextBusyError where it already is."""
        self._acquire()
        try:
            yield
        finally:
            self._lock.release()


class _Released:
    """A generator that calls `release` once: when it ends, fails, is closed or is collected, whichever comes first, but
    never while another thread still runs it."""

    def __init__(self, pieces: GeneratorType[Any, None, None], release: Callable[[], None]) -> None:
        self._pieces = pieces
        self._releases = [release]

    def __iter__(self) -> _Released:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._pieces)
        except ValueError:
            if self._pieces.gi_running:
                raise ContextBusyError from None
            raise
        finally:
            if self._pieces.gi_frame is None:
                self._give_back()

    def _give_back(self) -> None:
        with suppress(IndexError):
            self._releases.pop()()

    def close(self) -> None:
        try:
            self._pieces.close()
        except ValueError:
            raise ContextBusyError from None
        self._give_back()

    def __del__(self) -> None:
        self._give_back()
