"""The application, for any ASGI server."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from pellucid.server.embeddings import Compute, embeddings, rerank
from pellucid.server.gate import Gate
from pellucid.server.generate import chat_completions, completions
from pellucid.server.look import Look
from pellucid.server.messages import CountTokens, messages
from pellucid.server.ollama import OllamaGenerate, embed, refusal
from pellucid.server.ollama import embeddings as older_embeddings
from pellucid.server.ollama_models import Ollama
from pellucid.server.operate import Operate, Text
from pellucid.server.responses import Responses
from pellucid.server.service import Service
from pellucid.server.ui import Ui

__all__ = ["make_app"]


def make_app(service: Service) -> Gate:
    """The application that serves a model."""
    operate, responses = Operate(service), Responses(service)
    routes = [
        Route("/v1/chat/completions", chat_completions(service), methods=["POST"]),
        Route("/v1/completions", completions(service), methods=["POST"]),
        Route("/v1/embeddings", Compute(service, embeddings), methods=["POST"]),
        Route("/v1/rerank", Compute(service, rerank), methods=["POST"]),
        Route("/v1/responses", responses, methods=["POST"]),
        Route("/v1/responses/{id}", responses.one, methods=["GET", "DELETE"]),
        Route("/v1/messages", messages(service), methods=["POST"]),
        Route("/v1/messages/count_tokens", CountTokens(service), methods=["POST"]),
        Route("/v1/models", operate.models),
        Route("/v1/models/{name:path}", operate.model),
        Route("/v1/tokenize", Text(service, "tokenize"), methods=["POST"]),
        Route("/v1/detokenize", Text(service, "detokenize"), methods=["POST"]),
        Route("/v1/apply-template", Text(service, "apply_template"), methods=["POST"]),
        Route("/health", operate.health),
        Route("/metrics", operate.metrics),
        Route("/slots", operate.slots),
    ]
    # Other servers' paths for the same endpoints.
    routes += [
        Route("/v2/rerank", Compute(service, rerank), methods=["POST"]),
        Route("/rerank", Compute(service, rerank), methods=["POST"]),
        Route("/tokenize", Text(service, "tokenize"), methods=["POST"]),
        Route("/detokenize", Text(service, "detokenize"), methods=["POST"]),
        Route("/apply-template", Text(service, "apply_template"), methods=["POST"]),
    ]
    if service.settings.ui:
        ui = Ui()
        routes += [Route("/", ui.index), Route("/ui/{name:path}", ui.file)]
    if service.settings.ui or service.settings.look:
        look = Look(service)
        routes += [
            Route("/v1/look", look.open, methods=["POST"]),
            Route("/v1/look/{id}/block", look.block, methods=["POST"]),
            Route("/v1/look/{id}/steps", look.steps, methods=["POST"]),
            Route("/v1/edits", look.edits, methods=["POST"]),
        ]
    ollama = Ollama(service)
    routes += [
        Route("/api/chat", OllamaGenerate(service, chats=True), methods=["POST"]),
        Route("/api/generate", OllamaGenerate(service, chats=False), methods=["POST"]),
        Route("/api/embed", Compute(service, embed), methods=["POST"]),
        Route("/api/embeddings", Compute(service, older_embeddings), methods=["POST"]),
        Route("/api/show", Whole(ollama.show), methods=["POST"]),
        Route("/api/tags", ollama.tags),
        Route("/api/ps", ollama.running),
        Route("/api/version", ollama.version),
        Route("/", ollama.heartbeat),  # after the app's, which takes precedence
    ]
    # What would change the models, whatever the method.
    routes += [Route(f"/api/{name}", Whole(refusal)) for name in ("pull", "push", "create", "copy", "delete")]
    routes.append(Route("/api/blobs/{digest:path}", Whole(refusal)))
    router = Router(routes, redirect_slashes=False, default=_nothing)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = service  # so that a wrong method is an exception
        await router(scope, receive, send)

    return Gate(app, service)


class Whole:
    """A function as an endpoint."""

    def __init__(self, function: ASGIApp) -> None:
        self._function = function

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._function(scope, receive, send)


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    raise HTTPException(404)
