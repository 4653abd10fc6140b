"""A provider for litellm, and so for DSPy and others that call it: models that run in this process.

Needs the extra `litellm`. `register` makes the names "pellucid/MODEL" known; MODEL is a path, or a name from the
catalogue.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

try:
    import litellm
    from litellm import CustomLLM
    from litellm.types.utils import EmbeddingResponse, GenericStreamingChunk, ModelResponse
except ImportError as error:
    raise ImportError(f"pellucid.adapters.litellm needs the extra litellm: {error}") from None

from pellucid import Model, embedding
from pellucid.adapters.answers import Answer
from pellucid.adapters.shared import check_template, loaded
from pellucid.errors import (
    ArgumentError,
    ChatTemplateError,
    ContextFullError,
    FetchError,
    ModelFileError,
    TokenizerError,
    WrongType,
    WrongValue,
    shown,
)
from pellucid.openai.embeddings import embed_call, embedded
from pellucid.openai.fields import chat_call
from pellucid.openai.limits import UNBOUNDED
from pellucid.weights import catalog

__all__ = ["PellucidLLM", "register"]

PROVIDER = "pellucid"
# What litellm passes on besides the fields of a request.
NOT_OURS = frozenset({"stream", "stream_options", "max_retries", "extra_body", "template"})


def register(provider: str = PROVIDER, *, names: Iterable[str] = (), **settings: Any) -> PellucidLLM:
    """Makes litellm know the models "PROVIDER/MODEL" -> the handler. settings: of `PellucidLLM`. A handler that was
    registered with that name is replaced.

    Programs such as DSPy ask litellm, before their first call, whether a model accepts a schema, and send none if the
    name is unknown. So the catalogue's models, those of `models`, and `names`, such as paths, are added to its list.
    """
    if isinstance(names, str):
        raise WrongType("names", f"={shown(names)}: expected several texts, not one")
    handler = PellucidLLM(**settings)
    others = [one for one in litellm.custom_provider_map if one["provider"] != provider]
    litellm.custom_provider_map = [*others, {"provider": provider, "custom_handler": handler}]
    litellm.utils.custom_llm_setup()  # else a provider is known only after its first completion
    known = {"litellm_provider": provider, "mode": "chat", "supports_response_schema": True}
    every = {*(entry.name for entry in catalog.entries()), *settings.get("models", ()), *names}
    litellm.register_model({f"{provider}/{name}": dict(known) for name in sorted(every)})
    return handler


class PellucidLLM(CustomLLM):
    """litellm's handler: `completion`, `acompletion`, `embedding` and `aembedding`, whole and streamed.

    load: options of `Model.load`, such as `threads` and `context`. template: a chat template, in Jinja, for models
    without one; a call's own `template` overrides it. models: loaded models, by their names after "pellucid/".
    """

    def __init__(
        self,
        load: Mapping[str, Any] | None = None,
        template: str | None = None,
        models: Mapping[str, Model] | None = None,
    ) -> None:
        super().__init__()
        self._load = dict(load or {})
        self._template = template
        self._models = dict(models or {})
        self._held: dict[str, Model] = {}  # a model stays loaded between calls

    def model(self, name: str) -> Model:
        """The model of a name, loaded on first use. Raises what `Model.load` raises."""
        if name in self._models:
            return self._models[name]
        self._held[name] = found = loaded(name, self._load)
        return found

    # ---- chats ------------------------------------------------------------------------------------------------------

    def _answer(
        self, model: str, messages: list[Any], optional_params: Mapping[str, Any], streamed: bool = False
    ) -> Answer:
        found = self.model(model)
        fields = {**(optional_params.get("extra_body") or {}), **optional_params, "messages": messages}
        template = fields.get("template", self._template)
        call = chat_call({name: value for name, value in fields.items() if name not in NOT_OURS}, UNBOUNDED)
        if streamed and call.n != 1:
            raise WrongValue("n", f"={call.n}: expected 1 in a stream, as litellm would mix the answers")
        if streamed and call.logprobs is not None:
            raise WrongValue("logprobs", ": expected none in a stream, as litellm would drop them")
        if template is not None:
            call.template["template"] = template
        check_template(found, template, "template=..., in the call or in register()")
        return Answer(found, call, model)

    def completion(
        self, model: str, messages: list[Any], *, model_response: Any, optional_params: dict[str, Any], **_: Any
    ) -> ModelResponse:
        with _told(model):
            return _filled(model_response, self._answer(model, messages, optional_params).whole())

    async def acompletion(
        self, model: str, messages: list[Any], *, model_response: Any, optional_params: dict[str, Any], **_: Any
    ) -> ModelResponse:
        with _told(model):
            answer = await _in_thread(partial(self._answer, model, messages, optional_params))
            return _filled(model_response, await answer.awhole())

    def streaming(
        self, model: str, messages: list[Any], *, optional_params: dict[str, Any], **_: Any
    ) -> Iterator[GenericStreamingChunk]:
        with _told(model):
            answer = self._answer(model, messages, optional_params, streamed=True)
            for event in answer.events():
                yield from _chunks(event, answer)

    async def astreaming(
        self, model: str, messages: list[Any], *, optional_params: dict[str, Any], **_: Any
    ) -> AsyncIterator[GenericStreamingChunk]:
        with _told(model):
            answer = await _in_thread(partial(self._answer, model, messages, optional_params, streamed=True))
            async for event in answer.aevents():
                for chunk in _chunks(event, answer):
                    yield chunk

    # ---- embeddings -------------------------------------------------------------------------------------------------

    def embedding(
        self, model: str, input: list[Any], *, optional_params: dict[str, Any], **_: Any
    ) -> EmbeddingResponse:
        with _told(model):
            fields = {**(optional_params.get("extra_body") or {}), **optional_params, "input": input}
            asked = embed_call({name: value for name, value in fields.items() if name not in NOT_OURS}, UNBOUNDED)
            counts: list[int] = []
            rows = embedding.embed(self.model(model).core, *asked.arguments, counted=counts.append)
            return EmbeddingResponse(**embedded(asked.base64, rows, model, sum(counts)))

    async def aembedding(self, *arguments: Any, **more: Any) -> EmbeddingResponse:
        return await _in_thread(partial(self.embedding, *arguments, **more))


async def _in_thread(work: Callable[[], Any]) -> Any:
    """Runs work that loads a model, or computes, without blocking the event loop."""
    return await asyncio.get_running_loop().run_in_executor(None, work)


def _filled(response: Any, answer: dict[str, Any]) -> ModelResponse:
    """litellm's object, which it made before the call."""
    made = ModelResponse(**answer)
    for name in ("id", "created", "model", "object", "choices", "usage"):
        setattr(response, name, getattr(made, name))
    return response


def _chunks(event: dict[str, Any], answer: Answer) -> Iterator[GenericStreamingChunk]:
    """An event in litellm's form, which has one tool call at a time."""
    for choice in event["choices"]:
        delta, reason = choice["delta"], choice["finish_reason"]
        if "role" in delta:  # the opening, which litellm writes itself
            continue
        chunk: dict[str, Any] = {
            "text": delta.get("content") or "",
            "tool_use": None,
            "is_finished": reason is not None,
            "finish_reason": reason or "",
            "usage": answer.used() if reason is not None else None,
            "index": choice["index"],
        }
        if "reasoning_content" in delta:
            chunk["provider_specific_fields"] = {"reasoning_content": delta["reasoning_content"]}
        for call in delta.get("tool_calls") or [None]:
            yield GenericStreamingChunk(**{**chunk, "tool_use": call})


@contextmanager
def _told(model: str) -> Iterator[None]:
    """Raises errors as litellm's callers expect them; litellm wraps others itself."""
    given = {"model": model, "llm_provider": PROVIDER}
    try:
        yield
    except ContextFullError as error:
        raise litellm.ContextWindowExceededError(message=str(error), **given) from error
    except (FetchError, ModelFileError) as error:
        raise litellm.NotFoundError(message=str(error), **given) from error
    except (ArgumentError, ChatTemplateError, TokenizerError, ValueError) as error:
        raise litellm.BadRequestError(message=str(error), **given) from error
