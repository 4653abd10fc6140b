"""A model: loads a file, and offers what one does with it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import numpy.typing as npt

from pellucid import _engine, arch, arguments, checks, generation, weights
from pellucid.context import Context
from pellucid.errors import (
    ChatTemplateError,
    ClosedError,
    ContextFullError,
    TokenizerError,
    WrongType,
    WrongValue,
    one_line,
)
from pellucid.generation import Completion, Piece
from pellucid.info import ModelInfo, PlanTable, plan_table
from pellucid.later import Later
from pellucid.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pellucid.look.edit import Edit
    from pellucid.look.score import Score
    from pellucid.look.trace import Trace
    from pellucid.text.chat import ChatPrompt
    from pellucid.weights.store import Progress

__all__ = ["Model"]

_Tables = Sequence[Mapping[str, Any]]

DEFAULT_CONTEXT = 8192  # tokens; memory is taken as a context fills
MAX_ROWS = 512  # of a forward pass
PRECISIONS = {"default": 1, "high": 2}  # int8 terms of activations
_CHAT_OPTIONS = frozenset({"tools", "template", "documents", "variables", "add_generation_prompt"})
KV_CHOICES = ("auto", "f32", "f16", "bf16", "int8")


class Model:
    """A loaded model: immutable, and shared freely between threads. Made by :meth:`load`.

    A context manager; after :meth:`close` every use raises ``ClosedError``.
    """

    context_length: int  # tokens that a sequence may hold
    load_seconds: float
    _config: arch.Config
    _engine: _engine.Engine
    _facts: dict[str, Any]  # of the file and of how it was loaded
    _tokenizer: Later
    _closed: bool

    # ---- loading ----------------------------------------------------------------------------------------------

    def __init__(self) -> None:
        raise TypeError("use Model.load(source)")

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
        progress: Progress | None = None,
    ) -> Model:
        """Loads a model.

        source: a GGUF file (any part of a split one), a Hugging Face folder, a catalogue name (fetched at its first
            use, but for models with terms of use), or what `pellucid pull` brought, by the same name.
        threads: default: physical cores that the process may use (PELLUCID_THREADS).
        context: tokens that a sequence may hold; default: the model's own, at most 8192.
        isa: an instruction set; default: the best (PELLUCID_ISA).
        kv: type of cached keys and values: "auto" (f32 for models in F32, else the best 16-bit type here), "f32",
            "f16", "bf16", "int8" (0.56 times the memory of 16 bits: a scale per 32 values).
        precision: "default" (int8 activations, two terms in the head) or "high" (two terms everywhere).
        cache_bytes: bytes of memory that the keys and values of all its sequences together may take; default: no limit.
            What would exceed it is an OutOfMemoryError, and changes no sequence.
        progress: called with (bytes done, bytes in all, what) while fetching and packing.

        Raises ModelFileError, UnsupportedModelError, FetchError, IsaError, OutOfMemoryError; ValueError or TypeError
        naming a wrong argument.
        """
        start = time.perf_counter()
        threads, why = arguments.threads(threads)
        context = checks.integer("context", context, 1) if context is not None else None
        cache_bytes = checks.integer("cache_bytes", cache_bytes, 1) if cache_bytes is not None else None
        precision = checks.choice("precision", precision, PRECISIONS)
        kv = checks.choice("kv", kv, KV_CHOICES)
        if progress is not None and not callable(progress):
            raise WrongType("progress", f" must be callable, not {type(progress).__name__}")
        asked = checks.string("isa", isa) if isa is not None else os.environ.get("PELLUCID_ISA") or None
        isa = _engine.find_isa(asked)
        file = weights.open_model(arguments.resolve(source, progress), arch.folder)
        try:
            self = object.__new__(cls)
            config, plan = arch.build(file, frozenset(_engine.format_names()))
            if context is not None and context > config.context:
                raise WrongValue(
                    "context", f"={checks.shown(context)}: the model was made for at most {config.context} tokens"
                )
            self._config = config
            self.context_length = context or min(config.context, DEFAULT_CONTEXT)
            self._tokenizer = Later(lambda: _tokenizer(file, config.vocab))  # while the engine packs
            if kv == "auto":
                floats = all(m.type == "F32" for m in plan.matrices)
                kv = "f32" if floats else "bf16" if isa == "avx512bf16" else "f16"
            engine = _engine.Engine(
                plan,
                isa=isa,
                threads=threads,
                kv=kv,
                terms=PRECISIONS[precision],
                max_rows=MAX_ROWS,
                cache_bytes=min(cache_bytes or 0, 1 << 62),
            )
            total = sum(m.data.size for m in plan.matrices)
            engine.pack(
                None if progress is None else lambda done: progress(int(done * total), total, "packing weights")
            )
            self._engine = engine
            self._facts = {
                "path": file.path,
                "format": file.format,
                "name": one_line(file.get_str("general.name", "")),
                "quantisation": file.quantisation,
                "parameters": sum(math.prod(t.shape) for t in file.tensors.values()),
                "file_bytes": file.nbytes,
                "threads": threads,
                "threads_why": why,
                "isa_why": "the best that this build and CPU have" if asked is None else "asked for",
                "kv": kv,
                "precision": precision,
                "cache_limit": cache_bytes,
            }
            self._tokenizer.wait()
        finally:
            file.close()  # what is still read of it stays mapped
        self._closed = False
        self.load_seconds = time.perf_counter() - start
        return self

    def close(self) -> None:
        """Lets go of the model: its memory goes with the last generation that still runs. May be called again."""
        self._closed = True
        self._engine.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = " (closed)" if self._closed else ""
        return f"<Model {self._facts['path']}: {self._config.architecture}, {self._facts['quantisation']}{state}>"

    def _open(self) -> Any:
        if self._closed:
            raise ClosedError
        return self._engine

    # ---- looking at it ----------------------------------------------------------------------------------------

    def info(self) -> ModelInfo:
        """Sizes, and how the model runs here and why."""
        e, c = self._open().info(), self._config
        kv = self._facts["kv"]
        plan = self._engine.plan
        return ModelInfo(
            **self._facts,
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
                g.n_layers * g.n_kv * (_kv_bytes(kv, g.dk) + _kv_bytes(kv, g.dv)) for g in plan.caches
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
        """The operations that a forward pass runs, with shapes and bytes; prints as a table."""
        engine = self._open()
        return plan_table(engine.plan, engine.matrix_bytes)

    # ---- text and ids -----------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None when the file has none: then only ids are accepted. Raises TokenizerError where the file's is
        unusable."""
        return self._tokenizer.get()

    def _need_tokenizer(self) -> Tokenizer:
        self._open()
        tokenizer = self.tokenizer
        if tokenizer is None:
            raise TokenizerError("the model file has no tokenizer: only token ids are accepted")
        return tokenizer

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Text -> ids. add_special: with BOS where the model has one. parse_special: special tokens' text becomes
        their id."""
        return self._need_tokenizer().encode(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Ids -> text; none for an id beyond the vocabulary, where the embedding has more rows, to pad it.

        Raises ValueError for an id out of range.
        """
        tokenizer = self._need_tokenizer()
        known = tokenizer.vocab_size
        return tokenizer.decode([id for id in self.check_ids(ids, "ids", empty=True) if id < known])

    def chat_prompt(
        self,
        messages: _Tables,
        *,
        tools: _Tables | None = None,
        template: str | None = None,
        documents: _Tables | None = None,
        variables: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
    ) -> ChatPrompt:
        """What :meth:`chat` gives to the model: ChatPrompt(text, ids).

        messages: ``{"role": ..., "content": ...}`` each; content is text, or a list of parts ``{"type": "text", "text":
            ...}``. The spelling of a special token in a message is ordinary text.
        tools, documents: tables, as the template wants them (tools: JSON schemas). variables: further values for it,
            e.g. ``{"enable_thinking": False}``.
        template: Jinja, instead of the model's own.

        Raises ChatTemplateError where there is no template, or where it is broken, forbidden or refuses; TypeError or
        ValueError naming the place in the messages; TokenizerError for what cannot be encoded.
        """
        chat = self._need_tokenizer().chat(template)
        return chat.prompt(
            messages,
            tools=tools,
            documents=documents,
            variables=variables,
            add_generation_prompt=add_generation_prompt,
        )

    def check_ids(self, ids: Any, name: str, *, empty: bool = False) -> list[int]:
        """A list of token ids; ValueError or TypeError naming the argument."""
        return arguments.check_ids(ids, name, self._config.vocab, empty=empty)

    def _prompt(self, prompt: Any, name: str = "prompt") -> list[int]:
        """A prompt's ids, which fit the context."""
        ids = self._prompt_ids(prompt, name)
        if len(ids) > self.context_length:
            raise ContextFullError(f"{name} is too long", needed=len(ids), available=self.context_length)
        return ids

    def _prompt_ids(self, prompt: Any, name: str) -> list[int]:
        """A prompt's ids, at least one."""
        if isinstance(prompt, str):
            ids = self.tokenize(prompt)
            if not ids:
                bos = self._need_tokenizer().bos
                if bos is None:
                    raise arguments.wrong_part(
                        WrongValue, name, " is empty, and the model has no BOS token to start from"
                    )
                ids = [bos]
            return ids
        if isinstance(prompt, (bytes, bytearray)) or not hasattr(prompt, "__iter__"):
            raise arguments.wrong_part(
                WrongType, name, f" must be text or a list of token ids, not {type(prompt).__name__}"
            )
        return self.check_ids(prompt, name)

    # ---- computing --------------------------------------------------------------------------------------------

    @overload
    def logits(self, ids: Sequence[int], *, chunk: int = 512) -> npt.NDArray[np.float32]: ...
    @overload
    def logits(self, ids: Sequence[Sequence[int]], *, chunk: int = 512) -> list[npt.NDArray[np.float32]]: ...
    def logits(self, ids: Any, *, chunk: int = 512) -> Any:
        """Logits of every token -> float32 (n, vocab); for a list of sequences a list of the same, computed as rows of
        the same forward passes. chunk: rows of a pass; changes no bit.

        Raises ContextFullError, NumericsError, ValueError for an id out of range.
        """
        engine, chunk = self._open(), generation.check_chunk(chunk)
        if isinstance(ids, str):
            raise WrongType("ids", " must be a list of token ids, not text: see Model.tokenize")
        if arguments.several(ids):
            many = [self._prompt(self.check_ids(part, f"ids[{i}]"), f"ids[{i}]") for i, part in enumerate(ids)]
            return generation.logits(engine, [(_engine.Sequence(engine), part) for part in many], chunk)
        if hasattr(ids, "ndim") and ids.ndim != 1:
            raise WrongValue("ids", f" has {ids.ndim} dimensions: expected one, or a list of sequences")
        one = self._prompt(self.check_ids(ids, "ids"), "ids")
        return generation.logits(engine, [(_engine.Sequence(engine), one)], chunk)[0]

    @overload
    def generate(self, prompt: str | Sequence[int], **options: Any) -> Completion: ...
    @overload
    def generate(self, prompt: list[str] | list[list[int]], **options: Any) -> list[Completion]: ...
    def generate(self, prompt: Any, **options: Any) -> Any:
        """Generates from a prompt (text or ids) -> Completion; from a list of prompts, side by side -> a list of them,
        each as it would be alone with the same seed; without a seed each draws its own.

        Options (defaults): max_tokens=128, temperature=0.8 (0: greedy), top_k=40, top_p=0.95, min_p=0.05,
        typical_p=1.0, repeat_penalty=1.0, repeat_last=64, presence_penalty=0.0, frequency_penalty=0.0,
        dry_multiplier=0.0, dry_base=1.75, dry_allowed_length=2, dry_range=-1 (all),
        dry_breakers=("\\n", ":", '"', "*"), top_n_sigma=0.0, xtc_probability=0.0, xtc_threshold=0.1,
        dynatemp_range=0.0, dynatemp_exponent=1.0, mirostat=0 | 2, mirostat_tau=5.0, mirostat_eta=0.1, samplers=None
        (the names of the sampler's steps in an order of one's own), logit_bias={}, seed=None,
        stop=(), stop_ids=(), ignore_eos=False, logprobs=0 (alternatives per token), echo=False, cache=True,
        chunk=512, cancel=None (threading.Event or callable), on_full="stop" | "error", trace=None.

        trace: names as `want` of :meth:`trace`, or a dict of its arguments: ``Completion.trace`` then has a row for
        every token of the prompt and every new one. Tokens are the same with and without. It is made by a pass of its
        own at the end, whose numbers are those of the generation bit for bit; `limit` is checked first, for max_tokens,
        and positions must be of the prompt (or count from the end).

        Raises ContextFullError (before computing, where the prompt is too long), NumericsError, TokenizerError,
        ClosedError; ValueError or TypeError naming a wrong option.
        """
        trace = options.pop("trace", None)
        options_ = generation.parse_options(options)
        several = arguments.several(prompt)
        prompts = list(prompt) if several else [prompt]
        engine = self._open()
        names = [f"prompt[{i}]" for i in range(len(prompts))] if several else ["prompt"]
        own = options.get("seed") is None  # a draw for each
        draws = [options_, *(replace(options_, seed=None) if own else options_ for _ in prompts[1:])]
        jobs = [self._job(engine, p, name, o) for p, name, o in zip(prompts, names, draws, strict=True)]
        if trace is not None:
            from pellucid.look import trace as tracing

            trace = tracing.arguments(self, trace, [len(job.ids) for job in jobs], options_.max_tokens)
        pieces: dict[int, list[Piece]] = {id(job): [] for job in jobs}
        for job, piece in generation.run_all(engine, jobs, options_):
            pieces[id(job)].append(piece)
        done = [generation.collect(pieces[id(job)]) for job in jobs]
        if trace is not None:
            done = [
                replace(c, trace=self.trace(job.ids[: self.context_length], **trace))
                for c, job in zip(done, jobs, strict=True)
            ]
        return done if several else done[0]

    def stream(self, prompt: str | Sequence[int], **options: Any) -> Iterator[Piece]:
        """Like :meth:`generate`, piece by piece: a Piece per token; the last one has the finish reason."""
        options_ = generation.parse_options(options)
        engine = self._open()
        return generation.run(engine, [self._job(engine, prompt, "prompt", options_)], options_)

    @overload
    def chat(self, messages: _Tables, *, stream: Literal[False] = False, **options: Any) -> Completion: ...
    @overload
    def chat(self, messages: _Tables, *, stream: Literal[True], **options: Any) -> Iterator[Piece]: ...
    def chat(
        self, messages: Any, *, tools: Any = None, template: str | None = None, stream: bool = False, **options: Any
    ) -> Any:
        """The next message of a conversation -> Completion, or an iterator of Piece where ``stream``.

        messages, tools, template, documents, variables: :meth:`chat_prompt`. Other options and errors:
        :meth:`generate`. A conversation that goes on is quicker in a context: ``Context.chat``.
        """
        prompt, parsed = self.start_chat(messages, {**options, "tools": tools, "template": template})
        engine = self._open()
        job = generation.Job(
            self,
            list(prompt.ids),
            parsed,
            _engine.Sequence(engine),
            len(prompt.ids),
            prompt.text if parsed.echo else "",
        )
        pieces = generation.run(engine, [job], parsed)
        return pieces if stream else generation.collect(pieces)

    def start_chat(self, messages: Any, options: dict[str, Any]) -> tuple[ChatPrompt, generation.SamplingOptions]:
        """A chat's prompt, which fits the context, and its checked options."""
        own = {name: options.pop(name) for name in _CHAT_OPTIONS & options.keys()}
        parsed = generation.parse_options(options)
        prompt = self.chat_prompt(messages, **own)
        if not prompt.ids:
            raise ChatTemplateError("the chat template makes no text of these messages")
        self._prompt(prompt.ids, "the conversation")
        return prompt, parsed

    def _job(self, engine: Any, prompt: Any, name: str, options: Any) -> generation.Job:
        ids = self._prompt(prompt, name)
        echo = ""
        if options.echo:
            echo = prompt if isinstance(prompt, str) else self.detokenize(ids)
        return generation.Job(self, ids, options, _engine.Sequence(engine), len(ids), echo)

    # ---- looking inside ---------------------------------------------------------------------------------------

    def trace(
        self,
        prompt: str | Sequence[int],
        want: str | Sequence[str] = ("hidden", "attention"),
        *,
        layers: int | Sequence[int] | None = None,
        heads: int | Sequence[int] | None = None,
        positions: int | Sequence[int] | None = None,
        limit: int = 2 << 30,
        chunk: int = 512,
    ) -> Trace:
        """Runs a text or ids once and keeps what was asked for, as NumPy arrays: see :class:`Trace` for their shapes.

        want: any of embeddings, hidden, q, k, v, scores, attention, attention_out, mlp_out, neurons, head_out, logits.
        layers, heads, positions: indices to keep, negative ones from the end; None: all. limit: bytes that the arrays
        may take. chunk: rows of a pass. Neither tracing nor `chunk` changes a bit of anything.

        Raises ValueError for a wrong name or index, and for more than `limit`, saying what would fit; ContextFullError,
        NumericsError, ClosedError.
        """
        from pellucid.look.trace import trace

        return trace(self, prompt, want, layers=layers, heads=heads, positions=positions, limit=limit, chunk=chunk)

    @overload
    def score(self, text: str | Sequence[int], *, top: int = 0, window: int | None = None) -> Score: ...
    @overload
    def score(self, text: list[str] | list[list[int]], *, top: int = 0, window: int | None = None) -> list[Score]: ...
    def score(self, text: Any, *, top: int = 0, window: int | None = None) -> Any:
        """Log probability of every token of a text (or ids), given those before it -> Score; of a list of texts, side
        by side, a list of them.

        top: the likeliest alternatives to give with each. window: texts longer than that many tokens are scored in
        parts of that length, each of which begins in the middle of the one before: every token sees at least
        window / 2 tokens before it. Without it a text beyond the context is a ContextFullError.
        """
        from pellucid.look.score import score

        return score(self, text, top, window)

    def edit(self) -> Edit:
        """A view over the same weights whose arithmetic can be edited (steering, ablation, patching): see
        :class:`pellucid.look.edit.Edit`. To be used in a `with` statement, and closed at its end."""
        from pellucid.look.edit import Edit

        self._open()
        return Edit(self)

    def _with_engine(self, engine: Any) -> Model:
        """The same model, run by another engine."""
        view = object.__new__(Model)
        view.__dict__.update(self.__dict__)
        view._engine = engine
        return view

    def weight(self, name: str) -> npt.NDArray[np.float32]:
        """A tensor dequantised -> float32 of its shape (a matrix: (out, in)), as the engine reads it.

        name: as in GGUF files ("blk.0.attn_q.weight"; without ".weight", too). Raises ValueError for one that the plan
        does not use, with near matches.
        """
        from pellucid.look.weight import weight

        return weight(self._open(), name)

    # ---- sequences --------------------------------------------------------------------------------------------

    def context(self) -> Context:
        """A sequence of one's own, which keeps its cache between calls."""
        self._open()
        return Context(self)


# ---- what loading needs -----------------------------------------------------------------------------------------


def _kv_bytes(kv: str, d: int) -> int:
    """Bytes of one head's key or value of width d in the cache."""
    if kv == "int8":
        return d + 4 * -(-d // 32)
    return d * (4 if kv == "f32" else 2)


def _tokenizer(file: Any, vocab: int) -> Tokenizer | None:
    tokenizer = Tokenizer.from_gguf(file) if file.format.startswith("GGUF") else _folder_tokenizer(file.path)
    if tokenizer is not None and tokenizer.vocab_size > vocab:
        raise TokenizerError(f"the tokenizer has {tokenizer.vocab_size} tokens, the model's embedding {vocab}")
    return tokenizer


def _folder_tokenizer(path: str) -> Tokenizer | None:
    """A Hugging Face folder's tokenizer, None where it has no file of one."""
    if not any(os.path.exists(os.path.join(path, name)) for name in ("tokenizer.json", "tokenizer.model")):
        return None
    return Tokenizer.load(path)
