"""A loaded model: its engine, configuration and tokenizer. Everything that computes works on a Core.

This module also loads models, checks ids and prompts, and gives the text of tokens, for generation, contexts, traces
and scores.
"""

from __future__ import annotations

import functools
import math
import os
import threading
import time
import weakref
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pellucid import _engine, arch, arguments, checks, log, memory, sharing, tuning, weights
from pellucid.errors import (
    ChatTemplateError,
    ClosedError,
    ContextFullError,
    TokenizerError,
    UnsupportedModelError,
    WrongType,
    WrongValue,
    one_line,
    out_of_memory,
)
from pellucid.later import Later
from pellucid.plan import Plan
from pellucid.pooling import Dense, Embedder, Norm
from pellucid.text.base import NoTokenizerError
from pellucid.tokenizer import Tokenizer, folder_tokenizer
from pellucid.weights.base import ModelFile
from pellucid.weights.suppressed import suppressed

if TYPE_CHECKING:  # loaded when first needed
    from pellucid.text.chat import ChatPrompt
    from pellucid.weights.store import Progress

__all__ = ["Core", "Facts", "Loaded"]

_making = threading.Lock()  # held while a view is added

MOST_THREADS = 1024
MAX_ROWS = 512  # per forward pass
SEQUENCES = 32  # generations that run at once: 16 rows fill the machine
MOST_SEQUENCES = 256
MAX_GAP = 0.1  # seconds that a pass may take while other requests decode
PRECISIONS = {"default": 1, "high": 2}  # least number of int8 terms of activations
KV_CHOICES = ("auto", "f32", "f16", "bf16", "int8")


@dataclass(frozen=True, slots=True)
class Facts:
    """What ModelInfo says about the file and about how it was loaded."""

    path: str
    format: str
    name: str
    quantisation: str
    quantisation_why: str  # which matrices of integers are in F32, and why
    parameters: int
    file_bytes: int
    threads: int
    threads_why: str
    isa_why: str
    tuning: dict[str, int]
    tuning_why: str
    kv: str
    precision: str
    cache_limit: int | None
    cache_limit_why: str
    shared: bool
    shared_why: str
    suppressed: tuple[int, ...]  # tokens that the model's files forbid


class Core:
    """A loaded model. It can be closed but never changes otherwise, so threads can share it freely."""

    def __init__(
        self,
        engine: _engine.Engine,
        config: arch.Config,
        facts: Facts,
        context_length: int,
        tokenizer: Later[Tokenizer | None],
        load_seconds: float,
        embedder: Embedder | None = None,
        base: Core | None = None,
        sequences: int = SEQUENCES,
        max_gap: float = MAX_GAP,
        prefix_bytes: int | None = 0,
        draft: Core | None = None,
    ) -> None:
        self.engine = engine
        self.config = config
        self.facts = facts
        self.context_length = context_length  # maximum number of tokens of a sequence
        self.load_seconds = load_seconds
        self.embedder = embedder or Embedder()
        self._tokenizer = tokenizer
        self._base = base
        self._closed = False
        self.sequences = sequences  # generations that run at once
        self.max_gap = max_gap  # seconds
        self.prefix_bytes = prefix_bytes  # of the prefix cache; 0: there is none; None: no limit of its own
        self.draft = draft  # a model that guesses next tokens
        self.owned: list[Core] = []  # closed with this one
        self.weights_digest: str | None = None  # set by `saved`
        self.scheduler: Any = None  # shared by all callers; made on first use
        self._views: list[weakref.ref[Core]] = []  # replaced, never changed: other threads read it

    @classmethod
    @out_of_memory("to load the model")
    def load(
        cls,
        source: str | os.PathLike[str],
        *,
        threads: Any = None,
        context: Any = None,
        isa: str | None = None,
        kv: str | None = "auto",
        precision: str | None = "default",
        cache_bytes: Any = None,
        checkpoints: Any = None,
        sequences: Any = None,
        max_gap: Any = None,
        prefix_cache: Any = None,
        quantize: Any = None,
        share: Any = None,
        progress: Progress | None = None,
    ) -> Core:
        """``Model.load``."""
        start = time.perf_counter()
        n_threads, why = thread_count(threads)
        context = checks.integer("context", context, 1) if context is not None else None
        cache_bytes = checks.integer("cache_bytes", cache_bytes, 1) if cache_bytes is not None else None
        checkpoints = checks.integer("checkpoints", checkpoints, 1) if checkpoints is not None else 0
        sequences = SEQUENCES if sequences is None else checks.integer("sequences", sequences, 1, MOST_SEQUENCES)
        max_gap = MAX_GAP if max_gap is None else checks.number("max_gap", max_gap, 0)
        if prefix_cache is not None and not isinstance(prefix_cache, (bool, np.bool_)):
            prefix_cache = checks.integer("prefix_cache", prefix_cache, 0)
        precision = checks.choice("precision", "default" if precision is None else precision, PRECISIONS)
        kv = checks.choice("kv", "auto" if kv is None else kv, KV_CHOICES)
        asked = checks.string("isa", isa) if isa is not None else os.environ.get("PELLUCID_ISA") or None
        isa = _engine.find_isa(asked)
        mixture = None if quantize is None else _mixture(quantize)
        to_share = sharing.asked(share)
        file = weights.open_model(weights.locate("source", source, progress), arch.folder)
        try:
            file.wanted_context = context
            quantisation = file.quantisation
            if mixture is not None or file.widened:
                from pellucid.weights.quantise import quantise_model

                quantisation = quantise_model(file, mixture, n_threads)
            config, plan = arch.build(file, frozenset(_engine.format_names()))
            if context is not None and context > config.context:
                raise WrongValue(
                    "context", f"={checks.shown(context)}: the model was made for at most {config.context} tokens"
                )
            if kv == "auto":
                floats = all(m.type == "F32" for m in plan.matrices)
                kv = "f32" if floats else "bf16" if isa in ("avx512bf16", "amx") else "f16"
            tuned = tuning.find(isa, n_threads)
            length = context or min(config.context, arch.DEFAULT_CONTEXT)
            total = sum(m.data.size for m in plan.matrices)
            place, shared_why = sharing.find(file, plan, mixture or "") if to_share else (None, "not asked for")
            taken = 0 if place is not None and place.packed else total
            whole = sum(g.held_bytes(length, kv) for g in plan.caches)
            limit, limit_why = (cache_bytes, "asked for") if cache_bytes else memory.cache_limit(taken, whole)
            engine = _engine.Engine(
                plan,
                isa=isa,
                threads=n_threads,
                kv=kv,
                least_terms=PRECISIONS[precision],
                # If a token sees later ones, a whole sequence must fit one pass.
                max_rows=MAX_ROWS if config.attention.causal else max(MAX_ROWS, length),
                cache_bytes=min(limit or 0, 1 << 62),
                checkpoints=min(checkpoints, 1 << 62),
                tuning=tuned.values,
                share=place,
            )
            # The tokenizer loads while the engine packs the weights, or after that if memory is limited, so that the
            # tokenizer can check beforehand whether there is enough.
            limited = memory.address_space_is_limited()
            load_tokenizer = functools.partial(_tokenizer, file, config.vocab)
            tokenizer = None if limited else Later(load_tokenizer)
            if progress is None:
                engine.pack()
            else:
                engine.pack(lambda done: progress(int(done * total), total, "packing weights"))
                progress(total, total, "packing weights")
            tokenizer = tokenizer or Later(load_tokenizer)
            facts = Facts(
                path=file.path,
                format=file.format,
                name=one_line(file.get_str("general.name", "")),
                quantisation=quantisation,
                quantisation_why=file.quantisation_why,
                parameters=sum(math.prod(t.shape) for name, t in file.tensors.items() if not name.endswith(".order")),
                file_bytes=file.nbytes,
                threads=n_threads,
                threads_why=why,
                isa_why="the best that this build and CPU have" if asked is None else "asked for",
                tuning=tuned.values,
                tuning_why=tuned.why,
                kv=kv,
                precision=precision,
                cache_limit=limit,
                cache_limit_why=limit_why,
                shared=place is not None,
                shared_why=shared_why,
                suppressed=suppressed(file, config.vocab),
            )
            embedder = _embedder(file, config, engine)
            tokenizer.wait()
        finally:
            file.close()
        seconds = time.perf_counter() - start
        prefix = _prefix_bytes(prefix_cache, cache_bytes)
        core = cls(engine, config, facts, length, tokenizer, seconds, embedder, None, sequences, max_gap, prefix)
        core._log()
        return core

    def view(self, plan: Plan, cache_limit: int | None = None) -> Core:
        """A core with the same weights, another plan and a separate cache. Closing this core closes it, too.
        cache_limit: bytes that its sequences may take; it then keeps no prefix cache."""
        core = Core(
            _engine.Engine(plan, base=self.open()),
            self.config,
            self.facts if cache_limit is None else replace(self.facts, cache_limit=cache_limit),
            self.context_length,
            self._tokenizer,
            self.load_seconds,
            self.embedder,
            self,
            self.sequences,
            self.max_gap,
            self.prefix_bytes if cache_limit is None else 0,
            self.draft,
        )
        with _making:
            self._views = [*(one for one in self._views if one() is not None), weakref.ref(core)]
        return core

    def _log(self) -> None:
        """Logs what was loaded and how, and what is slower or missing."""
        if not log.is_on():
            return
        facts, engine = self.facts, self.engine.info()
        log.info(
            "loaded %s in %.2f s: isa %s (%s), threads %d (%s), kv %s, precision %s, context %d, huge pages %s",
            one_line(facts.path), self.load_seconds, engine["isa"], facts.isa_why, facts.threads, facts.threads_why,
            facts.kv, facts.precision, self.context_length, "yes" if engine["pages"] != "small" else "no",
        )  # fmt: skip
        if engine["pages"] == "small":
            log.warn_once("the system gives no huge pages: passes over the weights are slower")
        cores, why = _engine.topology()
        if facts.threads > cores:
            log.warn_once("%d threads, but the process has cores for %d (%s)", facts.threads, cores, why)
        elif "cgroup" in facts.threads_why or "affinity" in facts.threads_why:
            log.warn_once("fewer threads than the machine has cores: %d (%s)", facts.threads, facts.threads_why)
        try:
            if self.tokenizer is None:
                log.warn_once("%s has no tokenizer: only token ids are accepted", one_line(facts.path))
        except Exception as error:  # raised again when the tokenizer is needed
            log.warn_once("%s: the tokenizer cannot be used: %s", one_line(facts.path), error)

    def lasting(self) -> Core:
        """This core, or, if it is a view that was closed, a new view with the same plan: what was computed with an edit
        outlives the edit. Raises ClosedError once the model that was edited is closed."""
        if not self.closed or self._base is None:
            return self
        return self.root.view(self.engine.plan)

    # ---- open and closed --------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        return self._closed or (self._base is not None and self._base.closed)

    def open(self) -> _engine.Engine:
        """The engine. Raises ClosedError after `close`."""
        if self.closed:
            raise ClosedError
        return self.engine

    def decoder(self) -> _engine.Engine:
        """As :meth:`open`, for a model that gives logits. Raises UnsupportedModelError if it has no head."""
        engine = self.open()
        if not engine.plan.ops[-1].n_seg:
            raise UnsupportedModelError(
                feature=f"predicting tokens with a model that has no head for it ({self.config.architecture})",
                supported="Model.embed",
            )
        return engine

    @property
    def root(self) -> Core:
        """The core that loaded the weights; for a view, the model's."""
        core = self
        while core._base is not None:
            core = core._base
        return core

    def family(self) -> list[Core]:
        """The cores with the same weights: the model's, and those of its views that are in use."""
        found = [self.root]
        for one in found:
            found += one.views()
        return found

    def views(self) -> list[Core]:
        """Its views that are in use."""
        return [core for core in (one() for one in self._views) if core is not None]

    def close(self) -> None:
        """Frees the engine's memory once no pass uses it. May be called again."""
        self._closed = True
        self._end()
        for core in self.owned:
            core.close()
        tokenizer = None if self._base is not None else self._tokenizer.made()
        if tokenizer is not None:
            tokenizer.forget_grammars()

    def _end(self) -> None:
        """Ends the schedulers and engines of a closed core and of its views, and frees what the schedulers keep."""
        self.engine.close()
        if self.scheduler is not None:
            self.scheduler.close()
        for view in self.views():
            view._end()

    # ---- text and ids -----------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer; None if the model has none. Raises TokenizerError if it is unusable."""
        return self._tokenizer.get()

    def need_tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises TokenizerError if the model has none."""
        self.open()
        tokenizer = self.tokenizer
        if tokenizer is None:
            raise NoTokenizerError("the model file has no tokenizer: only token ids are accepted")
        return tokenizer

    def piece(self, id: int, *, special: bool = False) -> bytes:
        """A token's bytes; b"" without a tokenizer, and for ids beyond the vocabulary, which exist if the embedding is
        padded. special: gives a special token's spelling instead of b""."""
        tokenizer = self.tokenizer
        return b"" if tokenizer is None or id >= tokenizer.vocab_size else tokenizer.piece(id, special=special)

    def spell(self, id: int) -> str:
        """A token's text, or a special token's spelling; U+FFFD stands for an incomplete character."""
        return self.piece(id, special=True).decode("utf-8", "replace")

    def tokenize(self, text: str, add_special: bool | None = True, parse_special: bool | None = False) -> list[int]:
        """``Model.tokenize``."""
        return self.need_tokenizer().encode(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, ids: Any, *, special: bool = False) -> str:
        """``Model.detokenize``. special: as in `piece`."""
        tokenizer, ids = self.need_tokenizer(), self.check_ids(ids, "ids", empty=True)
        return tokenizer.decode([id for id in ids if id < tokenizer.vocab_size], special=special)

    def check_ids(self, ids: Any, name: str, *, empty: bool = False) -> list[int]:
        """The ids as a list. Raises ValueError or TypeError naming the argument."""
        return arguments.check_ids(ids, name, self.config.vocab, empty=empty)

    def prompt_ids(self, prompt: Any, name: str = "prompt", *, parse_special: bool = False) -> list[int]:
        """The ids of a prompt (text or ids), at least one. parse_special: as in ``Model.tokenize``. Raises ValueError,
        TypeError, TokenizerError, naming it."""
        prompt = arguments.plain(prompt)
        if isinstance(prompt, str):
            tokenizer = self.need_tokenizer()
            with arguments.named(name):
                ids = self.tokenize(prompt, parse_special=parse_special)
            if not ids:
                if tokenizer.bos is None:
                    found = " is empty, and the model has no BOS token to start from"
                    raise arguments.wrong_part(WrongValue, name, found)
                ids = [tokenizer.bos]
            return ids
        if isinstance(prompt, (bytes, bytearray)) or not hasattr(prompt, "__iter__"):
            found = f" must be text or a list of token ids, not {type(prompt).__name__}"
            raise arguments.wrong_part(WrongType, name, found)
        return self.check_ids(prompt, name)

    def prompt(self, prompt: Any, name: str = "prompt") -> list[int]:
        """As :meth:`prompt_ids`. Raises ContextFullError if the ids do not fit the context."""
        ids = self.prompt_ids(prompt, name)
        arguments.check_padding(ids, name, self.config.padding)
        if len(ids) > self.context_length:
            raise ContextFullError(f"{name} is too long", needed=len(ids), available=self.context_length)
        return ids

    def chat_prompt(self, messages: Any, *, template: str | None = None, **options: Any) -> ChatPrompt:
        """``Model.chat_prompt``."""
        return self.need_tokenizer().chat(template).conversation(messages, **options)

    @out_of_memory("to lay out the conversation")
    def laid_out(self, messages: Any, name: str = "messages", **options: Any) -> ChatPrompt:
        """A conversation's prompt, of any length. name: of the argument, for errors. options: of :meth:`chat_prompt`.

        Raises ChatTemplateError if it is empty.
        """
        if not (prompt := self.chat_prompt(messages, name=name, **options)).ids:
            raise ChatTemplateError("the chat template gives no text for these messages")
        return prompt

    def conversation(self, messages: Any, name: str = "messages", **options: Any) -> ChatPrompt:
        """As :meth:`laid_out`. Raises ContextFullError if the prompt does not fit the context."""
        prompt = self.laid_out(messages, name, **options)
        self.prompt(prompt.ids, "the conversation" if name == "messages" else f"the conversation {name}")
        return prompt


class Loaded(Protocol):
    """A model, or a view of one."""

    @property
    def core(self) -> Core: ...


# ---- loading --------------------------------------------------------------------------------------------------------


def thread_count(asked: Any) -> tuple[int, str]:
    """(number of threads, the reason for it)."""
    if asked is not None:
        return checks.integer("threads", asked, 1, MOST_THREADS), "asked for"
    if text := os.environ.get("PELLUCID_THREADS", ""):
        if not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= MOST_THREADS:
            raise checks.wrong_value("PELLUCID_THREADS", text, f"a number from 1 to {MOST_THREADS}")
        return int(text), "PELLUCID_THREADS"
    threads, why = _engine.topology()
    ignored = os.environ.get("OMP_NUM_THREADS", "")
    if ignored.isdecimal() and int(ignored) != threads:  # set by a scheduler, such as Ray, for others
        why += "; OMP_NUM_THREADS is ignored, PELLUCID_THREADS is not"
        log.warn_once("%d threads: %s", threads, why)
    return threads, why


def _prefix_bytes(asked: Any, cache_bytes: int | None) -> int | None:
    """The limit of the prefix cache in bytes; None: that of the whole cache, which the caller gave."""
    if isinstance(asked, (bool, np.bool_)) and asked:
        return None if cache_bytes is not None else memory.prefix_limit()
    return int(asked or 0)


def _mixture(quantize: Any) -> str:
    from pellucid.weights.quantise import check_mixture

    return check_mixture(checks.string("quantize", quantize), "quantize")


def _embedder(file: ModelFile, config: arch.Config, engine: _engine.Engine) -> Embedder:
    """How hidden states become embeddings or scores, by the file or folder."""
    names = [m.name for m in engine.plan.matrices]
    vectors = {v.name: v.data for v in engine.plan.vectors}

    def layer(name: str, inner: bool = False) -> Dense:
        weight, bias, norm = engine.matrix(names.index(f"{name}.weight")), vectors.get(f"{name}.bias"), None
        if inner and config.scorer_norm is not None:
            parts = (vectors.get(f"{config.scorer_norm}.{end}") for end in ("weight", "bias"))
            norm = Norm(*parts, eps=config.eps)  # type: ignore[misc, arg-type]  # its weight is there
        return Dense(weight, bias, tanh=inner and norm is None, gelu=norm is not None, norm=norm)

    if file.format.startswith("GGUF"):
        found = Embedder(config.pooling, tuple(layer(name) for name, _, _ in config.dense))
    else:
        from pellucid.weights.sentences import read_embedder

        found = read_embedder(file.path, config.dim, scores=bool(config.scorer))
    scorer = tuple(layer(name, i + 1 < len(config.scorer)) for i, (name, _, _) in enumerate(config.scorer))
    return replace(found, scorer=scorer, sigmoid=config.sigmoid if found.sigmoid is None else found.sigmoid)


@out_of_memory("to load the tokenizer")
def _tokenizer(file: ModelFile, vocab: int) -> Tokenizer | None:
    tokenizer = None
    if file.format.startswith("GGUF"):
        tokenizer = Tokenizer.from_gguf(file)
    elif any(os.path.exists(os.path.join(file.path, name)) for name in ("tokenizer.json", "tokenizer.model")):
        tokenizer = folder_tokenizer(file.path, vocab)
    if tokenizer is not None and tokenizer.vocab_size > vocab:
        raise TokenizerError(f"the tokenizer has {tokenizer.vocab_size} tokens, the model's embedding {vocab}")
    return tokenizer
