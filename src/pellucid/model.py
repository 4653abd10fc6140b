"""Model and Edit, the objects that users work with."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from pellucid import _engine, arguments, generation
from pellucid.async_calls import AsyncCalls
from pellucid.context import Context
from pellucid.core import Core
from pellucid.errors import ClosedError, WrongType, WrongValue, one_line, shown
from pellucid.info import ModelInfo, PlanTable, plan_table
from pellucid.options import Ids, Kv, Messages, Part, Precision, Prompt, Quantity
from pellucid.progress import reporting
from pellucid.results import Completion
from pellucid.sampling import Integer, Number
from pellucid.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pellucid.look.trace import Trace
    from pellucid.text.chat import ChatPrompt
    from pellucid.weights.store import Progress

__all__ = ["Edit", "Model"]


class Model(AsyncCalls):
    """A loaded model, created by :meth:`load`. It is immutable, so threads can share it freely.

    A context manager; after :meth:`close` every use raises ``ClosedError``.
    """

    def __init__(self, core: Core = None) -> None:  # type: ignore[assignment]  # None: as if forgotten
        if not isinstance(core, Core):
            kind, given = type(self).__name__, "" if core is None else shown(core)
            how = f"use Model.load({given or 'source'})" if kind == "Model" else "use model.edit()"
            raise WrongType(kind, f"({given}): {how}")
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
        threads: Integer | None = None,
        context: Integer | None = None,
        isa: str | None = None,
        kv: Kv | None = "auto",
        precision: Precision | None = "default",
        cache_bytes: Integer | None = None,
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

    def tokenize(self, text: str, add_special: bool | None = True, parse_special: bool | None = False) -> list[int]:
        """Text -> ids.

        add_special: add BOS where the model uses one. parse_special: turn the spelling of a special token into its id;
        otherwise it is ordinary text.

        Raises TokenizerError for text that cannot be encoded, and where the model has no tokenizer.
        """
        return self.core.tokenize(text, add_special, parse_special)

    def detokenize(self, ids: Ids) -> str:
        """Ids -> text. Ids beyond the vocabulary, which exist where the embedding is padded, have no text.

        Raises ValueError for an id out of range; TokenizerError where the model has no tokenizer.
        """
        return self.core.detokenize(ids)

    def chat_prompt(
        self,
        messages: Messages,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        add_generation_prompt: bool | None = True,
    ) -> ChatPrompt:
        """The prompt that :meth:`chat` gives to the model -> ChatPrompt(text, ids).

        messages: each ``{"role": ..., "content": ...}``; content is text, or a list of parts ``{"type": "text", "text":
            ...}``. The spelling of a special token in a message is ordinary text.
        tools, documents: lists of dicts, in the form that the template expects (tools: JSON schemas). variables:
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
            add_generation_prompt=True if add_generation_prompt is None else add_generation_prompt,
        )

    # ---- computing --------------------------------------------------------------------------------------------

    @overload
    def logits(self, ids: Ids, *, chunk: Integer | None = None) -> npt.NDArray[np.float32]: ...  # type: ignore[overload-overlap]
    @overload
    def logits(self, ids: Iterable[Ids], *, chunk: Integer | None = None) -> list[npt.NDArray[np.float32]]: ...
    def logits(self, ids: Any, *, chunk: Any = None) -> Any:
        """Logits of every token -> float32 (n, vocab); for a list of sequences, a list of such arrays, computed in the
        same forward passes. chunk: rows of a pass, by default 512; it changes no bit of the result.

        Raises ContextFullError; NumericsError; ValueError for an id out of range.
        """
        c, engine, chunk = self.core, self.core.open(), generation.check_chunk(chunk)
        several, sequences = arguments.prompts(ids, "ids")
        if not sequences:
            raise WrongValue("ids", " is empty: expected at least one token")
        if isinstance(sequences[0], str):
            raise WrongType("ids", " must be a list of token ids, not text: see Model.tokenize")
        names = [f"ids[{i}]" if several else "ids" for i in range(len(sequences))]
        many = [c.prompt(c.check_ids(one, name), name) for one, name in zip(sequences, names, strict=True)]
        rows = generation.logits(engine, [(_engine.Sequence(engine), part) for part in many], chunk)
        return rows if several else rows[0]

    # ---- looking inside ---------------------------------------------------------------------------------------

    def trace(
        self,
        prompt: Prompt | Completion,
        want: Quantity | Iterable[Quantity] | None = ("hidden", "attention"),
        *,
        layers: Integer | Ids | None = None,
        heads: Integer | Ids | None = None,
        positions: Integer | Ids | None = None,
        limit: Integer | None = 2 << 30,
        chunk: Integer | None = None,
    ) -> Trace:
        """Runs a text, ids or a completion (its prompt and new tokens) once and keeps the wanted quantities as NumPy
        arrays; :class:`Trace` lists their shapes. A completion's arrays equal those of its generation, bit for bit.

        want: any of embeddings, hidden, q, k, v, scores, attention, attention_out, mlp_out, neurons, head_out, logits.
        layers, heads, positions: the indices to keep; negative ones count from the end; None: all. limit: maximum
        bytes of the arrays. chunk: rows of a pass, by default 512. Neither tracing nor `chunk` changes a bit of any
        result.

        Raises ValueError for a wrong name or index, and where the arrays would exceed `limit` (the message states what
        would fit); ContextFullError, NumericsError, ClosedError.
        """
        from pellucid.look.trace import trace

        return trace(self.core, prompt, want, layers=layers, heads=heads, positions=positions, limit=limit, chunk=chunk)

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

    def __init__(self, core: Core = None) -> None:  # type: ignore[assignment]  # None: as if forgotten
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

    def add(self, layer: Integer, vector: npt.ArrayLike, positions: Integer | Ids | None = None) -> Edit:
        """Adds a vector (d) to the residual stream after a layer, at the given positions; None: at all positions,
        including those of new tokens."""
        return self._make(self._edits.add, layer, vector, positions)

    def patch(self, layer: Integer, positions: Integer | Ids, values: npt.ArrayLike) -> Edit:
        """Replaces the residual stream after a layer, at the given positions, by values of shape (len(positions), d),
        or (d) for all of them."""
        return self._make(self._edits.patch, layer, positions, values)

    def scale_head(self, layer: Integer, head: Integer, factor: Number) -> Edit:
        """Multiplies a head's output before it is projected into the residual stream. A factor of 0 removes the
        head."""
        return self._make(self._edits.scale_head, layer, head, factor)

    def skip(self, layer: Integer, part: Part) -> Edit:
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
