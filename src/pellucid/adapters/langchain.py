"""LangChain models that run in this process: `ChatPellucid`, `PellucidLLM` and `PellucidEmbeddings`.

Needs the extra `langchain`. Calls from several threads, and the prompts of a `batch`, share the model's passes.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

try:
    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
    from langchain_core.embeddings import Embeddings
    from langchain_core.language_models import LLM, BaseChatModel
    from langchain_core.language_models.base import LangSmithParams, LanguageModelInput
    from langchain_core.messages import (
        AIMessage,
        AIMessageChunk,
        BaseMessage,
        InvalidToolCall,
        ToolCall,
        ToolCallChunk,
        UsageMetadata,
        convert_to_openai_messages,
    )
    from langchain_core.output_parsers import (
        JsonOutputKeyToolsParser,
        JsonOutputParser,
        PydanticOutputParser,
        PydanticToolsParser,
    )
    from langchain_core.outputs import (
        ChatGeneration,
        ChatGenerationChunk,
        ChatResult,
        Generation,
        GenerationChunk,
        LLMResult,
    )
    from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough, run_in_executor
    from langchain_core.tools import BaseTool
    from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
    from langchain_core.utils.pydantic import is_basemodel_subclass
    from pydantic import BaseModel, ConfigDict, Field, model_validator
except ImportError as error:
    raise ImportError(f"pellucid.adapters.langchain needs the extra langchain: {error}") from None

from pellucid import Completion, Model, Piece
from pellucid.adapters.shared import check_template, closed, loaded
from pellucid.errors import WrongValue, shown
from pellucid.openai.shapes import token_object
from pellucid.options import CHAT_DEFAULTS

__all__ = ["ChatPellucid", "PellucidEmbeddings", "PellucidLLM"]


class _Source(BaseModel):
    """Where a model comes from."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    model: str | Model = "smollm2-135m"
    """A path, a name from the catalogue, or a loaded model."""
    load: dict[str, Any] = Field(default_factory=dict)
    """Options of `Model.load`, such as `threads` and `context`."""

    @property
    def pellucid(self) -> Model:
        """The model. It is loaded on first use, and shared by all objects with the same `model` and `load`."""
        source = (self.model, self.load)
        held = self.__dict__.get("_held")  # not a field, so that it is not compared or shown
        if held is None or held[0] != source or held[1].core.closed:  # a copy may hold its original's model
            held = self.__dict__["_held"] = ((self.model, dict(self.load)), loaded(*source))
        found: Model = held[1]
        return found


class _Settings(_Source):
    """What chat and text models have in common."""

    temperature: float | None = None
    max_tokens: int | None = None
    stop: list[str] | None = None
    seed: int | None = None
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Other options of generation, by the library's names. They may also be given as arguments."""

    @model_validator(mode="before")
    @classmethod
    def _sorted(cls, given: Any) -> Any:
        """Raises ValueError for what is neither a field nor an option of generation."""
        if not isinstance(given, Mapping):
            return given
        fields = {name for key, field in cls.model_fields.items() for name in (key, field.alias)}
        others = {name: value for name, value in given.items() if name not in fields and name not in _OF_SERVERS}
        for name in others:
            if name not in CHAT_DEFAULTS:
                raise ValueError(f"{name}: neither a field of {cls.__name__} nor an option of generation")
        kept = {name: value for name, value in given.items() if name not in others}
        return {**kept, "model_kwargs": {**(kept.get("model_kwargs") or {}), **others}} if others else given

    def _model(self, more: Mapping[str, Any]) -> Model:
        """The model of a call, which may name another one."""
        return loaded(more["model"], self.load) if more.get("model") else self.pellucid

    async def _amodel(self, more: Mapping[str, Any]) -> Model:
        """The same, without blocking the event loop while the model is loaded."""
        return await run_in_executor(None, self._model, more)

    def _called(self, more: Mapping[str, Any]) -> str:
        model = more.get("model") or self.model
        return model if isinstance(model, str) else str(model.info().path)

    def _options(self, stop: Sequence[str] | None, more: Mapping[str, Any]) -> dict[str, Any]:
        own = {"temperature": self.temperature, "max_tokens": self.max_tokens, "seed": self.seed}
        given = {**{k: v for k, v in own.items() if v is not None}, **self.model_kwargs}
        given |= {k: v for k, v in more.items() if k not in _NOT_OURS}
        n = given.pop("n", None)
        if n not in (None, 1):
            raise WrongValue("n", f"={shown(n)}: expected 1; `batch` asks several times")
        texts = (stop if stop is not None else self.stop) or given.pop("stop", None)
        if texts:
            given["stop"] = [texts] if isinstance(texts, str) else texts
        return given

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """What an answer depends on, for LangChain's caches."""
        load = self.load
        if isinstance(self.model, Model):
            info = self.model.info()
            load = {"kv": info.kv, "precision": info.precision, "quantisation": info.quantisation}
        return {"model_name": self._called({}), "load": load, **self._options(None, {})}

    def get_token_ids(self, text: str) -> list[int]:
        """Counts by the model's tokenizer, without the tokens that a prompt begins or ends with."""
        return self.pellucid.tokenize(text, add_special=False)


class ChatPellucid(_Settings, BaseChatModel):
    """A chat model.

    ```python
    from pellucid.adapters.langchain import ChatPellucid

    chat = ChatPellucid(model="smollm2-135m", temperature=0, max_tokens=20)
    print(chat.invoke("Name a colour.").content)
    ```

    A model without a chat template needs `template`, in Jinja.
    """

    template: str | None = None

    @property
    def _llm_type(self) -> str:
        return "pellucid"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"template": self.template, **super()._identifying_params}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        options = self._options(stop, kwargs)
        found = LangSmithParams(ls_provider="pellucid", ls_model_type="chat", ls_model_name=self._called(kwargs))
        if isinstance(options.get("temperature"), (int, float)):
            found["ls_temperature"] = float(options["temperature"])
        if isinstance(options.get("max_tokens"), int):
            found["ls_max_tokens"] = options["max_tokens"]
        if isinstance(options.get("stop"), (list, tuple)):
            found["ls_stop"] = list(options["stop"])
        return found

    def _asked(
        self, model: Model, messages: list[BaseMessage], stop: list[str] | None, more: Mapping[str, Any]
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        options = self._options(stop, more)
        if self.template is not None:
            options.setdefault("template", self.template)
        check_template(model, options.get("template"), "ChatPellucid(template=...)")
        converted = convert_to_openai_messages(messages)
        return (converted if isinstance(converted, list) else [converted]), options

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        model = self._model(kwargs)
        asked, options = self._asked(model, messages, stop, kwargs)
        return self._result(model, model.chat(asked, **options), self._called(kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        model = await self._amodel(kwargs)
        asked, options = self._asked(model, messages, stop, kwargs)
        return self._result(model, await model.achat(asked, **options), self._called(kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        model = self._model(kwargs)
        asked, options = self._asked(model, messages, stop, kwargs)
        called = False
        with model.chat(asked, stream=True, **options) as pieces:
            for piece in pieces:
                called = called or bool(piece.tool_calls)
                chunk = self._chunk(model, piece, self._called(kwargs), called)
                if run_manager is not None:
                    run_manager.on_llm_new_token(piece.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        model = await self._amodel(kwargs)
        asked, options = self._asked(model, messages, stop, kwargs)
        called = False
        async with model.achat(asked, stream=True, **options) as pieces:
            async for piece in pieces:
                called = called or bool(piece.tool_calls)
                chunk = self._chunk(model, piece, self._called(kwargs), called)
                if run_manager is not None:
                    await run_manager.on_llm_new_token(piece.text, chunk=chunk)
                yield chunk

    def _result(self, model: Model, done: Completion, name: str) -> ChatResult:
        calls: list[ToolCall] = []
        broken: list[InvalidToolCall] = []
        for one in done.tool_calls:
            try:
                arguments = json.loads(one.arguments)
                if not isinstance(arguments, dict):
                    raise ValueError("expected an object")
                calls.append(ToolCall(name=one.name, args=arguments, id=one.id))
            except ValueError as error:
                broken.append(InvalidToolCall(name=one.name, args=one.arguments, id=one.id, error=str(error)))
        message = AIMessage(
            content=done.text,
            tool_calls=calls,
            invalid_tool_calls=broken,
            additional_kwargs={"reasoning_content": done.reasoning} if done.reasoning else {},
            usage_metadata=_usage(done.prompt_tokens, len(done.ids)),
            response_metadata={
                **_metadata(name, done.finish_reason, bool(calls), done.timings),
                **_logprobs(model, done),
            },
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _chunk(self, model: Model, piece: Piece, name: str, called: bool) -> ChatGenerationChunk:
        """called: whether a tool is called in this piece or an earlier one."""
        calls = [
            ToolCallChunk(name=one.name, args=one.arguments, id=one.id, index=one.index) for one in piece.tool_calls
        ]
        last = piece.finish_reason is not None
        message = AIMessageChunk(
            content=piece.text,
            tool_call_chunks=calls,
            additional_kwargs={"reasoning_content": piece.reasoning} if piece.reasoning else {},
            usage_metadata=_usage(piece.prompt_tokens if last else 0, len(piece.ids)),
            response_metadata={
                **(_metadata(name, piece.finish_reason, called, piece.timings) if last else {}),
                **_logprobs(model, piece),
            },
            chunk_position="last" if last else None,
        )
        return ChatGenerationChunk(message=message)

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        strict: bool = True,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """tool_choice: "auto", "none", "required" (or "any", True), or the name of a tool. strict: a call has only
        arguments that the tool declares, and a schema that cannot be fully enforced is an error."""
        converted = [_tool(tool, strict) for tool in tools]
        choice: Any = tool_choice
        if tool_choice in ("any", True):
            choice = "required"
        elif isinstance(tool_choice, str) and tool_choice not in ("auto", "none", "required"):
            choice = {"type": "function", "function": {"name": tool_choice}}
        chosen = {} if choice is None or choice is False else {"tool_choice": choice}
        return self.bind(tools=converted, **chosen, **kwargs)

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """Answers that are bound to a schema (method "json_schema", the default), or the arguments of a call of a tool
        ("function_calling"). strict: objects have only keys that the schema declares, unless it says otherwise."""
        method, strict = kwargs.pop("method", "json_schema"), kwargs.pop("strict", True)
        if method not in ("json_schema", "json_mode", "function_calling"):
            raise ValueError(f"method={method!r}: expected json_schema, json_mode or function_calling")
        declared = {"type": "object"} if method == "json_mode" else convert_to_json_schema(schema)
        told = {"kwargs": {"method": method}, "schema": declared}  # what traces show
        of_class = isinstance(schema, type) and is_basemodel_subclass(schema)
        asking: Any
        parser: Any
        if method == "function_calling":
            asking = self.bind_tools(
                [schema], tool_choice="any", strict=strict, ls_structured_output_format=told, **kwargs
            )
            parser = JsonOutputKeyToolsParser(key_name=declared["title"], first_tool_only=True)
            if of_class:
                parser = PydanticToolsParser(tools=[schema], first_tool_only=True)
        else:
            bound = closed(declared) if strict and method == "json_schema" else declared
            asking = self.bind(schema=json.dumps(bound), ls_structured_output_format=told, **kwargs)
            parser = PydanticOutputParser(pydantic_object=schema) if of_class else JsonOutputParser()
        if not include_raw:
            return asking | parser
        kept = RunnablePassthrough.assign(parsed=lambda one: parser.invoke(one["raw"]), parsing_error=lambda _: None)
        failed = RunnablePassthrough.assign(parsed=lambda _: None)
        return RunnableMap(raw=asking) | kept.with_fallbacks([failed], exception_key="parsing_error")


class PellucidLLM(_Settings, LLM):
    """A model that continues texts, without a chat template."""

    @property
    def _llm_type(self) -> str:
        return "pellucid"

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Runs the prompts of a list in the same passes; LangChain would call `_call` for one after the other."""
        model, options = self._model(kwargs), self._options(stop, kwargs)
        if len(prompts) == 1:  # an error then names the prompt itself, not its place in a list
            return _texts(model, [model.generate(prompts[0], **options)])
        return _texts(model, model.generate(prompts, **options))

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        model, options = await self._amodel(kwargs), self._options(stop, kwargs)
        if len(prompts) == 1:
            return _texts(model, [await model.agenerate(prompts[0], **options)])
        return _texts(model, await model.agenerate(prompts, **options))

    def _call(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> str:
        return self._model(kwargs).generate(prompt, **self._options(stop, kwargs)).text

    async def _acall(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> str:
        model = await self._amodel(kwargs)
        return (await model.agenerate(prompt, **self._options(stop, kwargs))).text

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        model = self._model(kwargs)
        with model.stream(prompt, **self._options(stop, kwargs)) as pieces:
            for piece in pieces:
                chunk = GenerationChunk(text=piece.text, generation_info=_logprobs(model, piece) or None)
                if run_manager is not None:
                    run_manager.on_llm_new_token(piece.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        model = await self._amodel(kwargs)
        async with model.astream(prompt, **self._options(stop, kwargs)) as pieces:
            async for piece in pieces:
                chunk = GenerationChunk(text=piece.text, generation_info=_logprobs(model, piece) or None)
                if run_manager is not None:
                    await run_manager.on_llm_new_token(piece.text, chunk=chunk)
                yield chunk


class PellucidEmbeddings(_Source, Embeddings):
    """Embeddings of texts.

    `query`, `document`: the name of one of the model's prompts, or a text that is put before each. `pooling`: the
    hidden state that becomes the embedding, if the model's files do not say.
    """

    model_config = ConfigDict(extra="forbid")

    model: str | Model
    query: str | None = None
    document: str | None = None
    dimensions: int | None = None
    pooling: Literal["last", "first", "mean"] | None = None

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._rows(texts, self.document) if texts else []

    def embed_query(self, text: str) -> list[float]:
        return self._rows([text], self.query)[0]

    def _rows(self, texts: list[str], instruction: str | None) -> list[list[float]]:
        found = self.pellucid.embed(texts, pooling=self.pooling, instruction=instruction, dimensions=self.dimensions)
        return [[float(x) for x in row] for row in found]


# Arguments that programs give to any model, and that mean nothing to one in this process.
_OF_SERVERS = frozenset({"api_key", "base_url", "max_retries", "stream_usage", "streaming", "timeout"})
_NOT_OURS = frozenset({"model", "ls_structured_output_format", "stream", "stream_usage"})


def _tool(given: Any, strict: bool) -> dict[str, Any]:
    """A tool in OpenAI's form, which requires the arguments that it declares as required. LangChain's own `strict`
    would require all, and allow no keys in a dict."""
    made = convert_to_openai_tool(given)
    function = made.get("function")
    if not strict or not isinstance(function, dict) or function.get("strict") is False:
        return made
    return {**made, "function": {**closed(function), "strict": True}}


def _texts(model: Model, done: list[Completion]) -> LLMResult:
    made = [Generation(text=one.text, generation_info=_logprobs(model, one) or None) for one in done]
    return LLMResult(generations=[[one] for one in made])


def _logprobs(model: Model, of: Completion | Piece) -> dict[str, Any]:
    """Log probabilities in OpenAI's form, if there are any. LangChain joins the lists of a stream's chunks."""
    if not of.logprobs:
        return {}
    core = model.core
    content = [
        {
            **token_object(core, one.id, one.piece, one.logprob),
            "top_logprobs": [token_object(core, *other) for other in one.top],
        }
        for one in of.logprobs
    ]
    return {"logprobs": {"content": content}}


def _usage(prompt: int, new: int) -> UsageMetadata:
    return UsageMetadata(input_tokens=prompt, output_tokens=new, total_tokens=prompt + new)


def _metadata(name: str, finish: Any, called: bool, timings: Any) -> dict[str, Any]:
    ended = {"eos": "stop", "stop": "stop"}.get(finish, "length")
    return {
        "model_name": name,
        "model_provider": "pellucid",
        "finish_reason": "tool_calls" if called and ended == "stop" else ended,
        "timings": timings.to_dict(),
    }
