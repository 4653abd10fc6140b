"""A context: a sequence of tokens, and the keys and values computed for them so far."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import numpy.typing as npt

from pellucid import _engine, checks, generation
from pellucid.arguments import named, plain, prompts, streams, wrong_part
from pellucid.asynchronous import AsyncStream, call
from pellucid.core import Core
from pellucid.errors import ClosedError, ContextBusyError, ContextFullError, WrongType, WrongValue, shown
from pellucid.options import (
    CHAT_DEFAULTS,
    GENERATE_DEFAULTS,
    ChatOptions,
    GenerateOptions,
    Ids,
    Messages,
    Prompt,
    Prompts,
    Quantity,
)
from pellucid.results import Completion, NextToken
from pellucid.sampling import MOST_LOGPROBS, Cancel, Integer, SamplingOptions, lists_options
from pellucid.schedule import run, start
from pellucid.schedule.turns import Turns
from pellucid.streams import Stream
from pellucid.uses import Use, Uses

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pellucid.look.score import Score
    from pellucid.look.trace import Trace
    from pellucid.reply import Reply

__all__ = ["Context"]


class Context:
    """A sequence of tokens that keeps its cache between calls, so that each call computes only new tokens. Created by
    ``Model.context()``.

    It has one user at a time: a call while another runs, or while a stream is unfinished, raises ``ContextBusyError``.
    It is a context manager, which releases its memory on exit, as :meth:`close` does. Once the context or the model is
    closed, every method raises ``ClosedError``, or an error about its arguments. A context is always true, even an
    empty one.
    """

    def __init__(
        self,
        core: Core = None,  # type: ignore[assignment]  # None: as if forgotten
        sequence: _engine.Sequence | None = None,
        ids: Sequence[int] = (),
    ) -> None:
        if not isinstance(core, Core):
            raise WrongType("Context", f"({'' if core is None else shown(core)}): use model.context()")
        self._core = core
        self._uses = Uses()
        self._sequence = _engine.Sequence(core.decoder()) if sequence is None else sequence
        self._ids = list(ids)
        self._closed = False

    def __reduce__(self) -> tuple[Any, ...]:
        raise WrongType("Context", ": a context cannot be pickled; `save` writes it to a file")

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

    def __bool__(self) -> bool:
        return True  # else `if context:` would ask whether it is empty

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self._sequence.length} computed"
        return f"<Context of {self.length} tokens, {state}>"

    # ---- open and closed --------------------------------------------------------------------------------------

    def close(self) -> None:
        """Releases the context's memory, immediately or when a call that still uses the context ends. ``length`` and
        ``ids`` remain. May be called again."""
        self._closed = True
        self._drop()

    def __enter__(self) -> Context:
        self._open()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open(self) -> _engine.Engine:
        """The engine. Raises ClosedError."""
        if self._closed:
            raise ClosedError("the context is closed")
        return self._core.open()

    def _drop(self) -> None:
        """Drops the sequence of a closed context; if it is in use, its user drops it at the end."""
        while self._closed and "_sequence" in self.__dict__:
            use = self._uses.claim()
            if use is not None:
                self.__dict__.pop("_sequence", None)
                self._uses.end(use)
            elif self._uses.current() is not None:
                return

    # ---- what it holds ----------------------------------------------------------------------------------------

    def append(self, ids: Prompt, *, chunk: Integer | None = None, cancel: Cancel | None = None) -> int:
        """Adds tokens (or text) and computes their keys and values -> the number of tokens added: all of them, or 0 if
        it is cancelled. If it fails, no token is added.

        Raises ``ContextFullError``, before computing anything; ``ValueError`` for an id out of range.
        """
        with self.in_use() as engine:
            new = self._encode(ids, "ids")
            rows, stop = generation.check_chunk(chunk), generation.canceller(cancel)
            before = len(self._ids)
            self._ids += new
            try:
                # The last token has a pass of its own, so that recurrent layers keep the state before it.
                ends = [self._ids[:-1], self._ids] if engine.recurs else [self._ids]
                with Turns(self._core, "prompt", [len(new)], stop) as turns:
                    for ids in ends:
                        if not generation.prefill(turns, self._sequence, ids, rows, stop, turns.rows):
                            self._cut(before)
                            break
                if stop is not None and stop():  # short passes do not check it
                    self._cut(before)
            except _engine.Cancelled:  # before it began
                self._cut(before)
            except BaseException:
                self._cut(before)
                raise
            return len(self._ids) - before

    def rewind(self, n: Integer) -> None:
        """Removes all tokens from position n on (0 <= n <= length)."""
        with self.in_use():
            self._cut(checks.integer("n", n, 0, len(self._ids)))

    def fork(self) -> Context:
        """-> a new context with the same tokens. They share memory until one of them is extended."""
        with self.in_use():
            return Context(self._core, self._sequence.fork(), self._ids)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the context to a file, which ``Model.open_context`` opens, in another process, too. The file holds the
        tokens and what was computed for them, and is as large as this is in memory; whoever can read it can read the
        text. An existing file is replaced once the new one is complete. The first call takes a while: it computes a
        digest of the model's weights.

        Raises ModelFileError if the file cannot be written.
        """
        from pellucid import saved

        name = checks.file_name(path)
        with self.in_use():
            saved.write(name, self._core, self._sequence, self._ids)

    def _cut(self, n: int) -> None:
        del self._ids[n:]
        if n < self._sequence.length:
            self._sequence.rewind(n)  # if a window has freed what is needed, everything is recomputed later

    # ---- what may come next -----------------------------------------------------------------------------------

    def logits(self) -> npt.NDArray[np.float32]:
        """Logits of the next token -> float32 (vocab): what ``Model.logits`` gives for the last token, bit for bit. The
        context keeps its tokens.

        Raises ``ValueError`` if it has none; ``ContextFullError`` if the last one, with which the context filled up
        during generation, has no room; ``NumericsError``.
        """
        with self.in_use() as engine:
            last = self._last()
            out = np.empty((1, engine.vocab), np.float32)
            with Turns(self._core, "prompt", [1]) as turns:
                turns.forward([(self._sequence, [last], 0)], out=out)
            row: npt.NDArray[np.float32] = out[0]
            return row

    def next(self, k: Integer | None = 10) -> list[NextToken]:
        """The k (by default 10) most probable next tokens, the most probable first -> [NextToken(id, piece, logprob)];
        the whole vocabulary if k is at least its size. The context keeps its tokens. Raises as :meth:`logits`."""
        most = checks.integer("k", 10 if k is None else k, 1)
        with self.in_use() as engine:
            last = self._last()
            rows = [(self._sequence, [last], 0)]
            with Turns(self._core, "prompt", [1]) as turns:
                ((_, top),) = turns.forward(rows, targets=[last], top=min(most, engine.vocab))
        return [NextToken(id, self._core.spell(id), logprob) for id, logprob in top if id >= 0]

    def score(self, continuations: Prompts, *, top: Integer | None = 0) -> list[Score]:
        """Log probability of each of several continuations (texts or ids) of the context, all computed in the same
        forward passes. The context's tokens are not computed again, and the continuations are not added to them.

        -> a Score per continuation: ``ids`` and ``tokens`` of the continuation, ``total``, its log probability. The
        numbers are those that ``Model.score`` gives for the context's ids followed by the continuation's, bit for bit.
        A text is encoded by itself: it should begin as the context's text would go on, usually with a space. top: how
        many of the likeliest alternatives to return for each token.

        Raises ``ContextFullError`` for a continuation that does not fit, before computing anything; ``ValueError`` if
        the context or a continuation is empty; ``NumericsError``.
        """
        from pellucid.look.score import score_continuations

        likeliest = checks.integer("top", 0 if top is None else top, 0, MOST_LOGPROBS)
        with self.in_use():
            several, values = prompts(continuations, "continuations")
            if not several:
                raise WrongType(
                    "continuations", f"={shown(continuations)}: expected several texts or lists of token ids"
                )
            many = [self._continuation(value, f"continuations[{i}]") for i, value in enumerate(values)]
            last = self._last()
            return score_continuations(self._core, self._sequence, last, many, likeliest)

    # ---- looking inside ---------------------------------------------------------------------------------------

    def trace(
        self,
        want: Quantity | Iterable[Quantity] | None = ("hidden", "attention"),
        *,
        layers: Integer | Ids | None = None,
        heads: Integer | Ids | None = None,
        positions: Integer | Ids | None = None,
        limit: Integer | None = 2 << 30,
        chunk: Integer | None = None,
        each: Callable[[int, dict[str, npt.NDArray[np.float32]]], object] | None = None,
        cancel: Cancel | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Trace:
        """``Model.trace`` of the context's tokens. Those before the first of `positions` are not computed again: their
        keys and values are read from the cache, so that k, k_unrotated and v hold them as the cache rounds them to its
        type (not at all with kv="f32"). If some have left a layer's window, these three need all tokens to be computed
        again. The context does not change.

        Raises as ``Model.trace``; ValueError if the context is empty."""
        from pellucid.look.trace import trace

        with self.in_use():
            found: Trace = trace(
                self._core,
                list(self._ids),
                want,
                layers=layers,
                heads=heads,
                positions=positions,
                limit=limit,
                chunk=chunk,
                each=each,
                cancel=cancel,
                progress=progress,
                begun=self._sequence,
            )
            return found

    def _continuation(self, value: Any, name: str) -> list[int]:
        ids = self._encode(value, name)
        if not ids:
            raise wrong_part(WrongValue, name, " is empty: expected at least one token")
        return ids

    def _last(self) -> int:
        """The last token, whose row is then the only one that the sequence lacks. Raises ValueError if there is none,
        ContextFullError if it has no room."""
        if not self._ids:
            raise ValueError("the context is empty: expected at least one token; append a prompt first")
        if len(self._ids) > self._core.context_length:  # a generated token needs no room until another one follows it
            raise ContextFullError(needed=len(self._ids), available=self._core.context_length)
        before = self._ids[:-1]
        if self._sequence.length > len(before):
            self._sequence.rewind(len(before))
        if self._sequence.length < len(before):
            with Turns(self._core, "prompt", [len(before) - self._sequence.length]) as turns:
                generation.prefill(turns, self._sequence, before, turns.max_rows, None, turns.rows)
        return self._ids[-1]

    # ---- generation -------------------------------------------------------------------------------------------

    @lists_options(GENERATE_DEFAULTS)
    def generate(self, prompt: Prompt = (), **options: Unpack[GenerateOptions]) -> Completion:
        """Appends a prompt (by default none) and generates. The context keeps the prompt and the completion's ``ids``,
        but not what ended it: a stop string, a stop id or the end of sequence. Options and errors: see
        ``Model.generate``."""
        return self.stream(prompt, **options).result()

    @lists_options(GENERATE_DEFAULTS)
    def stream(self, prompt: Prompt = (), **options: Unpack[GenerateOptions]) -> Stream:
        """Like :meth:`generate`, piece by piece. The context is in use until the stream ends or is closed."""
        parsed = generation.parse_options(options)
        use = self._acquire()  # here, so that this call raises the error of a busy context
        try:
            self._open()
            self._even()
            new = self._encode(prompt, "prompt", empty=True)
            if not self._ids and not new:
                if not isinstance(prompt, str):
                    raise WrongValue("prompt", " is empty, and so is the context: there is nothing to continue")
                new = self._core.prompt(prompt)  # BOS alone, if the model has one
            text = prompt if isinstance(prompt, str) else self._core.detokenize(new) if parsed.echo else ""
        except BaseException:
            self._release(use)
            raise
        return self._go_on(use, len(self._ids), new, text, parsed)

    @overload
    def chat(
        self, messages: Messages, *, stream: Literal[False] = False, **options: Unpack[ChatOptions]
    ) -> Completion: ...
    @overload
    def chat(self, messages: Messages, *, stream: Literal[True], **options: Unpack[ChatOptions]) -> Stream: ...
    @overload
    def chat(self, messages: Messages, *, stream: bool, **options: Unpack[ChatOptions]) -> Completion | Stream: ...
    @lists_options(CHAT_DEFAULTS)
    def chat(self, messages: Any, *, stream: bool = False, **options: Any) -> Any:
        """Generates the next message of a conversation -> Completion; with ``stream``, a :class:`Stream`.

        ``messages`` is always the whole conversation. The context keeps the tokens that the conversation begins with,
        drops the rest of its own, and computes only new ones; ``prompt_tokens`` counts those. Options and errors: see
        ``Model.chat``. If the messages are wrong or too long, the context does not change.
        """
        streamed = streams(stream)
        prompt, parsed = start.start_chat(self._core, messages, options)
        use = self._acquire()
        try:
            self._open()
            self._even()
            same = next((i for i, (a, b) in enumerate(zip(self._ids, prompt.ids)) if a != b), None)
            keep = min(len(self._ids), len(prompt.ids)) if same is None else same
            # The last token is recomputed even if the context holds it, since its logits are needed.
            keep = min(keep, len(prompt.ids) - 1)
        except BaseException:
            self._release(use)
            raise
        echo = prompt.text if parsed.echo else ""
        pieces = self._go_on(use, keep, prompt.ids[keep:], echo, parsed, prompt.dropped, prompt.reply, chat=True)
        return pieces if streamed else pieces.result()

    # ---- for asyncio ------------------------------------------------------------------------------------------

    async def aappend(self, ids: Prompt, *, chunk: Integer | None = None, cancel: Cancel | None = None) -> int:
        """:meth:`append` for asyncio, in a thread of its own. Cancelling the task stops it within one forward pass;
        ``asyncio.CancelledError`` is raised once it has stopped. No token has then been added, unless all had been
        already: ``length`` says which."""
        return await call(self.append, ids, chunk=chunk, cancel=cancel)

    @lists_options(GENERATE_DEFAULTS)
    async def agenerate(self, prompt: Prompt = (), **options: Unpack[GenerateOptions]) -> Completion:
        """:meth:`generate` for asyncio, in a thread of its own. Cancelling the task stops it within one forward pass;
        ``asyncio.CancelledError`` is raised once it has stopped. The context then holds the prompt and the tokens
        generated so far."""
        return await call(self.generate, prompt, **options)

    @lists_options(GENERATE_DEFAULTS)
    def astream(self, prompt: Prompt = (), **options: Unpack[GenerateOptions]) -> AsyncStream:
        """:meth:`stream` for asyncio. It begins, and the context is in use, when its first piece is awaited."""
        return AsyncStream(self.stream, prompt, **options)

    @overload
    def achat(
        self, messages: Messages, *, stream: Literal[False] = False, **options: Unpack[ChatOptions]
    ) -> Coroutine[Any, Any, Completion]: ...
    @overload
    def achat(self, messages: Messages, *, stream: Literal[True], **options: Unpack[ChatOptions]) -> AsyncStream: ...
    @overload
    def achat(
        self, messages: Messages, *, stream: bool, **options: Unpack[ChatOptions]
    ) -> Coroutine[Any, Any, Completion] | AsyncStream: ...
    @lists_options(CHAT_DEFAULTS)
    def achat(self, messages: Any, *, stream: bool = False, **options: Any) -> Any:
        """:meth:`chat` for asyncio, to be awaited; with ``stream``, an :class:`AsyncStream`."""
        if streams(stream):
            return AsyncStream(self.chat, messages, stream=True, **options)
        return call(self.chat, messages, **options)

    # ---- use --------------------------------------------------------------------------------------------------

    def _go_on(
        self,
        use: Use,
        keep: int,
        new: list[int],
        text: str,
        options: SamplingOptions,
        dropped: int = 0,
        reply: Reply | None = None,
        *,
        chat: bool = False,
    ) -> Stream:
        """Generates from the first `keep` tokens and new ones; if an option is wrong, the context does not change. The
        context must be in use already; it is released at the end."""
        try:
            self._core.open()
            (seed,) = options.seeds(1)
            settled, ids = options.settled(seed), self._ids[:keep] + new
            job = generation.Job(self._core, ids, settled, self._sequence, len(new), text, reply=reply, chat=chat)
            job.use = use
            self._cut(keep)
            self._ids = ids
            if self._sequence.length == len(ids):  # recompute the last token, whose logits are needed
                self._sequence.rewind(len(ids) - 1)
        except BaseException:
            self._release(use)
            raise
        # A prompt that could not be computed is dropped.
        return start.launch(job, options, lambda: self._release(use), lambda: self._cut(keep), dropped)

    def _encode(self, text: Prompt, name: str, *, empty: bool = False) -> list[int]:
        core, text = self._core, plain(text)
        if isinstance(text, str):
            tokenizer = core.need_tokenizer()
            with named(name):
                ids = tokenizer.encode(text, add_special=not self._ids) if text or not empty else []
        else:
            ids = core.check_ids(text, name, empty=True)
        if len(self._ids) + len(ids) > core.context_length:
            what = f"{name} does not fit" if "[" in name else ""  # of several
            raise ContextFullError(what, needed=len(self._ids) + len(ids), available=core.context_length)
        return ids

    def _acquire(self) -> Use:
        """Begins a new use, after waiting for passes of a stream that has ended. Raises ContextBusyError."""
        while True:
            use = self._uses.claim()
            if use is not None:
                return use
            self._drop()  # the last use may have ended meanwhile, and found this one
            use = self._uses.current()
            if use is None:
                continue
            scheduler = run.of(self._core)
            if not use.ends or scheduler.computes_here():
                self._open()  # it may be `close` that uses it
                raise ContextBusyError
            if scheduler.sweep():
                time.sleep(0.0005)
            else:  # an interrupt kept it from being ended
                self._uses.end(use)

    def _even(self) -> None:
        """Rewinds past tokens that a stream's passes computed and nobody took."""
        if self._sequence.length > len(self._ids):
            self._sequence.rewind(len(self._ids))

    def _release(self, use: Use) -> None:
        self._uses.end(use)
        self._drop()

    @contextmanager
    def in_use(self) -> Iterator[_engine.Engine]:
        """Keeps the context in use during one call. Raises ContextBusyError if it already is, ClosedError."""
        use = self._acquire()
        try:
            engine = self._open()
            self._even()
            yield engine
        finally:
            self._release(use)


def draw(context: Context, sampler: _engine.Sampler) -> int:
    """The next token, as a sampler draws it. The context keeps its tokens. Raises as ``Context.logits``."""
    with context.in_use():
        last = context._last()
        with Turns(context._core, "prompt", [1]) as turns:
            ((id, *_),) = turns.forward([(context._sequence, [last], 0)], samplers=[sampler])
    return int(id)
