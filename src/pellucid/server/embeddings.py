"""Embeddings of texts (OpenAI's interface) and the relevance of documents (Cohere's and Jina's)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.types import Receive, Scope, Send

from pellucid import checks, embedding
from pellucid.asynchronous import call
from pellucid.errors import WrongType, WrongValue
from pellucid.openai.embeddings import embed_call, embedded, rest, take_model
from pellucid.openai.fields import Fields
from pellucid.server.failures import Failure, failing
from pellucid.server.generate import read, until_left, whole
from pellucid.server.models import Hosted
from pellucid.server.service import Running, Service
from pellucid.server.settings import Settings
from pellucid.server.shapes import dumps

__all__ = ["Compute", "Task", "embeddings", "rerank"]


@dataclass(slots=True)
class Task:
    """A parsed request. work: the function of `pellucid.embedding` that computes, with its arguments after the model.
    answer: makes the object of the answer from the result, the model's name and the number of tokens. given: the field
    that holds the texts."""

    model: str | None
    work: Callable[..., Any]
    arguments: tuple[Any, ...]
    answer: Callable[[Any, str, int], dict[str, Any]]
    given: str
    ignored: list[str] = field(default_factory=list)


Read = Callable[[dict[str, Any], Settings], Task]


class Compute:
    """An endpoint whose answer is computed as a whole. read: reads the fields."""

    def __init__(self, service: Service, read: Read) -> None:
        self._service = service
        self._read = read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, record = self._service, scope["state"]["record"]
        service.ready()
        task = self._read(await read(service, scope, receive), service.settings)
        with failing(record.id, {"texts": task.given, "context_length_exceeded": task.given}):
            _, hosted = service.select(task.model, record)
            running = Running(record, False, 1)
            body = await until_left(receive, running, partial(self._run, hosted, task, running))
        await whole(send, body, task.ignored)

    async def _run(self, hosted: Hosted, task: Task, running: Running) -> bytes:
        service = self._service
        service.running.add(running)
        try:
            seconds = service.settings.limits.request_seconds
            try:
                async with asyncio.timeout(seconds):
                    return await self._compute(hosted, task, running)
            except TimeoutError:
                raise Failure(504, f"the request took longer than {seconds:g} s", code="timeout") from None
        except Exception as error:
            raise service.crowded(error, running) from None
        finally:
            service.running.discard(running)

    async def _compute(self, hosted: Hosted, task: Task, running: Running) -> bytes:
        service, record = self._service, running.record
        counts: list[int] = []
        async with service.models.use(hosted) as model, service.computing():
            record.first = time.monotonic()
            record.queued = record.first - record.begun
            found = await call(task.work, model.core, *task.arguments, counted=counts.append)
        record.prompt = sum(counts)
        record.finish = "stop"
        return await service.write(lambda: dumps(task.answer(found, record.model, record.prompt), apart=True))


# ---- embeddings ---------------------------------------------------------------------------------------------------


def embeddings(body: dict[str, Any], settings: Settings) -> Task:
    """A request for embeddings. Raises ValueError or TypeError naming the field."""
    asked = embed_call(body, settings)
    answer = partial(embedded, asked.base64)
    return Task(asked.model, embedding.embed, asked.arguments, answer, "input", asked.ignored)


# ---- relevance ----------------------------------------------------------------------------------------------------


def rerank(body: dict[str, Any], settings: Settings) -> Task:
    """A request for the relevance of documents. Raises as `embeddings`."""
    fields = Fields(body, settings.limits)
    model = take_model(fields)
    query = checks.string("query", fields.take("query"), "a text")
    documents = fields.take("documents")
    if not isinstance(documents, list):
        raise WrongType("documents", ": expected a list of texts")
    most = settings.limits.inputs
    if not 1 <= len(documents) <= most:
        raise WrongValue("documents", f" has {len(documents)} entries: expected 1 to {most}")
    texts = [_document(one, i) for i, one in enumerate(documents)]
    top = fields.integer("top_n", 1, 2**31 - 1, len(texts))
    shown = texts if fields.flag("return_documents") else None
    instruction = fields.take("instruction")
    ignored = rest(fields, settings)
    answer = partial(ranked, top, shown)
    return Task(model, embedding.rerank, (query, texts, instruction), answer, "documents", ignored)


def _document(value: Any, i: int) -> str:
    if isinstance(value, dict):
        value = value.get("text")
        return checks.string("documents", value, "a text", at=f"[{i}].text")
    return checks.string("documents", value, 'a text, or an object with "text"', at=f"[{i}]")


def ranked(
    top: int, texts: Sequence[str] | None, found: Sequence[embedding.Ranked], model: str, tokens: int
) -> dict[str, Any]:
    """The object of the answer. texts: the documents, if they are to be in it."""
    results: list[dict[str, Any]] = []
    for index, score in found[:top]:
        results.append({"index": index, "relevance_score": score})
        if texts is not None:
            results[-1]["document"] = {"text": texts[index]}
    used = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": model, "results": results, "usage": used}
