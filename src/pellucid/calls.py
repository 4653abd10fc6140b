"""The calls of a model that generate, score, embed and trace, with their types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, overload

from pellucid import arguments
from pellucid.core import Core
from pellucid.options import (
    CHAT_DEFAULTS,
    GENERATE_DEFAULTS,
    ChatOptions,
    Conversations,
    Done,
    GenerateOptions,
    Ids,
    Input,
    MapOptions,
    Messages,
    Prompt,
    Prompts,
    Quantity,
    Raise,
    Return,
    ScoreOptions,
    Tokens,
)
from pellucid.results import Completion
from pellucid.sampling import Cancel, Integer, Number, lists_options
from pellucid.schedule import many, start
from pellucid.schedule.request import Request
from pellucid.schedule.stats import Stats
from pellucid.streams import BatchStream, Stream

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Unpack

    from pellucid.embedding import Ranked
    from pellucid.look.score import Score
    from pellucid.look.trace import Trace

    Pooling = Literal["last", "first", "mean"]

__all__ = ["Calls"]


class Calls:
    """What a model and an edited one generate, score, embed and trace."""

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
        return start.stream(self.core, prompt, options, n).result()

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
        return start.stream(self.core, prompt, options, n)

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
    @overload
    def chat(
        self, messages: Messages, *, stream: bool, n: None = None, **options: Unpack[ChatOptions]
    ) -> Completion | Stream: ...
    @overload
    def chat(
        self, messages: Messages, *, stream: bool, n: Integer, **options: Unpack[ChatOptions]
    ) -> list[Completion] | BatchStream: ...
    @overload
    def chat(
        self, messages: Conversations, *, stream: bool, n: Integer | None = None, **options: Unpack[ChatOptions]
    ) -> list[Completion] | BatchStream: ...
    @lists_options(CHAT_DEFAULTS)
    def chat(self, messages: Any, *, stream: bool = False, n: Any = None, **options: Any) -> Any:
        """Generates the next message of a conversation -> Completion; with ``stream``, a :class:`Stream`. For several
        conversations, or with n, as in :meth:`generate`: a list of completions, or a :class:`BatchStream`.

        messages, tools, template, documents, variables, reasoning_effort: see :meth:`chat_prompt`. Other options and
        errors: see :meth:`generate`, but for:

        tool_choice: "auto": the model may call tools; "none": it may not; "required": it must; ``{"type": "function",
            "function": {"name": ...}}``: it must call this one. parallel_tool_calls: False: at most one call. What it
            calls is in ``Completion.tool_calls``. See docs/tools.md.
        thinking_budget: tokens of reasoning, after which its closing tag is written.

        max_tokens: by default None: as many as fit the context.
        on_full: "trim" leaves out the oldest turns of a conversation that does not fit the context, as few as must go
            for max_tokens new tokens to fit, too (None: 512, or a quarter of the context if that is less). A turn is a
            message of the user and all that answers it; system messages at the beginning stay. ``Completion.dropped``
            is the number of messages left out. ContextFullError is raised where even the last turn does not fit.

        A conversation of several turns is faster in a context: see ``Context.chat``.
        """
        streams = arguments.streams(stream)
        made = start.chat(self.core, messages, options, n)
        return made if streams else made.result()

    @overload
    def map(
        self, items: Iterable[Any], *, order: Input = "input", on_error: Raise = "raise", **options: Unpack[MapOptions]
    ) -> Iterator[Completion]: ...
    @overload
    def map(
        self, items: Iterable[Any], *, order: Input = "input", on_error: Return, **options: Unpack[MapOptions]
    ) -> Iterator[Completion | Exception]: ...
    @overload
    def map(
        self, items: Iterable[Any], *, order: Done, on_error: Raise = "raise", **options: Unpack[MapOptions]
    ) -> Iterator[tuple[int, Completion]]: ...
    @overload
    def map(
        self, items: Iterable[Any], *, order: Done, on_error: Return, **options: Unpack[MapOptions]
    ) -> Iterator[tuple[int, Completion | Exception]]: ...
    @lists_options(CHAT_DEFAULTS)
    def map(
        self,
        items: Iterable[Any],
        *,
        at_once: Integer | None = 32,
        order: Literal["input", "done"] | None = "input",
        seeds: Iterable[Integer] | Integer | None = None,
        on_error: Literal["raise", "return"] | None = "raise",
        **options: Any,
    ) -> Iterator[Any]:
        """Generates for each of any number of items, which may be endless -> an iterator of completions, each the one
        that :meth:`generate` or :meth:`chat` would give for that item, the options and the seed, bit for bit.

        items: an iterable. Each is a prompt (text or ids), a list of messages, or a dict with one of the keys
            ``prompt``, ``prompt_ids`` and ``messages``, and options of its own, which win over those of the call.
        at_once: how many are taken before the first of them is given; so many, at most, are in memory.
        order: "input": the completions in the order of the items. "done": pairs of an item's number, from 0 on, and its
            completion, as they are made.
        seeds: an iterable with a seed for each item; or an integer, of which and of its number each item gets a seed of
            its own. They win over other seeds.
        on_error: "raise" raises an item's error where its completion would be, which ends the iteration; "return" gives
            the error in place of the completion.

        Computes while it is iterated. ``cancel`` ends what runs, with the finish reason "cancelled", and takes no
        further items.
        """
        return many.complete(self.core, items, at_once, order, seeds, on_error, options)

    @overload
    def score_map(
        self,
        items: Iterable[Prompt],
        *,
        order: Input = "input",
        on_error: Raise = "raise",
        **options: Unpack[ScoreOptions],
    ) -> Iterator[Score]: ...
    @overload
    def score_map(
        self, items: Iterable[Prompt], *, order: Input = "input", on_error: Return, **options: Unpack[ScoreOptions]
    ) -> Iterator[Score | Exception]: ...
    @overload
    def score_map(
        self, items: Iterable[Prompt], *, order: Done, on_error: Raise = "raise", **options: Unpack[ScoreOptions]
    ) -> Iterator[tuple[int, Score]]: ...
    @overload
    def score_map(
        self, items: Iterable[Prompt], *, order: Done, on_error: Return, **options: Unpack[ScoreOptions]
    ) -> Iterator[tuple[int, Score | Exception]]: ...
    def score_map(
        self,
        items: Iterable[Prompt],
        *,
        at_once: Integer | None = 32,
        order: Literal["input", "done"] | None = "input",
        on_error: Literal["raise", "return"] | None = "raise",
        top: Integer | None = 0,
        window: Integer | None = None,
    ) -> Iterator[Any]:
        """Scores each of any number of texts (or lists of ids), which may be endless, so many at a time -> an iterator
        of scores, each the one that :meth:`score` would give for it. top, window: see :meth:`score`; the others: see
        :meth:`map`."""
        from pellucid.look.score import score_map

        return score_map(self.core, items, at_once, order, on_error, top, window)

    @lists_options(CHAT_DEFAULTS)
    def submit(
        self,
        prompt: Prompt | None = None,
        *,
        messages: Messages | None = None,
        prompt_ids: Ids | None = None,
        n: Integer | None = None,
        priority: Integer | None = 0,
        key: str | None = "",
        timeout: Number | None = None,
        ahead: Integer | None = None,
        cache_salt: str | None = "",
        **options: Unpack[ChatOptions],
    ) -> Request:
        """Begins a generation, which any thread or task may read -> :class:`Request`. What it gives is what
        :meth:`generate` or :meth:`chat` gives for the same options and seed, bit for bit.

        One of: prompt (text or ids), prompt_ids, or messages, with the options of :meth:`chat`.

        n: number of completions, which compute the prompt once; completion i is drawn with seed + i. ``result`` is a
            list of them where n is more than 1.
        priority: those with a lower number begin first, and keep their memory where it is short.
        key: of whom the request is. Of one priority, the key whose requests had the fewest tokens computed comes first.
            One request of each key can run, however many of others do; where memory is short, one of the key that has
            most is given up for it, and computed again.
        timeout: seconds after which it ends, with the finish reason "cancelled".
        ahead: how many tokens it may be ahead of its reader, by default 32; then it waits.
        cache_salt: requests with different ones share nothing in the prefix cache.

        Without a running driver (:meth:`drive`), it is computed while a thread waits for it or for another request.
        Raises what is wrong with the prompt or the options, as :meth:`generate` does, and QueueFullError where
        :meth:`drive` set a limit.
        """
        return start.submit(
            self.core,
            prompt,
            messages,
            prompt_ids,
            options,
            n=n,
            priority=priority,
            key=key,
            timeout=timeout,
            ahead=ahead,
            cache_salt=cache_salt,
        )

    def drive(
        self,
        *,
        max_waiting: Integer | None = None,
        max_wait: Number | None = None,
        max_waiting_tokens: Integer | None = None,
    ) -> None:
        """Starts a thread that computes what is submitted, until the model is closed; the first ``await`` of a request
        does that, too. Without it, the threads that wait for results compute them. May be called again.

        max_waiting: :meth:`submit` raises QueueFullError where more requests than this would wait. max_wait: and where
        computing the prompts that wait would take this many seconds or more, as measured; max_waiting_tokens: and
        where these have more tokens. Default: no limit. One request of a key that has none waiting, where others have,
        is not refused.
        """
        start.drive(self.core, max_waiting, max_wait, max_waiting_tokens)

    def stats(self) -> Stats:
        """The requests of the model now, and what it computed for them since it was loaded -> :class:`Stats`."""
        return start.stats(self.core)

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

    def embed(
        self,
        texts: Prompt | Prompts,
        *,
        pooling: Pooling | None = None,
        normalize: bool | None = True,
        dimensions: Integer | None = None,
        instruction: str | None = None,
    ) -> npt.NDArray[np.float32]:
        """Embeddings of texts -> float32 (n, d), a row for each text; of one text (1, d).

        Texts, given as to :meth:`generate`, run in the same forward passes; each row is the one that its text would
        have alone, bit for bit.

        pooling: the hidden state that makes the embedding: that of the "last" or the "first" token, or the "mean" of
            all; default: as the model's files say. They must say it, or it must be given.
        normalize: divide each row by its length, so that products of rows are cosines.
        dimensions: keep this many of the first columns, before normalising; for models trained for it (Matryoshka).
            Default: as the model's files say, as a rule all.
        instruction: put before each text: one of the model's prompts by its name ("query", "document"), else this text
            itself. Default: the prompt that the model's files make the default, as a rule none.

        Raises ContextFullError for a text that does not fit the context, before computing anything; ValueError where
        the way of pooling is not known; ChatTemplateError where the model's files ask for a chat template that is
        missing or broken; NumericsError.
        """
        from pellucid.embedding import embed

        return embed(self.core, texts, pooling, normalize, dimensions, instruction)

    def rerank(self, query: str, documents: Iterable[str], *, instruction: str | None = None) -> list[Ranked]:
        """Relevance of documents to a query -> [Ranked(index, score)], the most relevant first.

        The model must be a Qwen3-Reranker, whose score is the probability that it answers "yes" rather than "no" to
        its own prompt; or a BERT, XLM-R or ModernBERT with a classifier that reads both texts at once (a
        cross-encoder), whose score is between 0 and 1. Either's score is any number where its files say that no sigmoid
        follows.

        instruction: what makes a document relevant, for Qwen3-Reranker, or the name of one of its files' prompts;
            default: that it answers a web search query.

        Raises UnsupportedModelError where the model is no reranker; ContextFullError for a document that does not fit
        the context with the query, before computing anything; NumericsError.
        """
        from pellucid.embedding import rerank

        return rerank(self.core, query, documents, instruction)

    # ---- looking inside ---------------------------------------------------------------------------------------

    @overload
    def trace(  # type: ignore[overload-overlap]
        self,
        prompt: Prompt | Completion | Tokens | Messages,
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
    ) -> Trace: ...
    @overload
    def trace(
        self,
        prompt: Iterable[Prompt | Completion | Tokens | Messages],
        want: Quantity | Iterable[Quantity] | None = ("hidden", "attention"),
        *,
        layers: Integer | Ids | None = None,
        heads: Integer | Ids | None = None,
        positions: Integer | Ids | None = None,
        limit: Integer | None = 2 << 30,
        chunk: Integer | None = None,
        each: None = None,
        cancel: Cancel | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> list[Trace]: ...
    def trace(
        self,
        prompt: Any,
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
    ) -> Any:
        """Runs a text, ids, a chat (its messages, or what :meth:`chat_prompt` returned), the tokens of a context or a
        completion (its prompt and new tokens) once and keeps the wanted quantities as NumPy arrays; :class:`Trace`
        lists their shapes. Of several, a list of traces. A completion's arrays equal those of its generation, bit for
        bit.

        want: any of embeddings, hidden, middle, attention_in, mlp_in, final, q_unrotated, k_unrotated, q, k, v, scores,
        attention, attention_out, mlp_out, gate, up, neurons, mixed, head_out, routes, gates, conv, states, logits.
        layers, heads, positions: the indices to keep; negative ones count from the end; None: all. limit: maximum
        bytes of the arrays. chunk: rows of a pass, by default 512. Neither tracing nor `chunk` changes a bit of any
        result.
        each: called with a layer's number and a dict of its arrays, without their first axis, layer after layer; the
            trace then keeps only what has no layers. No more than `limit` bytes are held at a time, so that a long text
            can be traced; it runs as often as that needs.
        cancel: a callable or a threading.Event, asked about every 20 ms; the call then ends with CancelledError.
            progress: called with the tokens done and all tokens.

        Raises ValueError for a wrong name or index, and where the arrays would exceed `limit` (the message states what
        would fit, if less does); ContextFullError, NumericsError, ClosedError.
        """
        from pellucid.look.trace import trace

        return trace(
            self.core,
            prompt,
            want,
            layers=layers,
            heads=heads,
            positions=positions,
            limit=limit,
            chunk=chunk,
            each=each,
            cancel=cancel,
            progress=progress,
        )
