"""The class `Llama`."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pellucid import Model, arch, checks, weights
from pellucid.adapters.answers import Answer
from pellucid.adapters.shared import check_template
from pellucid.compat.llama_cpp import shapes
from pellucid.compat.llama_cpp.arguments import (
    LLAMA_POOLING_TYPE_NONE,
    LLAMA_POOLING_TYPE_UNSPECIFIED,
    POOLINGS,
    check,
    kv_of,
    request,
    seed_of,
    template_of,
)
from pellucid.compat.llama_cpp.llama_grammar import LlamaGrammar
from pellucid.compat.llama_cpp.llama_tokenizer import BaseLlamaTokenizer, LlamaTokenizer
from pellucid.compat.llama_cpp.processors import (
    LogitsProcessor,
    LogitsProcessorList,
    MinTokensLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)
from pellucid.compat.llama_cpp.steps import Steps, context_errors
from pellucid.errors import ArgumentError, FetchError, ModelFileError, WrongType, WrongValue
from pellucid.openai.embeddings import embedded
from pellucid.openai.fields import chat_call, completion_call
from pellucid.openai.limits import UNBOUNDED
from pellucid.progress import reporting

__all__ = [
    "BaseLlamaTokenizer",
    "Llama",
    "LlamaFileError",
    "LlamaGrammar",
    "LlamaState",
    "LlamaTokenizer",
    "LogitsProcessor",
    "LogitsProcessorList",
    "MinTokensLogitsProcessor",
    "StoppingCriteria",
    "StoppingCriteriaList",
]


class LlamaFileError(ModelFileError, ValueError):
    """A model file is missing or damaged: a ValueError too, as programs expect it."""

    @classmethod
    def of(cls, error: ModelFileError) -> LlamaFileError:
        return cls(error.message, file=error.file, field=error.field, offset=error.offset, expected=error.expected)


class LlamaState(NamedTuple):
    """What `Llama.save_state` returns: the seed of calls, and the tokens of `eval`, which are computed again."""

    seed: int | None
    input_ids: tuple[int, ...] = ()


class Llama(Steps):
    """A model with the methods of llama-cpp-python's class of this name.

    n_ctx: 0: as many tokens as the model was made for. n_threads: default: the physical cores. seed: of calls that
    give none. type_k, type_v: numbers of ggml's types, f32, f16, bf16 or q8_0. chat_format: None, for the model's own,
    or "chatml". template: a chat template in Jinja, an argument that llama-cpp-python does not have. Other arguments
    raise NotImplementedError, or have no effect and give a warning.

    Raises what `Model.load` raises; for a file, LlamaFileError.
    """

    def __init__(
        self,
        model_path: str,
        *,
        n_ctx: int = 512,
        n_threads: int | None = None,
        seed: int = -1,
        chat_format: str | None = None,
        template: str | None = None,
        embedding: bool = False,
        pooling_type: int = LLAMA_POOLING_TYPE_UNSPECIFIED,
        logits_all: bool = False,
        last_n_tokens_size: int = 64,
        type_k: int | None = None,
        type_v: int | None = None,
        verbose: bool = True,
        **others: Any,
    ) -> None:
        n_batch = checks.integer("n_batch", others.get("n_batch") or 512, 1)
        check(others)
        if pooling_type not in (LLAMA_POOLING_TYPE_UNSPECIFIED, LLAMA_POOLING_TYPE_NONE, *POOLINGS):
            raise NotImplementedError(f"pooling_type={pooling_type} is not supported")
        self.model_path = model_path
        self.chat_format = chat_format
        self.verbose = verbose
        self._template = template_of(chat_format, template)
        self._seed = seed_of(seed)
        self.last_n_tokens_size = last_n_tokens_size
        options = {"threads": n_threads or None, "kv": kv_of(type_k, type_v), "prefix_cache": True}
        try:
            self._model = _load(model_path, n_ctx, options)
        except ArgumentError as error:
            own_name = {"context": "n_ctx", "threads": "n_threads", "source": "model_path"}.get(error.argument)
            raise error if own_name is None else type(error)(own_name, error.found) from None
        except ModelFileError as error:
            raise LlamaFileError.of(error) from None
        own = self._model.core.embedder.pooling
        named = {name: number for number, name in POOLINGS.items()}
        if pooling_type == LLAMA_POOLING_TYPE_UNSPECIFIED:
            pooling_type = LLAMA_POOLING_TYPE_NONE if own is None else named[own]
        self._pooling = pooling_type
        Steps.__init__(self, self._model, logits_all)
        self.n_batch = min(self.n_ctx(), n_batch)  # of no effect, for programs that read it
        self.n_threads = self._model.info().threads
        self.context_params = SimpleNamespace(n_ctx=self.n_ctx(), embeddings=embedding)

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        filename: str | None,
        additional_files: Sequence[str] | None = None,
        local_dir: str | os.PathLike[str] | None = None,
        local_dir_use_symlinks: bool | str = "auto",
        cache_dir: str | os.PathLike[str] | None = None,
        **others: Any,
    ) -> Llama:
        """A model of a hub, downloaded into Pellucid's cache, as by `pellucid pull`.

        filename: of one file, whose beginning or end may be `*`. Raises FetchError, also for a model whose terms have
        not been accepted; NotImplementedError for other folders.
        """
        from pellucid.weights import hub

        for name, value in (("additional_files", additional_files), ("local_dir", local_dir), ("cache_dir", cache_dir)):
            if value:
                raise NotImplementedError(f"{name} is not supported: models are kept in the folder of PELLUCID_CACHE")
        wanted = (filename or "").strip("*")
        if any(mark in wanted for mark in "*?["):
            raise NotImplementedError(f"filename={filename!r}: expected `*` at its beginning or end alone")
        reference = f"{repo_id}:{wanted}" if wanted else repo_id
        path = hub.find(reference)
        if path is None:
            listing = hub.ask(reference)
            if listing.terms:
                raise FetchError(f"{reference} has terms of use: run `pellucid pull {reference}` first", name=reference)
            path = hub.fetch(listing)
        return cls(str(path), **others)

    def close(self) -> None:
        self._model.close()

    # ---- texts ------------------------------------------------------------------------------------------------------

    def create_completion(
        self,
        prompt: str | list[int],
        suffix: str | None = None,
        max_tokens: int | None = 16,
        temperature: float = 0.8,
        top_p: float = 0.95,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        logprobs: int | None = None,
        echo: bool = False,
        stop: str | list[str] | None = None,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        repeat_penalty: float = 1.0,
        top_k: int = 40,
        stream: bool = False,
        seed: int | None = None,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        model: str | None = None,
        stopping_criteria: Any = None,
        logits_processor: Any = None,
        grammar: Any = None,
        logit_bias: Mapping[Any, float] | None = None,
    ) -> Any:
        """Continues a text, or ids -> a dict in OpenAI's form; with stream, an iterator of such dicts. What spells a
        special token in a text becomes that token."""
        given = {name: value for name, value in locals().items() if name not in ("self", "echo", "stream", "model")}
        if echo and logprobs is not None:
            raise NotImplementedError("echo with logprobs is not supported")
        fields, options = request(given, self.last_n_tokens_size, self._seed)
        call = completion_call(fields, UNBOUNDED)
        call.options |= options
        call.token_ids = True
        call.prompts = [self._model.core.prompt_ids(prompt, parse_special=True)]
        text = prompt if isinstance(prompt, str) else self._model.detokenize(prompt)
        with context_errors():
            answer = Answer(self._model, call, model or self.model_path)
        if not stream:
            with context_errors():
                return shapes.completion(answer.whole(), len(text), text if echo else "")
        return _streamed(one for event in answer.events() for one in shapes.completion_events(event, len(text)))

    __call__ = create_completion

    # ---- chats ------------------------------------------------------------------------------------------------------

    def create_chat_completion(
        self,
        messages: list[Any],
        functions: list[Any] | None = None,
        function_call: Any = None,
        tools: list[Any] | None = None,
        tool_choice: Any = None,
        temperature: float = 0.2,
        top_p: float = 0.95,
        top_k: int = 40,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        stream: bool = False,
        stop: str | list[str] | None = None,
        seed: int | None = None,
        response_format: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repeat_penalty: float = 1.0,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        model: str | None = None,
        logits_processor: Any = None,
        grammar: Any = None,
        logit_bias: Mapping[Any, float] | None = None,
        logprobs: bool | None = None,
        top_logprobs: int | None = None,
    ) -> Any:
        """The next message -> a dict in OpenAI's form; with stream, an iterator of such dicts. A reasoning model's
        thoughts have a key of their own, reasoning_content."""
        apart = ("self", "stream", "model", "functions", "function_call")
        given = {name: value for name, value in locals().items() if name not in apart}
        if functions is not None:  # the older form of tools
            given["tools"] = [{"type": "function", "function": one} for one in functions]
        if function_call is not None:
            named = isinstance(function_call, Mapping)
            given["tool_choice"] = {"type": "function", "function": dict(function_call)} if named else function_call
        form = response_format.get("type") if isinstance(response_format, Mapping) else None
        if form in ("json_object", "json_schema") or isinstance(given["tool_choice"], Mapping):
            given["grammar"] = None  # the functions take precedence
        fields, options = request(given, self.last_n_tokens_size, self._seed)
        call = chat_call(fields, UNBOUNDED)
        call.options |= options
        if self._template is not None:
            call.template["template"] = self._template
        check_template(self._model, self._template, "Llama(template=...)")
        with context_errors():
            answer = Answer(self._model, call, model or self.model_path)
        if not stream:
            with context_errors():
                return shapes.chat(answer.whole())
        calls: dict[int, str] = {}
        return _streamed(shapes.chat_event(event, calls) for event in answer.events())

    def create_chat_completion_openai_v1(self, *arguments: Any, **more: Any) -> Any:
        """`create_chat_completion` with objects of the package openai, which it needs."""
        types: Any = importlib.import_module("openai.types.chat")
        found = self.create_chat_completion(*arguments, **more)
        if isinstance(found, dict):
            return types.ChatCompletion(**found)
        return (types.ChatCompletionChunk(**one) for one in found)

    # ---- embeddings -------------------------------------------------------------------------------------------------

    def create_embedding(self, input: str | list[str], model: str | None = None) -> dict[str, Any]:
        """Embeddings of texts -> a dict in OpenAI's form."""
        rows, tokens = self.embed(input if isinstance(input, list) else [input], return_count=True)
        return embedded(False, [_Listed(row) for row in rows], model or self.model_path, tokens)

    def embed(
        self, input: str | list[str], normalize: bool = False, truncate: bool = True, return_count: bool = False
    ) -> Any:
        """An embedding of each text; for a single text, not in a list, its embedding alone. If the model does not say
        how it makes one, and no pooling_type was given, one of every token. return_count: and the number of tokens.
        Raises RuntimeError if the model was not loaded with embedding=True."""
        if not self.context_params.embeddings:
            raise RuntimeError("embed: expected Llama(embedding=True)")
        many = [self._model.tokenize(text) for text in ([input] if isinstance(input, str) else input)]
        if truncate:
            many = [ids[: self.n_ctx()] for ids in many]
        with context_errors():
            if self._pooling == LLAMA_POOLING_TYPE_NONE:
                rows = [self._model.trace(ids, ["final"]).final for ids in many]
                rows = [(_normalized(one) if normalize else one).tolist() for one in rows]
            else:
                how = POOLINGS[self._pooling]
                rows = self._model.embed(many, pooling=how, normalize=normalize).tolist() if many else []  # type: ignore[arg-type]
        found = rows[0] if isinstance(input, str) else rows
        return (found, sum(map(len, many))) if return_count else found

    # ---- tokens -----------------------------------------------------------------------------------------------------

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        if not isinstance(text, (bytes, bytearray)):
            raise WrongType("text", f": expected bytes, not {type(text).__name__}")
        return self._model.tokenize(text.decode("utf-8", errors="replace"), bool(add_bos), bool(special))

    def detokenize(self, tokens: list[int], prev_tokens: list[int] | None = None, special: bool = False) -> bytes:
        tokenizer = self._model.core.need_tokenizer()
        text = b"".join(tokenizer.piece(int(id), special=bool(special)) for id in tokens)
        begins = bool(tokens) and tokens[0] == self.token_bos() and text[:1] == b" "
        return text[1:] if begins else text

    def tokenizer(self) -> LlamaTokenizer:
        return LlamaTokenizer(self)

    def token_bos(self) -> int:
        """-1: there is none."""
        bos = self._model.core.need_tokenizer().bos
        return -1 if bos is None else bos

    def token_eos(self) -> int:
        """-1: there is none."""
        eos = self._model.core.need_tokenizer().eos
        return -1 if eos is None else eos

    def token_nl(self) -> int:
        return self._model.tokenize("\n", add_special=False)[-1]

    # ---- sizes and state --------------------------------------------------------------------------------------------

    def n_ctx(self) -> int:
        return self._model.context_length

    @cached_property
    def metadata(self) -> dict[str, str]:
        """The file's metadata, as text. Arrays are left out."""
        with weights.open_model(self._model.info().path) as file:
            found = {name: value for name, value in file.metadata.items() if isinstance(value, (str, int, float))}
        return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in found.items()}

    def n_embd(self) -> int:
        return self._model.info().dim

    def n_vocab(self) -> int:
        return self._model.info().vocab

    def pooling_type(self) -> int:
        return self._pooling

    def set_seed(self, seed: int) -> None:
        self._seed = seed_of(seed)
        self._restart()

    @staticmethod
    def logits_to_logprobs(logits: npt.ArrayLike, axis: int = -1) -> npt.NDArray[np.float32]:
        """Log probabilities, of the same shape."""
        given = np.asarray(logits, np.float32)
        shifted = given - given.max(axis=axis, keepdims=True)
        found: npt.NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
        return found

    def set_cache(self, cache: Any) -> None:
        """Has no effect: the model itself keeps what was computed."""

    def save_state(self) -> LlamaState:
        return LlamaState(self._seed, tuple(self._held()))

    def load_state(self, state: LlamaState) -> None:
        if not isinstance(state, LlamaState):
            raise WrongType("state", f": expected what save_state gives, not {type(state).__name__}")
        self._seed = state.seed
        self._go_to(state.input_ids)
        self._restart()


class _Listed(list[Any]):
    """An embedding that is a list already."""

    def tolist(self) -> list[Any]:
        return list(self)


def _normalized(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rows of length 1; those of zeros stay."""
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    norms[norms == 0] = 1
    found: npt.NDArray[np.float32] = rows / norms
    return found


def _load(path: str, n_ctx: int, options: dict[str, Any]) -> Model:
    if n_ctx:
        try:
            return Model.load(path, context=n_ctx, **options)
        except WrongValue as error:  # before any weights are packed
            if error.argument != "context" or n_ctx < 0:
                raise
            warnings.warn(f"n_ctx={n_ctx}: more tokens than the model was made for, which it then has", stacklevel=3)
    return Model.load(path, context=_trained(path), **options)


def _trained(path: str) -> int:
    """How many tokens the model was made for, by its metadata. Raises what `Model.load` raises."""
    with reporting(None) as report:
        found = weights.locate("source", path, report)
    with weights.open_model(found, arch.folder) as file:
        return arch.configure(file).context


def _streamed(events: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    with context_errors():
        yield from events
