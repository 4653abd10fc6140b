"""Model and Edit, the objects that users work with."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import numpy.typing as npt

from pellucid import _engine, arguments, generation
from pellucid.context import Context
from pellucid.core import Core, Tables
from pellucid.errors import ClosedError, WrongType, WrongValue, one_line, shown
from pellucid.info import ModelInfo, PlanTable, plan_table
from pellucid.progress import reporting
from pellucid.results import Completion, Piece, collect
from pellucid.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pellucid.look.score import Score
    from pellucid.look.trace import Trace
    from pellucid.text.chat import ChatPrompt
    from pellucid.weights.store import Progress

__all__ = ["Edit", "Model"]


class Model:
    """A loaded model, created by :meth:`load`. It is immutable, so threads can share it freely.

    A context manager; after :meth:`close` every use raises ``ClosedError``.
    """

    def __init__(self, core: Core) -> None:
        if not isinstance(core, Core):
            kind = type(self).__name__
            how = f"use Model.load({shown(core)})" if kind == "Model" else "use model.edit()"
            raise WrongType(kind, f"({shown(core)}): {how}")
        self._core = core

    @property
    def core(self) -> Core:
        """Engine, configuration and tokenizer, for the rest of the library. Not a stable interface."""
        return self._core

    @property
    def context_length(self) -> int:
        """Maximum number of tokens of a sequence."""
        return self._core.context_length

    @property
    def load_seconds(self) -> float:
        """Seconds that loading took."""
        return self._core.load_seconds

    # ---- loading ----------------------------------------------------------------------------------------------

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str],
        *,
        threads: int | None = None,
        context: int | None = None,
        isa: str | None = None,
        kv: str = "auto",
        precision: str = "default",
        cache_bytes: int | None = None,
        progress: Progress | bool | None = None,
    ) -> Model:
        """Loads a model.

        source: the path of a GGUF file (any part of a split one) or of a Hugging Face folder, a catalogue name (the
            model is downloaded at its first use, unless it has terms of use), or the name of a model that
            `pellucid pull` downloaded.
        threads: default: PELLUCID_THREADS, else the physical cores that the process may use.
        context: maximum number of tokens of a sequence; default: that of the model, but at most 8192.
        isa: an instruction set; default: PELLUCID_ISA, else the best one that this machine has.
        kv: type of cached keys and values: "auto" ("f32" for models in F32, else the best 16-bit type on this machine),
            "f32", "f16", "bf16", or "int8" with a scale per 32 values (0.56 times the memory of 16 bits).
        precision: "default" (int8 activations, two terms in the head) or "high" (two terms everywhere).
        cache_bytes: bytes that the keys and values of all sequences together may take; default: no limit. A call that
            would exceed it raises OutOfMemoryError and changes no sequence.
        progress: called with (bytes done, bytes in all, what) while downloading and packing; True: a bar drawn by tqdm;
            False: nothing. Default: a bar in a notebook where tqdm is installed, nothing elsewhere.

        Raises ModelFileError, UnsupportedModelError, FetchError, IsaError, OutOfMemoryError; ValueError or TypeError
        naming a wrong argument.
        """
        with reporting(progress) as report:
            core = Core.load(
                source,
                threads=threads,
                context=context,
                isa=isa,
                kv=kv,
                precision=precision,
                cache_bytes=cache_bytes,
                progress=report,
            )
        return Model(core)

    def close(self) -> None:
        """Frees the model; memory is released when the last running generation ends. May be called again."""
        self._core.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        c = self._core
        state = " (closed)" if c.closed else ""
        path = one_line(c.facts.path, 60)
        return f"<{type(self).__name__} {path}: {c.config.architecture}, {c.facts.quantisation}{state}>"

    # ---- looking at it ----------------------------------------------------------------------------------------

    def info(self) -> ModelInfo:
        """Sizes, and how the model runs here and why."""
        engine, c, facts = self.core.open(), self.core.config, self.core.facts
        e = engine.info()
        return ModelInfo(
            **asdict(facts),
            architecture=c.architecture,
            layers=c.layers,
            dim=c.dim,
            ff=c.ff,
            heads=c.attention.n_q,
            kv_heads=c.attention.n_kv,
            head_dim=c.attention.dk,
            vocab=c.vocab,
            context=self.context_length,
            context_trained=c.context,
            packed_bytes=e["packed_bytes"],
            work_bytes=e["work_bytes"],
            cache_bytes=e["cache_bytes"],
            cache_bytes_per_token=sum(
                g.n_layers * g.n_kv * (_kv_bytes(facts.kv, g.dk) + _kv_bytes(facts.kv, g.dv))
                for g in engine.plan.caches
            ),
            huge_pages=e["huge_pages"],
            isa=e["isa"],
            isas={
                name: "runs" if built and runs else "not on this CPU" if built else "not built"
                for name, built, runs in _engine.isas()
            },
            cpu=_engine.cpu_name(),
        )

    def plan(self) -> PlanTable:
        """The operations of a forward pass, with shapes and bytes. `print` shows them as a table."""
        engine = self.core.open()
        return plan_table(engine.plan, engine.matrix_bytes)

    # ---- text and ids -----------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None where the model has no tokenizer; then only ids are accepted. Raises TokenizerError where the tokenizer
        is unusable."""
        return self._core.tokenizer

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Text -> ids.

        add_special: add BOS where the model uses one. parse_special: turn the spelling of a special token into its id;
        otherwise it is ordinary text.

        Raises TokenizerError for text that cannot be encoded, and where the model has no tokenizer.
        """
        return self.core.tokenize(text, add_special, parse_special)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Ids -> text. Ids beyond the vocabulary, which exist where the embedding is padded, have no text.

        Raises ValueError for an id out of range; TokenizerError where the model has no tokenizer.
        """
        return self.core.detokenize(ids)

    def chat_prompt(
        self,
        messages: Tables,
        *,
        tools: Tables | None = None,
        template: str | None = None,
        documents: Tables | None = None,
        variables: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
    ) -> ChatPrompt:
        """The prompt that :meth:`chat` gives to the model -> ChatPrompt(text, ids).

        messages: each ``{"role": ..., "content": ...}``; content is text, or a list of parts ``{"type": "text", "text":
            ...}``. The spelling of a special token in a message is ordinary text.
        tools, documents: lists of tables, in the form that the template expects (tools: JSON schemas). variables:
            further values for the template, such as ``{"enable_thinking": False}``.
        template: a Jinja template to use instead of the model's.

        Raises ChatTemplateError where there is no template, or where it is broken, does something forbidden, or refuses
        the messages; TypeError or ValueError naming the place in the messages; TokenizerError for text that cannot be
        encoded.
        """
        return self.core.chat_prompt(
            messages,
            template=template,
            tools=tools,
            documents=documents,
            variables=variables,
            add_generation_prompt=add_generation_prompt,
        )

    # ---- computing --------------------------------------------------------------------------------------------

    @overload
    def logits(self, ids: Sequence[int], *, chunk: int = 512) -> npt.NDArray[np.float32]: ...
    @overload
    def logits(self, ids: Sequence[Sequence[int]], *, chunk: int = 512) -> list[npt.NDArray[np.float32]]: ...
    def logits(self, ids: Any, *, chunk: int = 512) -> Any:
        """Logits of every token -> float32 (n, vocab); for a list of sequences, a list of such arrays, computed in the
        same forward passes. chunk: rows of a pass; it changes no bit of the result.

        Raises ContextFullError; NumericsError; ValueError for an id out of range.
        """
        c, engine, chunk = self.core, self.core.open(), generation.check_chunk(chunk)
        if isinstance(ids, str):
            raise WrongType("ids", " must be a list of token ids, not text: see Model.tokenize")
        if arguments.several(ids):
            many = [c.prompt(c.check_ids(part, f"ids[{i}]"), f"ids[{i}]") for i, part in enumerate(ids)]
            return generation.logits(engine, [(_engine.Sequence(engine), part) for part in many], chunk)
        if hasattr(ids, "ndim") and ids.ndim != 1:
            raise WrongValue("ids", f" has {ids.ndim} dimensions: expected one, or a list of sequences")
        one = c.prompt(c.check_ids(ids, "ids"), "ids")
        return generation.logits(engine, [(_engine.Sequence(engine), one)], chunk)[0]

    @overload
    def generate(self, prompt: str | Sequence[int], **options: Any) -> Completion: ...
    @overload
    def generate(self, prompt: list[str] | list[list[int]], **options: Any) -> list[Completion]: ...
    def generate(self, prompt: Any, **options: Any) -> Any:
        """Generates from a prompt (text or ids) -> Completion; from a list of prompts -> a list of completions.

        The prompts of a list run in the same forward passes; each completion is the one that its prompt would have
        alone with the same seed. Without a seed, each prompt gets a random one.

        Options (defaults): max_tokens=128, temperature=0.8 (0: greedy), top_k=40, top_p=0.95, min_p=0.05,
        typical_p=1.0, repeat_penalty=1.0, repeat_last=64, presence_penalty=0.0, frequency_penalty=0.0,
        dry_multiplier=0.0, dry_base=1.75, dry_allowed_length=2, dry_range=-1 (all),
        dry_breakers=("\\n", ":", '"', "*"), top_n_sigma=0.0, xtc_probability=0.0, xtc_threshold=0.1,
        dynatemp_range=0.0, dynatemp_exponent=1.0, mirostat=0 | 2, mirostat_tau=5.0, mirostat_eta=0.1, samplers=None
        (names of the sampler's steps, in the order in which they act), logit_bias={}, seed=None,
        stop=(), stop_ids=(), ignore_eos=False, logprobs=0 (alternatives per token), echo=False, cache=True,
        chunk=512, cancel=None (threading.Event or callable), on_full="stop" | "error".

        Raises ContextFullError (before computing anything, where the prompt is too long), NumericsError,
        TokenizerError, ClosedError; ValueError or TypeError naming a wrong option. If one of several prompts fails
        while it runs, the others continue; at the end, a BatchError holds the errors of those that failed and the
        completions of the others.
        """
        return generation.generate(self.core, prompt, options)

    def stream(self, prompt: str | Sequence[int], **options: Any) -> Iterator[Piece]:
        """Like :meth:`generate`, but yields a Piece per token; the last one has the finish reason."""
        options_ = generation.parse_options(options)
        core = self.core
        return generation.run(core.open(), [generation.start(core, prompt, options_)], options_)

    @overload
    def chat(self, messages: Tables, *, stream: Literal[False] = False, **options: Any) -> Completion: ...
    @overload
    def chat(self, messages: Tables, *, stream: Literal[True], **options: Any) -> Iterator[Piece]: ...
    def chat(
        self, messages: Any, *, tools: Any = None, template: str | None = None, stream: bool = False, **options: Any
    ) -> Any:
        """Generates the next message of a conversation -> Completion; with ``stream``, an iterator of Piece.

        messages, tools, template, documents, variables: see :meth:`chat_prompt`. Other options and errors: see
        :meth:`generate`. A conversation of several turns is faster in a context: see ``Context.chat``.
        """
        c = self.core
        prompt, parsed = generation.start_chat(c, messages, {**options, "tools": tools, "template": template})
        engine, echo = c.open(), prompt.text if parsed.echo else ""
        job = generation.Job(c, list(prompt.ids), parsed, _engine.Sequence(engine), len(prompt.ids), echo)
        pieces = generation.run(engine, [job], parsed)
        return pieces if stream else collect(pieces, prompt.ids)

    # ---- looking inside ---------------------------------------------------------------------------------------

    def trace(
        self,
        prompt: str | Sequence[int] | Completion,
        want: str | Sequence[str] = ("hidden", "attention"),
        *,
        layers: int | Sequence[int] | None = None,
        heads: int | Sequence[int] | None = None,
        positions: int | Sequence[int] | None = None,
        limit: int = 2 << 30,
        chunk: int = 512,
    ) -> Trace:
        """Runs a text, ids or a completion (its prompt and new tokens) once and keeps the wanted quantities as NumPy
        arrays; :class:`Trace` lists their shapes. A completion's arrays equal those of its generation, bit for bit.

        want: any of embeddings, hidden, q, k, v, scores, attention, attention_out, mlp_out, neurons, head_out, logits.
        layers, heads, positions: the indices to keep; negative ones count from the end; None: all. limit: maximum
        bytes of the arrays. chunk: rows of a pass. Neither tracing nor `chunk` changes a bit of any result.

        Raises ValueError for a wrong name or index, and where the arrays would exceed `limit` (the message states what
        would fit); ContextFullError, NumericsError, ClosedError.
        """
        from pellucid.look.trace import trace

        return trace(self.core, prompt, want, layers=layers, heads=heads, positions=positions, limit=limit, chunk=chunk)

    @overload
    def score(self, text: str | Sequence[int], *, top: int = 0, window: int | None = None) -> Score: ...
    @overload
    def score(self, text: list[str] | list[list[int]], *, top: int = 0, window: int | None = None) -> list[Score]: ...
    def score(self, text: Any, *, top: int = 0, window: int | None = None) -> Any:
        """Log probability of every token of a text (or ids), given the tokens before it -> Score; for a list of texts,
        which run in the same forward passes, a list of scores.

        top: how many of the likeliest alternatives to return for each token. window: a text of more than this many
        tokens is scored in parts of this length. Each part begins in the middle of the previous one, so that after the
        first part every token sees at least window / 2 tokens before it.

        Raises ContextFullError for a text that does not fit the context, without a window.
        """
        from pellucid.look.score import score

        return score(self.core, text, top, window)

    def edit(self) -> Edit:
        """A view of the model whose arithmetic can be edited (steering, ablation, patching): see :class:`Edit`. Use it
        in a `with` statement, which closes it."""
        core = self.core
        core.open()
        return Edit(core)

    def weight(self, name: str) -> npt.NDArray[np.float32]:
        """A weight tensor, dequantised as the engine reads it -> float32 in its shape (of a matrix: (out, in)).

        name: as in GGUF files ("blk.0.attn_q.weight"; ".weight" may be left out). Raises ValueError, which suggests
        similar names, for a tensor that the plan does not use.
        """
        from pellucid.look.weight import weight

        return weight(self.core.open(), name)

    # ---- sequences --------------------------------------------------------------------------------------------

    def context(self) -> Context:
        """A new :class:`Context`: a sequence that keeps its cache between calls. In a `with` statement, its memory is
        released at the end."""
        return Context(self.core)


class Edit(Model):
    """A view of a model with edits, created by ``Model.edit``; a context manager, which closes it at the end.

    The view has the same packed weights, but a plan and a cache of its own; the model and its other users are not
    affected. An edit takes effect from the next call on; edits act in the order in which they were made. A neutral one
    (a factor of 1, added zeros) changes no bit. Edit methods raise ValueError or TypeError naming the argument, and
    then change nothing. The view has all methods of a model and applies its edits in them; a trace's hidden states are
    those after the edits. A trace can be used after the view is closed.
    """

    def __init__(self, core: Core) -> None:
        super().__init__(core)
        from pellucid.look.edit import Edits

        self._edits = Edits(core)
        self._view: Model | None = None  # None after an edit, until the next use
        self._cores: weakref.WeakSet[Core] = weakref.WeakSet()  # those of all views so far
        self._closed = False

    @property
    def model(self) -> Model:
        """The edited model as it is now; later edits do not change it. It is closed with the edit."""
        self._check_open()
        view = self._view  # read once: another thread may make an edit at the same time
        if view is None:
            core = self._core.view(self._edits.plan())
            self._cores.add(core)
            self._view = view = Model(core)
        return view

    @property
    def core(self) -> Core:
        """The core of the edited model."""
        return self.model.core

    def __enter__(self) -> Edit:
        self._check_open()
        return self

    def close(self) -> None:
        """Closes the view: every later use raises ClosedError. May be called again."""
        self._closed = True
        self._view = None
        for core in list(self._cores):
            core.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the edit is closed")
        self._core.open()

    def add(self, layer: int, vector: npt.ArrayLike, positions: Any = None) -> Edit:
        """Adds a vector (d) to the residual stream after a layer, at the given positions; None: at all positions,
        including those of new tokens."""
        return self._make(self._edits.add, layer, vector, positions)

    def patch(self, layer: int, positions: Any, values: npt.ArrayLike) -> Edit:
        """Replaces the residual stream after a layer, at the given positions, by values of shape (len(positions), d),
        or (d) for all of them."""
        return self._make(self._edits.patch, layer, positions, values)

    def scale_head(self, layer: int, head: int, factor: float) -> Edit:
        """Multiplies a head's output before it is projected into the residual stream. A factor of 0 removes the
        head."""
        return self._make(self._edits.scale_head, layer, head, factor)

    def skip(self, layer: int, part: str) -> Edit:
        """Skips a layer's "attention" or "mlp": it adds nothing to the residual stream."""
        return self._make(self._edits.skip, layer, part)

    def _make(self, edit: Callable[..., None], *arguments: Any) -> Edit:
        self._check_open()
        edit(*arguments)
        self._view = None
        return self


# ---- sizes ----------------------------------------------------------------------------------------------------------


def _kv_bytes(kv: str, d: int) -> int:
    """Bytes of one head's key or value of d numbers in the cache."""
    if kv == "int8":
        return d + 4 * -(-d // 32)
    return d * (4 if kv == "f32" else 2)
