"""The calls of a model that generate and score, with their types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from pellucid import generation
from pellucid.core import Core
from pellucid.options import (
    CHAT_DEFAULTS,
    GENERATE_DEFAULTS,
    ChatOptions,
    Conversations,
    GenerateOptions,
    Messages,
    Prompt,
    Prompts,
)
from pellucid.results import Completion
from pellucid.sampling import Integer, lists_options
from pellucid.streams import BatchStream, Stream

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pellucid.look.score import Score

__all__ = ["Calls"]


class Calls:
    """What a model and an edited one generate and score."""

    @property
    def core(self) -> Core:
        raise NotImplementedError

    @overload
    def generate(self, prompt: Prompt, *, n: None = None, **options: Unpack[GenerateOptions]) -> Completion: ...  # type: ignore[overload-overlap]  # a text is an iterable of texts
    @overload
    def generate(
        self, prompt: Prompts, *, n: Integer | None = None, **options: Unpack[GenerateOptions]
    ) -> list[Completion]: ...
    @overload
    def generate(self, prompt: Prompt, *, n: Integer, **options: Unpack[GenerateOptions]) -> list[Completion]: ...
    @lists_options(GENERATE_DEFAULTS)
    def generate(self, prompt: Any, *, n: Any = None, **options: Any) -> Any:
        """Generates from a prompt (text or ids) -> Completion; from several prompts -> a list of completions.

        prompt: a text; ids, as any sequence or one-dimensional array of integers; or several of these, as a sequence,
            an iterator, or a column of pandas, polars or Arrow.
        n: completions for each prompt -> a list, also of one prompt, in which the first prompt's n come first. With a
            seed, the k-th of a prompt (from 0) has that seed plus k.
        options: those of :class:`SamplingOptions`, which has their defaults; None is the default. ``options`` gives
            such an object, and keywords beside it win.

        Prompts run in the same forward passes; each completion is the one that its prompt would have alone with the
        same seed. Without a seed, each gets a random one; a list of seeds has one for each prompt.

        Raises ContextFullError (before computing anything, where the prompt is too long), NumericsError,
        TokenizerError, ClosedError; ValueError or TypeError naming a wrong option. If one of several prompts fails
        while it runs, the others continue; at the end, a BatchError holds the errors of those that failed and the
        completions of the others.
        """
        return generation.stream(self.core, prompt, options, n).result()

    @overload
    def stream(self, prompt: Prompt, *, n: None = None, **options: Unpack[GenerateOptions]) -> Stream: ...  # type: ignore[overload-overlap]  # a text is an iterable of texts
    @overload
    def stream(
        self, prompt: Prompts, *, n: Integer | None = None, **options: Unpack[GenerateOptions]
    ) -> BatchStream: ...
    @overload
    def stream(self, prompt: Prompt, *, n: Integer, **options: Unpack[GenerateOptions]) -> BatchStream: ...
    @lists_options(GENERATE_DEFAULTS)
    def stream(self, prompt: Any, *, n: Any = None, **options: Any) -> Any:
        """Like :meth:`generate`, piece by piece -> :class:`Stream`; for several prompts, or with n,
        :class:`BatchStream`."""
        return generation.stream(self.core, prompt, options, n)

    @overload
    def chat(
        self, messages: Messages, *, stream: Literal[False] = False, n: None = None, **options: Unpack[ChatOptions]
    ) -> Completion: ...
    @overload
    def chat(
        self, messages: Messages, *, stream: Literal[True], n: None = None, **options: Unpack[ChatOptions]
    ) -> Stream: ...
    @overload
    def chat(
        self, messages: Messages, *, stream: Literal[False] = False, n: Integer, **options: Unpack[ChatOptions]
    ) -> list[Completion]: ...
    @overload
    def chat(
        self, messages: Messages, *, stream: Literal[True], n: Integer, **options: Unpack[ChatOptions]
    ) -> BatchStream: ...
    @overload
    def chat(
        self,
        messages: Conversations,
        *,
        stream: Literal[False] = False,
        n: Integer | None = None,
        **options: Unpack[ChatOptions],
    ) -> list[Completion]: ...
    @overload
    def chat(
        self,
        messages: Conversations,
        *,
        stream: Literal[True],
        n: Integer | None = None,
        **options: Unpack[ChatOptions],
    ) -> BatchStream: ...
    @lists_options(CHAT_DEFAULTS)
    def chat(self, messages: Any, *, stream: bool = False, n: Any = None, **options: Any) -> Any:
        """Generates the next message of a conversation -> Completion; with ``stream``, a :class:`Stream`. For several
        conversations, or with n, as in :meth:`generate`: a list of completions, or a :class:`BatchStream`.

        messages, tools, template, documents, variables: see :meth:`chat_prompt`. Other options and errors: see
        :meth:`generate`, but for:

        max_tokens: by default None: as many as fit the context.
        on_full: "trim" leaves out the oldest turns of a conversation that does not fit the context, as few as must go
            for max_tokens new tokens to fit, too (None: 512, or a quarter of the context if that is less). A turn is a
            message of the user and all that answers it; system messages at the beginning stay. ``Completion.dropped``
            is the number of messages left out. ContextFullError is raised where even the last turn does not fit.

        A conversation of several turns is faster in a context: see ``Context.chat``.
        """
        made = generation.chat(self.core, messages, options, n)
        return made if stream else made.result()

    @overload
    def score(self, text: Prompt, *, top: Integer | None = 0, window: Integer | None = None) -> Score: ...  # type: ignore[overload-overlap]  # a text is an iterable of texts
    @overload
    def score(self, text: Prompts, *, top: Integer | None = 0, window: Integer | None = None) -> list[Score]: ...
    def score(self, text: Any, *, top: Any = 0, window: Any = None) -> Any:
        """Log probability of every token of a text (or ids), given the tokens before it -> Score; for several texts,
        given as to :meth:`generate`, which run in the same forward passes, a list of scores.

        top: how many of the likeliest alternatives to return for each token. window: a text of more than this many
        tokens is scored in parts of this length. Each part begins in the middle of the previous one, so that after the
        first part every token sees at least window / 2 tokens before it.

        Raises ContextFullError for a text that does not fit the context, without a window.
        """
        from pellucid.look.score import score

        return score(self.core, text, top, window)
