"""The other endpoints: models, health, metrics, text and tokens, running requests."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pellucid import arguments, checks
from pellucid.model import Model
from pellucid.openai.fields import OPTIONS, Fields, message_of
from pellucid.openai.refusal import OF_CHATS, REFUSED, check_known
from pellucid.sampling import DEFAULTS
from pellucid.server.failures import failing
from pellucid.server.generate import read, whole
from pellucid.server.metrics import CONTENT_TYPE
from pellucid.server.models import Hosted
from pellucid.server.service import Service
from pellucid.server.settings import Settings
from pellucid.server.shapes import document, dumps

__all__ = ["Operate", "Text"]


class Operate:
    """The endpoints for GET requests."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def health(self, request: Request) -> Response:
        """200 while requests are answered, else 503."""
        state, models = self._service.state, self._service.models.all
        ok = state == "ok"
        found: dict[str, Any] = {"status": state}
        if len(models) > 1:  # their names are only for clients with a key
            states = [one.state for one in models]
            found["models"] = {kind: states.count(kind) for kind in ("loaded", "loading", "unloaded")}
        return document(found, 200 if ok else 503, None if ok else {"Retry-After": "5"})

    async def metrics(self, request: Request) -> Response:
        return Response(self._service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def models(self, request: Request) -> Response:
        self._service.ready()
        every = [(name, one) for one in self._service.models.all for name in one.names]
        if "anthropic-version" in request.headers:
            cards = [_anthropic_card(name, one) for name, one in every]
            ends = {"first_id": cards[0]["id"], "last_id": cards[-1]["id"], "has_more": False}
            return document({"data": cards, **ends})
        data = [self._card(name, one) for name, one in every]
        return document({"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        """A model, with the defaults of its options; if it is loaded, also with what it computes with."""
        self._service.ready()
        name, hosted = self._service.select(request.path_params["name"])
        if "anthropic-version" in request.headers:
            return document(_anthropic_card(name, hosted))
        model = hosted.model
        defaults = {**{name: DEFAULTS[name] for name in OPTIONS}, "max_tokens": None}
        if model is None:
            return document({**self._card(name, hosted), "defaults": defaults})
        info = model.info()
        return document(
            {
                **self._card(name, hosted),
                "architecture": info.architecture,
                "parameters": info.parameters,
                "quantisation": info.quantisation,
                "threads": info.threads,
                "isa": info.isa,
                "kv": info.kv,
                "precision": info.precision,
                "system_fingerprint": hosted.fingerprint,
                "has_chat_template": self._service.template(model) is not None,
                "defaults": defaults,
            }
        )

    def _card(self, name: str, hosted: Hosted) -> dict[str, Any]:
        card = {"id": name, "object": "model", "created": hosted.created, "owned_by": "pellucid"}
        if hosted.context:  # else it was never loaded
            card["max_model_len"] = hosted.context
        return {**card, "state": hosted.state}

    async def slots(self, request: Request) -> Response:
        """The current requests, without their texts."""
        now, found = time.monotonic(), []
        for one in sorted(self._service.running, key=lambda running: running.record.begun):
            record = one.record
            found.append(
                {
                    "id": record.id,
                    "state": "waiting" if one.waits else "running",
                    "path": record.path,
                    "key": record.key,
                    "model": record.model,
                    "stream": one.stream,
                    "n": one.n,
                    "new_tokens": record.new,
                    "seconds": round(now - record.begun, 3),
                }
            )
        return document(found)


def _anthropic_card(name: str, hosted: Hosted) -> dict[str, Any]:
    created = datetime.fromtimestamp(hosted.created, UTC).isoformat().replace("+00:00", "Z")
    return {"type": "model", "id": name, "display_name": name, "created_at": created}


class Text:
    """The POST endpoints for text and tokens. kind: tokenize, detokenize or apply_template."""

    def __init__(self, service: Service, kind: str) -> None:
        self._service = service
        self._work, self._known = {
            "tokenize": (_tokenize, _OF_TOKENIZE),
            "detokenize": (_detokenize, _OF_DETOKENIZE),
            "apply_template": (_apply_template, _OF_TEMPLATE),
        }[kind]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self._service
        service.ready()
        body = {name: value for name, value in (await read(service, scope, receive)).items() if value is not None}
        record = scope["state"]["record"]
        if self._work is _apply_template:
            fields = Fields(body, service.settings.limits)
            fields.refuse(_REFUSED)
            body = {name: value for name, value in body.items() if name in fields.rest}
        unknown = sorted(body.keys() - self._known)
        check_known(unknown, service.settings)
        with failing(record.id, {"text": _text_field(body), "ids": "tokens"}):
            given = body.get("model")
            _, hosted = service.select(None if given is None else checks.string("model", given), record)
            async with service.models.use(hosted) as model:
                made = await service.text(lambda: dumps(self._work(model, body, service.settings), apart=True))
        await whole(send, made, unknown)


_OF_TOKENIZE = frozenset(
    "model prompt content add_special add_special_tokens parse_special with_pieces return_token_strs".split()
)
_OF_DETOKENIZE = frozenset({"model", "tokens", "special"})
_TEMPLATE = (
    "tools", "tool_choice", "documents", "chat_template_kwargs", "reasoning_effort", "thinking_budget",
    "add_generation_prompt",
)  # fmt: skip
# The same as in chats.
_REFUSED = {
    name: (REFUSED | OF_CHATS)[name]
    for name in ("chat_template", "continue_final_message", "enable_thinking", "reasoning", "system", "thinking")
}
_OF_TEMPLATE = frozenset({"model", "messages", *_TEMPLATE})


def _text_field(body: dict[str, Any]) -> str:
    """The name of the text in vLLM's interface, or in llama-server's."""
    return "prompt" if "prompt" in body else "content"


def _tokenize(model: Model, body: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """vLLM's and llama-server's."""
    name = _text_field(body)
    text = checks.string(name, body.get(name), "a text")
    special = "add_special" if "add_special" in body else "add_special_tokens"
    llama = name == "content"  # whose defaults are llama-server's
    add = checks.flag(special, body.get(special, not llama))
    with arguments.named("text"):
        tokens = model.tokenize(text, add, checks.flag("parse_special", body.get("parse_special", llama)))
    found: dict[str, Any] = {"tokens": tokens, "count": len(tokens), "max_model_len": model.context_length}
    if checks.flag("with_pieces", body.get("with_pieces", False)):
        found["tokens"] = [{"id": id, "piece": _piece(model.core.piece(id, special=True))} for id in tokens]
    if checks.flag("return_token_strs", body.get("return_token_strs", False)):
        found["token_strs"] = [model.core.spell(id) for id in tokens]
    return found


def _piece(piece: bytes) -> str | list[int]:
    """A token's text, or its bytes if they are not whole characters."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


def _detokenize(model: Model, body: dict[str, Any], settings: Settings) -> dict[str, Any]:
    core = model.core
    tokens = core.check_ids(body.get("tokens", []), "tokens", empty=True)
    special = checks.flag("special", body.get("special", True))
    text = core.detokenize(tokens, special=special)  # as llama-server and vLLM: with special tokens' spellings
    return {"content": text, "prompt": text}


def _apply_template(model: Model, body: dict[str, Any], settings: Settings) -> dict[str, Any]:
    names = {"chat_template_kwargs": "variables"}
    options = {names.get(name, name): body[name] for name in _TEMPLATE if name in body}
    messages = body.get("messages")
    if isinstance(messages, list):
        most = settings.limits.messages
        if len(messages) > most:
            raise ValueError(f"messages has {len(messages)} entries: expected at most {most}")
        messages = [message_of(one) for one in messages]  # as chats read them
    prompt = model.chat_prompt(messages, template=settings.template, **options)  # type: ignore[arg-type]  # it names what is wrong
    return {"prompt": prompt.text, "tokens": prompt.ids, "count": len(prompt.ids)}
