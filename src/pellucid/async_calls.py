"""The asyncio versions of a model's calls, with their types."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Literal, overload

from pellucid import arguments
from pellucid.asynchronous import AsyncBatchStream, AsyncStream, call, each
from pellucid.calls import Calls
from pellucid.errors import WrongType
from pellucid.options import (
    CHAT_DEFAULTS,
    GENERATE_DEFAULTS,
    ChatOptions,
    Conversations,
    Done,
    GenerateOptions,
    Input,
    MapOptions,
    Messages,
    Prompt,
    Prompts,
    Raise,
    Return,
    ScoreOptions,
)
from pellucid.results import Completion
from pellucid.sampling import Integer, lists_options

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Unpack

    from pellucid.calls import Pooling
    from pellucid.embedding import Ranked
    from pellucid.look.score import Score

__all__ = ["AsyncCalls"]


class AsyncCalls(Calls):
    """The calls that models and edited models share, with their asyncio versions."""

    @overload
    async def agenerate(self, prompt: Prompt, *, n: None = None, **options: Unpack[GenerateOptions]) -> Completion: ...  # type: ignore[overload-overlap]  # a text is an iterable of texts
    @overload
    async def agenerate(
        self, prompt: Prompts, *, n: Integer | None = None, **options: Unpack[GenerateOptions]
    ) -> list[Completion]: ...
    @overload
    async def agenerate(
        self, prompt: Prompt, *, n: Integer, **options: Unpack[GenerateOptions]
    ) -> list[Completion]: ...
    @lists_options(GENERATE_DEFAULTS)
    async def agenerate(self, prompt: Any, *, n: Any = None, **options: Any) -> Any:
        """:meth:`generate` for asyncio, in a thread of its own. Cancelling the task stops it within one forward pass;
        ``asyncio.CancelledError`` is raised once it has stopped."""
        return await call(self.generate, prompt, n=n, **options)

    @overload
    def astream(self, prompt: Prompt, *, n: None = None, **options: Unpack[GenerateOptions]) -> AsyncStream: ...  # type: ignore[overload-overlap]  # a text is an iterable of texts
    @overload
    def astream(
        self, prompt: Prompts, *, n: Integer | None = None, **options: Unpack[GenerateOptions]
    ) -> AsyncBatchStream: ...
    @overload
    def astream(self, prompt: Prompt, *, n: Integer, **options: Unpack[GenerateOptions]) -> AsyncBatchStream: ...
    @lists_options(GENERATE_DEFAULTS)
    def astream(self, prompt: Any, *, n: Any = None, **options: Any) -> Any:
        """:meth:`stream` for asyncio -> :class:`AsyncStream`; for several prompts, or with n,
        :class:`AsyncBatchStream`. It begins, and raises errors, when its first piece is awaited."""
        several, prompts = arguments.prompts(prompt, "prompt")
        kind = AsyncBatchStream if several or n is not None else AsyncStream
        return kind(self.stream, prompts if several else prompts[0], n=n, **options)

    @overload
    def amap(
        self, items: Iterable[Any], *, order: Input = "input", on_error: Raise = "raise", **options: Unpack[MapOptions]
    ) -> AsyncIterator[Completion]: ...
    @overload
    def amap(
        self, items: Iterable[Any], *, order: Input = "input", on_error: Return, **options: Unpack[MapOptions]
    ) -> AsyncIterator[Completion | Exception]: ...
    @overload
    def amap(
        self, items: Iterable[Any], *, order: Done, on_error: Raise = "raise", **options: Unpack[MapOptions]
    ) -> AsyncIterator[tuple[int, Completion]]: ...
    @overload
    def amap(
        self, items: Iterable[Any], *, order: Done, on_error: Return, **options: Unpack[MapOptions]
    ) -> AsyncIterator[tuple[int, Completion | Exception]]: ...
    @lists_options(CHAT_DEFAULTS)
    def amap(self, items: Iterable[Any], **options: Any) -> AsyncIterator[Any]:
        """:meth:`map` for asyncio, with the same options. Each step runs in a thread, which also reads the next items;
        cancelling the task ends the running generations."""
        return each(self.map, items, **options)

    @overload
    def ascore_map(
        self,
        items: Iterable[Prompt],
        *,
        order: Input = "input",
        on_error: Raise = "raise",
        **options: Unpack[ScoreOptions],
    ) -> AsyncIterator[Score]: ...
    @overload
    def ascore_map(
        self, items: Iterable[Prompt], *, order: Input = "input", on_error: Return, **options: Unpack[ScoreOptions]
    ) -> AsyncIterator[Score | Exception]: ...
    @overload
    def ascore_map(
        self, items: Iterable[Prompt], *, order: Done, on_error: Raise = "raise", **options: Unpack[ScoreOptions]
    ) -> AsyncIterator[tuple[int, Score]]: ...
    @overload
    def ascore_map(
        self, items: Iterable[Prompt], *, order: Done, on_error: Return, **options: Unpack[ScoreOptions]
    ) -> AsyncIterator[tuple[int, Score | Exception]]: ...
    def ascore_map(self, items: Iterable[Prompt], **options: Any) -> AsyncIterator[Any]:
        """:meth:`score_map` for asyncio, with the same options, as :meth:`amap`."""
        from pellucid.look.score import score_map

        if "cancel" in options:
            raise WrongType("cancel", ": not an option of score_map")
        return each(
            lambda items, cancel, **given: score_map(self.core, items, cancel=cancel.is_set, **given), items, **options
        )

    async def aembed(
        self,
        texts: Prompt | Prompts,
        *,
        pooling: Pooling | None = None,
        normalize: bool | None = True,
        dimensions: Integer | None = None,
        instruction: str | None = None,
    ) -> npt.NDArray[np.float32]:
        """:meth:`embed` for asyncio; it runs and is cancelled as :meth:`agenerate`."""
        from pellucid.embedding import embed

        return await call(embed, self.core, texts, pooling, normalize, dimensions, instruction)

    async def arerank(self, query: str, documents: Iterable[str], *, instruction: str | None = None) -> list[Ranked]:
        """:meth:`rerank` for asyncio; it runs and is cancelled as :meth:`agenerate`."""
        from pellucid.embedding import rerank

        return await call(rerank, self.core, query, documents, instruction)

    @overload
    def achat(
        self, messages: Messages, *, stream: Literal[False] = False, n: None = None, **options: Unpack[ChatOptions]
    ) -> Coroutine[Any, Any, Completion]: ...
    @overload
    def achat(
        self, messages: Messages, *, stream: Literal[True], n: None = None, **options: Unpack[ChatOptions]
    ) -> AsyncStream: ...
    @overload
    def achat(
        self, messages: Messages, *, stream: Literal[False] = False, n: Integer, **options: Unpack[ChatOptions]
    ) -> Coroutine[Any, Any, list[Completion]]: ...
    @overload
    def achat(
        self, messages: Messages, *, stream: Literal[True], n: Integer, **options: Unpack[ChatOptions]
    ) -> AsyncBatchStream: ...
    @overload
    def achat(
        self,
        messages: Conversations,
        *,
        stream: Literal[False] = False,
        n: Integer | None = None,
        **options: Unpack[ChatOptions],
    ) -> Coroutine[Any, Any, list[Completion]]: ...
    @overload
    def achat(
        self,
        messages: Conversations,
        *,
        stream: Literal[True],
        n: Integer | None = None,
        **options: Unpack[ChatOptions],
    ) -> AsyncBatchStream: ...
    @overload
    def achat(
        self, messages: Messages, *, stream: bool, n: None = None, **options: Unpack[ChatOptions]
    ) -> Coroutine[Any, Any, Completion] | AsyncStream: ...
    @overload
    def achat(
        self, messages: Messages, *, stream: bool, n: Integer, **options: Unpack[ChatOptions]
    ) -> Coroutine[Any, Any, list[Completion]] | AsyncBatchStream: ...
    @overload
    def achat(
        self, messages: Conversations, *, stream: bool, n: Integer | None = None, **options: Unpack[ChatOptions]
    ) -> Coroutine[Any, Any, list[Completion]] | AsyncBatchStream: ...
    @lists_options(CHAT_DEFAULTS)
    def achat(self, messages: Any, *, stream: bool = False, n: Any = None, **options: Any) -> Any:
        """:meth:`chat` for asyncio, to be awaited; with ``stream``, an :class:`AsyncStream` or
        :class:`AsyncBatchStream`, which may be awaited before it is iterated over."""
        if not arguments.streams(stream):
            return call(self.chat, messages, n=n, **options)
        several, conversations = arguments.conversations(messages)
        kind = AsyncBatchStream if several or n is not None else AsyncStream
        return kind(self.chat, conversations if several else conversations[0], stream=True, n=n, **options)
