"""Model and Edit, the objects that users work with."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from pellucid import _engine, arguments, cache_folder, checks, generation, log, pickled, saved
from pellucid.async_calls import AsyncCalls
from pellucid.context import Context
from pellucid.core import Core
from pellucid.edit_calls import EditCalls
from pellucid.errors import ClosedError, WrongType, WrongValue, one_line, shown
from pellucid.info import ModelInfo, PlanTable, cache_shares, plan_table
from pellucid.options import Ids, Kv, Messages, Precision, Prompt, Tokens, ToolChoice, Tools
from pellucid.progress import reporting
from pellucid.reply import for_template
from pellucid.results import Completion
from pellucid.sampling import Integer, Number
from pellucid.schedule.assistant import attach
from pellucid.snapshot import snapshot
from pellucid.tokenizer import Tokenizer

if TYPE_CHECKING:
    from typing import Self

    from pellucid.text.chat import ChatPrompt
    from pellucid.weights.store import Progress

__all__ = ["Edit", "Model"]


class Model(AsyncCalls):
    """A loaded model, created by :meth:`load`. It is immutable, so threads can share it freely.

    A context manager; after :meth:`close`, calls that need the weights raise ``ClosedError``. The tokenizer stays
    usable.
    """

    _closed = False  # a view can be closed on its own

    def __init__(self, core: Core = None) -> None:  # type: ignore[assignment]  # None: as if forgotten
        if not isinstance(core, Core):
            kind, given = type(self).__name__, "" if core is None else shown(core)
            how = f"use Model.load({given or 'source'})" if kind == "Model" else "use model.edit()"
            raise WrongType(kind, f"({given}): {how}")
        self._core = core
        self._recipe: pickled.Recipe | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle holds the path and the arguments of `load`; unpickling loads the file again, once per process.
        Raises TypeError for a view with edits."""
        if self._recipe is None:
            raise WrongType(type(self).__name__, ": a view with edits cannot be pickled; pickle the model, and edit it")
        return _unpickled, (self._recipe.path, self._recipe.host, self._recipe.arguments)

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
        threads: Integer | None = None,
        context: Integer | None = None,
        isa: str | None = None,
        kv: Kv | None = "auto",
        precision: Precision | None = "default",
        cache_bytes: Integer | None = None,
        checkpoints: Integer | None = None,
        sequences: Integer | None = None,
        max_gap: Number | None = None,
        prefix_cache: bool | Integer | None = False,
        quantize: str | None = None,
        share: bool | None = None,
        draft: str | os.PathLike[str] | Model | None = None,
        progress: Progress | bool | None = None,
    ) -> Model:
        """Loads a model.

        source: the path of a GGUF file (any part of a split one) or of a Hugging Face folder, a catalogue name (the
            model is downloaded at its first use, unless it has terms of use), or the name of a model that
            `pellucid pull` downloaded.
        threads: default: PELLUCID_THREADS, else the number of physical cores that the process may use, without
            efficiency cores.
        context: maximum number of tokens of a sequence; default: the model's, but at most 8192.
        isa: an instruction set; default: PELLUCID_ISA, else the best one that this machine has.
        kv: type of cached keys and values: "auto" ("f32" for models in F32, else the best 16-bit type on this machine),
            "f32", "f16", "bf16", or "int8" with a scale per 32 values (0.56 times the memory of 16 bits).
        precision: "default" (int8 activations, two int8 terms in the head) or "high" (two terms everywhere).
        cache_bytes: bytes that the keys and values of all sequences together may take; default: half of the memory left
            after loading, or left in the control group if that is less (`info().cache_limit`). A prompt that could
            never fit raises ContextFullError immediately; a call whose pass would exceed the limit raises
            OutOfMemoryError and changes no sequence; if several calls exceed it only together, some wait or are
            computed again, with the same result.
        checkpoints: bytes of earlier states of recurrent layers that each sequence keeps, to return to without
            processing the whole prompt again: room for at least one state (`info().state_bytes`), at most 8; default: 8
            states. Fewer states change no result.
        sequences: generations that run at the same time; default: 32; others wait.
        max_gap: while a generation decodes, the prompts of others are computed in passes of at most about this many
            seconds; default: 0.1. It changes no bit of any result.
        prefix_cache: keeps what was computed for prompts and answers, so that a later request that begins with the same
            tokens computes only the rest, with the same result: True, or the bytes that it may take. True: all that
            ``cache_bytes`` allows; without ``cache_bytes``, a quarter of the memory left after loading. The least
            recently used entries are dropped first, all of them if other calls need the memory. See
            docs/prefix-cache.md.
        quantize: a format, such as "q8_0", "q4_0" or "q4_k_m", to which matrices in F32, F16 and BF16 are quantised
            while loading, by the rules of `pellucid quantize` but with a shorter search for scales
            (docs/making-files.md). Each matrix is in memory twice while it is quantised.
        share: keeps one copy of the packed weights for all processes of the user on this machine, in /dev/shm; default:
            PELLUCID_SHARE=1. If that is not possible, this process has its own copy, and ``info().shared_why`` says
            why. It changes no bit of any result. See docs/sharing.md.
        draft: a smaller model with the same vocabulary (a loaded model, or anything that `source` accepts) that guesses
            next tokens; this model verifies several of them in one pass when that is faster. It changes no result. See
            docs/speculation.md.
        progress: called with (bytes done, total bytes, what) while downloading and packing; True: a progress bar drawn
            by tqdm; False: nothing. Default: a bar in a notebook if tqdm is installed, nothing elsewhere.

        Raises ModelFileError, UnsupportedModelError, FetchError, IsaError, OutOfMemoryError; ValueError or TypeError
        naming the wrong argument.
        """
        options: dict[str, Any] = {
            "threads": threads,
            "context": context,
            "isa": isa,
            "kv": kv,
            "precision": precision,
            "cache_bytes": cache_bytes,
            "checkpoints": checkpoints,
            "sequences": sequences,
            "max_gap": max_gap,
            "prefix_cache": prefix_cache,
            "quantize": quantize,
            "share": share,
        }
        with reporting(progress) as report:
            core = Core.load(source, **options, progress=report)
            if draft is not None:
                attach(core, draft, threads=threads, isa=isa, share=share, progress=report)
        model = Model(core)
        model._recipe = pickled.Recipe(core.facts.path, {**options, "draft": draft})
        pickled.remember(model, model._recipe)
        return model

    def close(self) -> None:
        """Frees the model. Running calls end with ClosedError, at the latest after the current forward pass; then the
        memory is released. May be called again, and by a signal handler."""
        self._core.close()

    def __enter__(self) -> Model:
        self.core.open()  # raises ClosedError
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        c = self._core
        state = " (closed)" if c.closed or self._closed else ""
        path = one_line(c.facts.path, 60)
        return f"<{type(self).__name__} {path}: {c.config.architecture}, {c.facts.quantisation}{state}>"

    # ---- looking at it ----------------------------------------------------------------------------------------

    def info(self) -> ModelInfo:
        """Sizes of the model, how it runs on this machine, and why."""
        engine, c, facts = self.core.open(), self.core.config, self.core.facts
        e = engine.info()
        formats: dict[str, int] = {}
        for i, matrix in enumerate(engine.plan.matrices):
            formats[matrix.type] = formats.get(matrix.type, 0) + engine.matrix_bytes(i)
        state = sum(4 * group.n_layers * group.layer.floats for group in engine.plan.states)
        shares = cache_shares(engine.plan, facts.kv)
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
            formats=formats,
            token_bytes=sum(operation.bytes for operation in self.plan()) + 2 * state,
            work_bytes=e["work_bytes"],
            cache_bytes=e["cache_bytes"],
            cache_bytes_per_token=sum(share.bytes_per_token for share in shares),
            cache_shares=shares,
            state_bytes=state,
            checkpoint_bytes=e["checkpoint_bytes"],
            huge_pages=e["pages"] != "small",
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
        """The model's tokenizer; None if it has none, and then only ids are accepted. Raises TokenizerError if the
        tokenizer is unusable."""
        return self._core.tokenizer

    def tokenize(self, text: str, add_special: bool | None = True, parse_special: bool | None = False) -> list[int]:
        """Text -> ids.

        add_special: add BOS if the model uses it. parse_special: convert the spelling of a special token to its id;
        otherwise it is ordinary text.

        Raises TokenizerError for text that cannot be encoded, or if the model has no tokenizer.
        """
        return self.core.tokenize(text, add_special, parse_special)

    def detokenize(self, ids: Ids) -> str:
        """Ids -> text. Ids beyond the vocabulary, which a padded embedding has, have no text.

        Raises ValueError for an id out of range; TokenizerError if the model has no tokenizer.
        """
        return self.core.detokenize(ids)

    def chat_prompt(
        self,
        messages: Messages,
        *,
        tools: Tools | None = None,
        tool_choice: ToolChoice | None = None,
        parallel_tool_calls: bool | None = True,
        template: str | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        reasoning_effort: str | None = None,
        thinking_budget: Integer | None = None,
        add_generation_prompt: bool | None = True,
    ) -> ChatPrompt:
        """The prompt that :meth:`chat` passes to the model -> ChatPrompt(text, ids).

        messages: each ``{"role": ..., "content": ...}``; content is text, or a list of parts ``{"type": "text", "text":
            ...}``. The spelling of a special token in a message is ordinary text. An assistant message may have
            "tool_calls", in OpenAI's form, and "reasoning_content"; a "tool" message holds the result of the call whose
            id is its "tool_call_id".
        tools: what the model may call: functions with type annotations, or dicts in OpenAI's form, ``{"type":
            "function", "function": {"name": ..., "description": ..., "parameters": JSON schema}}``. If the template
            does not support tools, they are described in the prompt instead. tool_choice: "none" leaves them out;
            parallel_tool_calls does not change the prompt.
        documents: a list of dicts, in the form that the template expects. variables: further values for the template,
            such as ``{"enable_thinking": False}``; reasoning_effort and thinking_budget are two of them.
        template: a Jinja template to use instead of the model's.

        Raises ChatTemplateError if there is no template, or if it is broken, does something forbidden, or rejects the
        messages; TypeError or ValueError naming the place in the messages; TokenizerError for text that cannot be
        encoded.
        """
        given = {
            "tools": tools,
            "tool_choice": tool_choice,
            "parallel_tool_calls": parallel_tool_calls,
            "variables": variables,
            "reasoning_effort": reasoning_effort,
            "thinking_budget": thinking_budget,
        }
        _, own = for_template({name: value for name, value in given.items() if value is not None})
        return self.core.chat_prompt(
            messages,
            template=template,
            documents=documents,
            add_generation_prompt=True if add_generation_prompt is None else add_generation_prompt,
            **own,
        )

    # ---- computing --------------------------------------------------------------------------------------------

    @overload
    def logits(self, ids: Ids, *, chunk: Integer | None = None) -> npt.NDArray[np.float32]: ...  # type: ignore[overload-overlap]
    @overload
    def logits(self, ids: Iterable[Ids], *, chunk: Integer | None = None) -> list[npt.NDArray[np.float32]]: ...
    def logits(self, ids: Any, *, chunk: Any = None) -> Any:
        """Logits of every token -> float32 (n, vocab); for a list of sequences, a list of such arrays, computed in the
        same forward passes. chunk: rows per pass, by default 512; it changes no bit of the result.

        Raises ContextFullError; NumericsError; ValueError for an id out of range.
        """
        from pellucid.look.score import logits

        c = self.core
        c.decoder()
        chunk = generation.check_chunk(chunk)
        several, sequences = arguments.prompts(ids, "ids")
        if not sequences:
            raise WrongValue("ids", " is empty: expected at least one token")
        if isinstance(sequences[0], str):
            raise WrongType("ids", " must be a list of token ids, not text: see Model.tokenize")
        names = [f"ids[{i}]" if several else "ids" for i in range(len(sequences))]
        many = [c.prompt(c.check_ids(one, name), name) for one, name in zip(sequences, names, strict=True)]
        rows = logits(c, many, chunk)
        return rows if several else rows[0]

    # ---- looking inside ---------------------------------------------------------------------------------------

    def edit(self, prompt: Prompt | Completion | Tokens | Messages | None = None) -> Edit:
        """A view of the model whose arithmetic can be edited (steering, ablation, patching): see :class:`Edit`. Use it
        in a `with` statement, which closes it. prompt: a text, ids or a trace; negative positions in edits count from
        its end. The edits act at the same positions in any other prompt."""
        core = self.core
        core.decoder()
        if prompt is None:
            return Edit(core)
        from pellucid.look.trace import prompts

        several, ids = prompts(core, prompt)
        if several:
            raise WrongValue("prompt", ": expected a single prompt, not several")
        return Edit(core, len(ids[0]))

    def weight(self, name: str) -> npt.NDArray[np.float32]:
        """A weight tensor, dequantised as the engine reads it -> float32 in its shape (of a matrix: (out, in)).

        name: as in GGUF files ("blk.0.attn_q.weight"; ".weight" may be left out). Raises ValueError, which suggests
        similar names, if the plan uses no such tensor.
        """
        from pellucid.look.weight import weight

        return weight(self.core.open(), name)

    def clear_cache(self) -> None:
        """Empties the prefix cache (``prefix_cache=`` of :meth:`load`)."""
        core = self.core
        core.open()
        if core.scheduler is not None:
            core.scheduler.clear_cache()

    def save_cache(self, folder: str | os.PathLike[str], limit: Integer = 10_000_000_000) -> int:
        """Writes the contents of the prefix cache to a folder, for :meth:`load_cache` in another process -> the number
        of sequences that the folder then holds for this model.

        limit: maximum total bytes of the folder's files; the least recently used are removed first. The files contain
        the tokens of prompts and answers. A file appears under its name only when it is complete. Problems with the
        folder are logged, not raised. Raises ValueError if the model was loaded without ``prefix_cache``.
        """
        most = checks.integer("limit", limit, 1)
        return cache_folder.save(self._with_cache(), checks.file_name(folder, "folder", "folder"), most, log.warn_once)

    def load_cache(self, folder: str | os.PathLike[str]) -> int:
        """Reads what :meth:`save_cache` wrote for the same weights, version of Pellucid, instruction set, ``kv`` and
        ``precision`` -> the number of its sequences that the prefix cache then holds. Each file is verified before any
        of it is used; a damaged file is removed. Problems with the folder are logged, not raised. Raises ValueError as
        :meth:`save_cache` does."""
        return cache_folder.load(self._with_cache(), checks.file_name(folder, "folder", "folder"), log.warn_once)

    def _with_cache(self) -> Core:
        core = self.core
        core.decoder()
        if core.prefix_bytes == 0:
            raise ValueError("the model has no prefix cache: expected Model.load(prefix_cache=True)")
        return core

    # ---- sequences --------------------------------------------------------------------------------------------

    def context(self) -> Context:
        """A new :class:`Context`: a sequence that keeps its cache between calls. A context manager; its memory is
        released at the end of the `with` block."""
        return Context(self.core)

    def open_context(self, path: str | os.PathLike[str]) -> Context:
        """Opens the :class:`Context` that ``Context.save`` wrote. It continues exactly as the saved one would have, bit
        for bit.

        The file must be from the same weights, version of Pellucid, instruction set, ``kv`` and ``precision``, and fit
        this model's context. All of it is verified before any of it is used. Raises ModelFileError if it is damaged,
        from another model or too long; OutOfMemoryError.
        """
        core = self.core
        core.decoder()
        sequence, ids = saved.read(checks.file_name(path), core)
        return Context(core, sequence, ids)


class Edit(EditCalls, Model):
    """A view of a model with edits, created by ``Model.edit``. A context manager: the view is closed at the end of the
    `with` block.

    The view shares the packed weights but has its own plan and KV cache; the model and its other users are not
    affected. Edits take effect from the next call on; edits at the same place act in the order in which they were made.
    A neutral edit (a factor of 1, added zeros) changes no bit. Edit methods raise ValueError or TypeError naming the
    argument, and then change nothing. The view has all methods of a model and applies its edits in them; a trace shows
    quantities after the edits. A trace can be used after the view is closed.

    Arrays have the shapes that a trace of these positions returns, so values can be taken from the trace of another
    prompt. positions: token positions, counted from 0; negative ones count from the end of the prompt given to
    ``Model.edit``; None: all positions, including those of new tokens. layer of the residual stream: "embeddings", or a
    number from 0.

    With the default precision, layer inputs are rounded to 8 bits, and the effect of an edit is mixed with that of the
    rounding. For experiments, load the model with ``precision="high"``.
    """

    def __init__(self, core: Core = None, tokens: int | None = None) -> None:  # type: ignore[assignment]  # as forgotten
        super().__init__(core)
        from pellucid.look.edit import Edits

        self._edits = Edits(core, tokens)
        self._view: Model | None = None  # None after an edit, until the next use
        self._cores: weakref.WeakSet[Core] = weakref.WeakSet()  # of all views so far
        self._closed = False

    @property
    def model(self) -> Model:
        """The edited model in its current state; later edits do not change it. It is closed together with the edit."""
        self._check_open()
        view = self._view  # read once: another thread may make an edit at the same time
        if view is None:
            core = self._core.view(self._edits.plan())
            self._cores.add(core)
            if self._closed:  # closed by another thread meanwhile, which may not have seen this core
                core.close()
            self._check_open()
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
        """Closes the view: any later use raises ClosedError. May be called again."""
        self._closed = True
        self._view = None
        for core in snapshot(self._cores):
            core.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the edit is closed")
        self._core.open()

    def _make(self, edit: Callable[..., None], *arguments: Any) -> Self:
        self._check_open()
        edit(*arguments)
        self._view = None
        return self


def _unpickled(path: str, host: str, arguments: dict[str, Any]) -> Model:
    model: Model = pickled.loaded(Model.load, path, host, arguments)
    return model
