"""A loaded model: its engine, configuration and tokenizer. Everything that computes works on a Core.

This module also loads models, checks ids and prompts, and gives the text of tokens, for generation, contexts, traces
and scores.
"""

from __future__ import annotations

import functools
import math
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pellucid import _engine, arch, arguments, checks, log, tuning, weights
from pellucid.errors import (
    ChatTemplateError,
    ClosedError,
    ContextFullError,
    TokenizerError,
    WrongType,
    WrongValue,
    one_line,
    out_of_memory,
)
from pellucid.later import Later
from pellucid.plan import Plan
from pellucid.tokenizer import Tokenizer
from pellucid.weights.base import ModelFile

if TYPE_CHECKING:  # loaded when first needed
    from pellucid.text.chat import ChatPrompt
    from pellucid.weights.store import Progress

__all__ = ["Core", "Facts", "Loaded"]

DEFAULT_CONTEXT = 8192  # tokens; memory is allocated as a context fills
MOST_THREADS = 1024
MAX_ROWS = 512  # per forward pass
PRECISIONS = {"default": 1, "high": 2}  # least number of int8 terms of activations
KV_CHOICES = ("auto", "f32", "f16", "bf16", "int8")


@dataclass(frozen=True, slots=True)
class Facts:
    """What ModelInfo says of the file and of how it was loaded."""

    path: str
    format: str
    name: str
    quantisation: str
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
        base: Core | None = None,
    ) -> None:
        self.engine = engine
        self.config = config
        self.facts = facts
        self.context_length = context_length  # maximum number of tokens of a sequence
        self.load_seconds = load_seconds
        self._tokenizer = tokenizer
        self._base = base
        self._closed = False

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
        progress: Progress | None = None,
    ) -> Core:
        """``Model.load``."""
        start = time.perf_counter()
        n_threads, why = _threads(threads)
        context = checks.integer("context", context, 1) if context is not None else None
        cache_bytes = checks.integer("cache_bytes", cache_bytes, 1) if cache_bytes is not None else None
        precision = checks.choice("precision", "default" if precision is None else precision, PRECISIONS)
        kv = checks.choice("kv", "auto" if kv is None else kv, KV_CHOICES)
        asked = checks.string("isa", isa) if isa is not None else os.environ.get("PELLUCID_ISA") or None
        isa = _engine.find_isa(asked)
        file = weights.open_model(weights.locate("source", source, progress), arch.folder)
        try:
            config, plan = arch.build(file, frozenset(_engine.format_names()))
            if context is not None and context > config.context:
                raise WrongValue(
                    "context", f"={checks.shown(context)}: the model was made for at most {config.context} tokens"
                )
            if kv == "auto":
                floats = all(m.type == "F32" for m in plan.matrices)
                kv = "f32" if floats else "bf16" if isa == "avx512bf16" else "f16"
            tuned = tuning.find(isa, n_threads)
            engine = _engine.Engine(
                plan,
                isa=isa,
                threads=n_threads,
                kv=kv,
                least_terms=PRECISIONS[precision],
                max_rows=MAX_ROWS,
                cache_bytes=min(cache_bytes or 0, 1 << 62),
                tuning=tuned.values,
            )
            total = sum(m.data.size for m in plan.matrices)
            # The tokenizer loads while the engine packs the weights; one after the other where memory may run short, so
            # that the tokenizer can tell beforehand whether there is enough.
            limited = _address_space_is_limited()
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
                quantisation=file.quantisation,
                parameters=sum(math.prod(t.shape) for t in file.tensors.values()),
                file_bytes=file.nbytes,
                threads=n_threads,
                threads_why=why,
                isa_why="the best that this build and CPU have" if asked is None else "asked for",
                tuning=tuned.values,
                tuning_why=tuned.why,
                kv=kv,
                precision=precision,
                cache_limit=cache_bytes,
            )
            tokenizer.wait()
        finally:
            file.close()
        seconds = time.perf_counter() - start
        length = context or min(config.context, DEFAULT_CONTEXT)
        core = cls(engine, config, facts, length, tokenizer, seconds)
        core._log()
        return core

    def view(self, plan: Plan) -> Core:
        """A core with the same weights, another plan and a separate cache. Closing this core closes it, too."""
        engine = _engine.Engine(plan, base=self.open())
        return Core(engine, self.config, self.facts, self.context_length, self._tokenizer, self.load_seconds, self)

    def _log(self) -> None:
        """Logs what was loaded and how, and what is slower or missing."""
        if not log.is_on():
            return
        facts, engine = self.facts, self.engine.info()
        log.info(
            "loaded %s in %.2f s: isa %s (%s), threads %d (%s), kv %s, precision %s, context %d, huge pages %s",
            one_line(facts.path), self.load_seconds, engine["isa"], facts.isa_why, facts.threads, facts.threads_why,
            facts.kv, facts.precision, self.context_length, "yes" if engine["huge_pages"] else "no",
        )  # fmt: skip
        if not engine["huge_pages"]:
            log.warn_once("the system gives no huge pages: passes over the weights are slower")
        cores, why = _engine.topology()
        if facts.threads > cores:
            log.warn_once("%d threads on the %d cores that the process may use (%s)", facts.threads, cores, why)
        elif "cgroup" in facts.threads_why or "affinity" in facts.threads_why:
            log.warn_once("fewer threads than the machine has cores: %d (%s)", facts.threads, facts.threads_why)
        try:
            if self.tokenizer is None:
                log.warn_once("%s has no tokenizer: only token ids are accepted", one_line(facts.path))
        except Exception as error:  # raised where the tokenizer is needed
            log.warn_once("%s: the tokenizer cannot be used: %s", one_line(facts.path), error)

    def lasting(self) -> Core:
        """This core; if it is a view that was closed, a new one with the same plan. So what was computed with an edit
        outlives it. Raises ClosedError once the model that was edited is closed."""
        if not self.closed or self._base is None:
            return self
        root = self._base
        while root._base is not None:
            root = root._base
        return root.view(self.engine.plan)

    # ---- open and closed --------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        return self._closed or (self._base is not None and self._base.closed)

    def open(self) -> _engine.Engine:
        """The engine. Raises ClosedError after `close`."""
        if self.closed:
            raise ClosedError
        return self.engine

    def close(self) -> None:
        """Frees the engine's memory once no pass uses it. May be called again."""
        self._closed = True
        self.engine.close()

    # ---- text and ids -----------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None where the model has no tokenizer. Raises TokenizerError where it is unusable."""
        return self._tokenizer.get()

    def need_tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises TokenizerError where the model has none."""
        self.open()
        tokenizer = self.tokenizer
        if tokenizer is None:
            raise TokenizerError("the model file has no tokenizer: only token ids are accepted")
        return tokenizer

    def piece(self, id: int, *, special: bool = False) -> bytes:
        """A token's bytes; b"" without a tokenizer, and for ids beyond the vocabulary, which exist where the embedding
        is padded. special: gives the spelling of special tokens, which is b"" otherwise."""
        tokenizer = self.tokenizer
        return b"" if tokenizer is None or id >= tokenizer.vocab_size else tokenizer.piece(id, special=special)

    def spell(self, id: int) -> str:
        """A token's text, or a special token's spelling; U+FFFD stands for an incomplete character."""
        return self.piece(id, special=True).decode("utf-8", "replace")

    def tokenize(self, text: str, add_special: bool | None = True, parse_special: bool | None = False) -> list[int]:
        """``Model.tokenize``."""
        return self.need_tokenizer().encode(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, ids: Any) -> str:
        """``Model.detokenize``."""
        tokenizer = self.need_tokenizer()
        known = tokenizer.vocab_size
        return tokenizer.decode([id for id in self.check_ids(ids, "ids", empty=True) if id < known])

    def check_ids(self, ids: Any, name: str, *, empty: bool = False) -> list[int]:
        """The ids as a list. Raises ValueError or TypeError naming the argument."""
        return arguments.check_ids(ids, name, self.config.vocab, empty=empty)

    def prompt_ids(self, prompt: Any, name: str = "prompt") -> list[int]:
        """The ids of a prompt (text or ids); at least one. Raises ValueError or TypeError naming the argument,
        TokenizerError."""
        prompt = arguments.plain(prompt)
        if isinstance(prompt, str):
            ids = self.tokenize(prompt)
            if not ids:
                bos = self.need_tokenizer().bos
                if bos is None:
                    found = " is empty, and the model has no BOS token to start from"
                    raise arguments.wrong_part(WrongValue, name, found)
                ids = [bos]
            return ids
        if isinstance(prompt, (bytes, bytearray)) or not hasattr(prompt, "__iter__"):
            found = f" must be text or a list of token ids, not {type(prompt).__name__}"
            raise arguments.wrong_part(WrongType, name, found)
        return self.check_ids(prompt, name)

    def prompt(self, prompt: Any, name: str = "prompt") -> list[int]:
        """As :meth:`prompt_ids`. Raises ContextFullError where the ids do not fit the context."""
        ids = self.prompt_ids(prompt, name)
        if len(ids) > self.context_length:
            raise ContextFullError(f"{name} is too long", needed=len(ids), available=self.context_length)
        return ids

    def chat_prompt(self, messages: Any, *, template: str | None = None, **options: Any) -> ChatPrompt:
        """``Model.chat_prompt``."""
        return self.need_tokenizer().chat(template).prompt(messages, **options)

    @out_of_memory("to lay out the conversation")
    def laid_out(self, messages: Any, name: str = "messages", **options: Any) -> ChatPrompt:
        """A conversation's prompt, of any length. name: of the argument, for errors. options: of :meth:`chat_prompt`.

        Raises ChatTemplateError where it is empty.
        """
        prompt = self.chat_prompt(messages, name=name, **options)
        if not prompt.ids:
            raise ChatTemplateError("the chat template gives no text for these messages")
        return prompt

    def conversation(self, messages: Any, name: str = "messages", **options: Any) -> ChatPrompt:
        """As :meth:`laid_out`. Raises ContextFullError where the prompt does not fit the context."""
        prompt = self.laid_out(messages, name, **options)
        self.prompt(prompt.ids, "the conversation" if name == "messages" else f"the conversation {name}")
        return prompt


class Loaded(Protocol):
    """A model, or a view of one."""

    @property
    def core(self) -> Core: ...


# ---- loading --------------------------------------------------------------------------------------------------------


def _threads(asked: Any) -> tuple[int, str]:
    """(number of threads, the reason for it)."""
    if asked is not None:
        return checks.integer("threads", asked, 1, MOST_THREADS), "asked for"
    text = os.environ.get("PELLUCID_THREADS", "")
    if text:
        if not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= MOST_THREADS:
            raise checks.wrong_value("PELLUCID_THREADS", text, f"a number from 1 to {MOST_THREADS}")
        return int(text), "PELLUCID_THREADS"
    return _engine.topology()


def _address_space_is_limited() -> bool:
    try:
        import resource
    except ImportError:  # not on this system
        return False
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


@out_of_memory("to load the tokenizer")
def _tokenizer(file: ModelFile, vocab: int) -> Tokenizer | None:
    tokenizer = Tokenizer.from_gguf(file) if file.format.startswith("GGUF") else _folder_tokenizer(file.path)
    if tokenizer is not None and tokenizer.vocab_size > vocab:
        raise TokenizerError(f"the tokenizer has {tokenizer.vocab_size} tokens, the model's embedding {vocab}")
    return tokenizer


def _folder_tokenizer(path: str) -> Tokenizer | None:
    """A Hugging Face folder's tokenizer; None where the folder has no tokenizer file."""
    if not any(os.path.exists(os.path.join(path, name)) for name in ("tokenizer.json", "tokenizer.model")):
        return None
    return Tokenizer.load(path)
