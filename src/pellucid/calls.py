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
    """The calls that models and edited models share."""

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
        n: completions for each prompt -> a list, even for one prompt; the first prompt's n completions come first. With
            a seed, completion k of a prompt (from 0) is drawn with that seed plus k.
        options: those of :class:`SamplingOptions`, which gives their defaults; None means the default. ``options`` may
            be such an object; keywords given with it take precedence.

        Prompts share forward passes; each completion is the one that its prompt would give alone with the same seed.
        Without a seed, each gets a random one; a list of seeds has one for each prompt.

        Raises ContextFullError (before computing anything, if the prompt is too long), NumericsError, TokenizerError,
        ClosedError; ValueError or TypeError naming a wrong option. If one of several prompts fails while it runs, the
        others continue; at the end, a BatchError is raised that holds the errors of those that failed and the
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
        errors: see :meth:`generate`, except:

        tool_choice: "auto": the model may call tools; "none": it may not; "required": it must; ``{"type": "function",
            "function": {"name": ...}}``: it must call this one. parallel_tool_calls: False: at most one call. The calls
            are in ``Completion.tool_calls``. See docs/tools.md.
        thinking_budget: the most tokens of reasoning; then its closing tag is written.

        max_tokens: by default None: as many as fit the context.
        on_full: "trim" leaves out the oldest turns of a conversation that does not fit the context, as few as possible
            so that max_tokens new tokens fit, too (None: 512, or a quarter of the context if that is less). A turn is a
            user message and everything that answers it; system messages at the beginning stay. ``Completion.dropped``
            is the number of messages left out. ContextFullError is raised if even the last turn does not fit.

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
        """Generates a completion for each item of an iterable, which may be endless -> an iterator of completions. Each
        is the one that :meth:`generate` or :meth:`chat` gives for that item, the options and the seed, bit for bit.

        items: an iterable. Each is a prompt (text or ids), a list of messages, or a dict with one of the keys
            ``prompt``, ``prompt_ids`` and ``messages``, and options of its own, which override those of the call.
        at_once: the most items that are read before their results are yielded, and so are in memory.
        order: "input": completions in the order of the items. "done": pairs of an item's number, from 0 on, and its
            completion, in the order in which they finish.
        seeds: an iterable with a seed for each item; or an integer, from which each item's seed is derived with the
            item's number. They override other seeds.
        on_error: "raise" raises an item's error in place of its completion, which ends the iteration; "return" yields
            the error instead.

        Computes only while it is iterated over. ``cancel`` ends the running generations, with the finish reason
        "cancelled"; no further items are read.
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
        """Scores each text (or list of ids) of an iterable, which may be endless, ``at_once`` at a time -> an iterator
        of scores, each the one that :meth:`score` gives for the text. top, window: see :meth:`score`; other options:
        see :meth:`map`."""
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
        """Begins a generation that any thread or task may read -> :class:`Request`. Its result is the one that
        :meth:`generate` or :meth:`chat` gives for the same options and seed, bit for bit.

        Takes one of: prompt (text or ids), prompt_ids, or messages, with the options of :meth:`chat`.

        n: number of completions; the prompt is computed once for all, and completion i is drawn with seed + i. If n is
            more than 1, ``result`` is a list.
        priority: requests with a lower number begin first, and keep their memory when it is short.
        key: whose request it is. Within a priority, the key for which the fewest tokens were computed comes first. One
            request of each key can run, however many others run; if memory is short, a request of the key that has the
            most is preempted for it, and computed again later.
        timeout: seconds after which it ends, with the finish reason "cancelled".
        ahead: how many tokens it may be ahead of its reader, by default 32; then it waits.
        cache_salt: requests with different salts share nothing in the prefix cache.

        Without a running driver (:meth:`drive`), it is computed while a thread waits for it or for another request.
        Raises the errors of :meth:`generate` for a wrong prompt or option, and QueueFullError if a limit that
        :meth:`drive` set is exceeded.
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
        """Starts a thread that computes submitted requests until the model is closed; so does the first ``await`` of a
        request. Without it, the threads that wait for results compute them. May be called again.

        max_waiting: :meth:`submit` raises QueueFullError if more requests than this would wait. max_wait: also if
        computing the waiting prompts would take this many seconds or more, at the measured speed; max_waiting_tokens:
        also if these prompts have more tokens than this. Default: no limits. If others wait, one request of a key that
        has none waiting is never refused.
        """
        start.drive(self.core, max_waiting, max_wait, max_waiting_tokens)

    def stats(self) -> Stats:
        """The model's current requests, and what was computed since it was loaded -> :class:`Stats`."""
        return start.stats(self.core)

    @overload
    def score(self, text: Prompt, *, top: Integer | None = 0, window: Integer | None = None) -> Score: ...  # type: ignore[overload-overlap]  # a text is an iterable of texts
    @overload
    def score(self, text: Prompts, *, top: Integer | None = 0, window: Integer | None = None) -> list[Score]: ...
    def score(self, text: Any, *, top: Any = 0, window: Any = None) -> Any:
        """Log probability of every token of a text (or ids), given the tokens before it -> Score; for several texts,
        given as for :meth:`generate`, a list of scores. They share forward passes.

        top: how many of the likeliest alternatives to return for each token. window: a text of more than this many
        tokens is scored in parts of this length. Each part begins in the middle of the previous one, so that after the
        first part every token sees at least window / 2 tokens before it.

        Raises ContextFullError for a text that does not fit the context, if no window is given.
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

        Texts, given as for :meth:`generate`, share forward passes; each row is the one that its text would have alone,
        bit for bit.

        pooling: the hidden state that becomes the embedding: that of the "last" or the "first" token, or the "mean" of
            all. Default: what the model's files say; if they say nothing, it must be given.
        normalize: divide each row by its length, so that dot products of rows are cosines.
        dimensions: keep only this many of the first columns, before normalising; for models trained for it
            (Matryoshka). Default: what the model's files say, usually all.
        instruction: what is put before each text: the name of one of the model's prompts ("query", "document"), or any
            other text. Default: the prompt that the model's files make the default, usually none.

        Raises ContextFullError for a text that does not fit the context, before computing anything; ValueError if the
        pooling is not known; ChatTemplateError if the model's files require a chat template that is missing or broken;
        NumericsError.
        """
        from pellucid.embedding import embed

        return embed(self.core, texts, pooling, normalize, dimensions, instruction)

    def rerank(self, query: str, documents: Iterable[str], *, instruction: str | None = None) -> list[Ranked]:
        """Relevance of documents to a query -> [Ranked(index, score)], the most relevant first.

        The model must be a Qwen3-Reranker, whose score is the probability that it answers "yes" rather than "no" to
        its own prompt; or a BERT, XLM-R or ModernBERT with a classifier that reads both texts at once (a
        cross-encoder), whose score is between 0 and 1. Either may be any number if the files say that no
        sigmoid follows.

        instruction: what makes a document relevant, for Qwen3-Reranker, or the name of one of its files' prompts;
            default: that it answers a web search query.

        Raises UnsupportedModelError if the model is not a reranker; ContextFullError for a document that does not fit
        the context together with the query, before computing anything; NumericsError.
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
        lists their shapes. For several of these, returns a list of traces. A completion's arrays equal those of its
        generation, bit for bit.

        want: any of embeddings, hidden, middle, attention_in, mlp_in, final, q_unrotated, k_unrotated, q, k, v, scores,
        attention, attention_out, mlp_out, gate, up, neurons, mixed, head_out, routes, gates, conv, states, logits.
        layers, heads, positions: the indices to keep; negative ones count from the end; None: all. limit: maximum
        bytes of the arrays. chunk: rows of a pass, by default 512. Neither tracing nor `chunk` changes a bit of any
        result.
        each: called with a layer's number and a dict of its arrays, without their first axis, layer after layer; the
            trace then keeps only quantities that have no layers. No more than `limit` bytes are held at a time, so that
            a long text can be traced; it runs as many times as that requires.
        cancel: a callable or a threading.Event, checked about every 20 ms; the call then ends with CancelledError.
            progress: called with the number of tokens done and of all tokens.

        Raises ValueError for a wrong name or index, and if the arrays would exceed `limit` (the message says what would
        fit, if anything would); ContextFullError, NumericsError, ClosedError.
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
