"""The gate of every request: checks of its Host, its key and pages' origins; then its errors, log line and metrics."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pellucid.errors import one_line
from pellucid.server.access import Hosts, Keys
from pellucid.server.failures import Disconnected, Failure, failure, stopping, told
from pellucid.server.record import Record, log
from pellucid.server.service import Service
from pellucid.server.shapes import dumps

__all__ = ["Gate"]

OPEN = ("/health", "/")  # without a key
METHODS = b"GET, POST, DELETE"
EXPOSED = b"x-request-id, retry-after, pellucid-ignored, pellucid-warning, pellucid-type, pellucid-shape"
HEADERS = b"authorization, *"  # OpenAI's and Anthropic's clients send a dozen of their own; * covers all but the first


class Gate:
    """The outermost application."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        settings = service.settings
        self._hosts = Hosts(settings.bound, settings.hosts)
        self._keys = Keys(settings.keys)
        self._origins = frozenset(settings.origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await _lifespan(receive, send)
            return
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        record = Record(path=one_line(scope["path"], 100), method=scope["method"][:20])
        scope["state"] = {"record": record, "headers": headers}
        extra = [(b"x-request-id", record.id.encode()), *self._cors(headers)]
        models = record.path.startswith("/v1/models") and "anthropic-version" in headers
        record.anthropic = models or record.path.startswith("/v1/messages")
        if record.anthropic:
            extra.append((b"request-id", record.id.encode()))  # as clients of that interface know it
        out = _Out(send, record, extra)
        try:
            await self._pass(scope, receive, out, headers)
        except Disconnected:
            record.disconnected = True
        except asyncio.CancelledError:  # the server ends while the body is read or text is tokenised
            if out.started:
                raise
            await self._fail(stopping(), record, out)
        except Exception as error:
            await self._fail(error, record, out)
        finally:
            self._service.ended(record)

    async def _pass(self, scope: Scope, receive: Receive, out: _Out, headers: dict[str, list[str]]) -> None:
        old = scope["path"] == "/health" and scope.get("http_version") == "1.0"
        if not old or "host" in headers:  # probes of load balancers have none
            self._hosts.check(headers)
        asks = scope["method"] == "OPTIONS" and "access-control-request-method" in headers
        if asks and headers.get("origin", [""])[0] in self._origins:
            await out(_start(204, [(b"access-control-allow-methods", METHODS), (b"access-control-max-age", b"600")]))
            await out({"type": "http.response.body", "body": b""})
            return
        if not self._is_open(scope["path"]):
            key = self._keys.find(headers)
            scope["state"]["key"] = key
            scope["state"]["record"].key = key.name
        try:
            await self._app(scope, receive, out)
        except HTTPException as error:
            known = {404: ("not_found", "no such path"), 405: ("method_not_allowed", "wrong method for this path")}
            code, text = known.get(error.status_code, ("http_error", str(error.detail)))
            raise Failure(error.status_code, text, code=code, headers=dict(error.headers or {})) from None

    def _is_open(self, path: str) -> bool:
        """Whether a path needs no key: the app's files hold nobody's data."""
        return path in OPEN or (self._service.settings.ui and path.startswith("/ui/"))

    async def _fail(self, error: Exception, record: Record, out: _Out) -> None:
        found = failure(error, record.id, {})
        record.reason = found.reason
        if found.status == 500:
            log.error("request %s: %s", record.id, found.message, exc_info=found.cause or error)
        if out.started:
            raise error
        body = dumps(told(found, record))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(name.lower().encode(), value.encode("latin-1")) for name, value in found.headers.items()]
        await out(_start(found.status, headers))
        await out({"type": "http.response.body", "body": body})

    def _cors(self, headers: dict[str, list[str]]) -> list[tuple[bytes, bytes]]:
        """Headers for pages whose origin was allowed by name; never with credentials."""
        origin = headers.get("origin", [""])[0]
        if origin not in self._origins:
            return [(b"vary", b"origin")] if self._origins else []
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-allow-headers", HEADERS),
            (b"access-control-expose-headers", EXPOSED),
            (b"vary", b"origin"),
        ]


def _start(status: int, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers}


class _Out:
    """Adds headers to an answer, and notes its status."""

    def __init__(self, send: Send, record: Record, headers: list[tuple[bytes, bytes]]) -> None:
        self._send = send
        self._record = record
        self._headers = headers
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self._record.status = message["status"]
            message = {**message, "headers": [*message.get("headers", []), *self._headers]}
        else:
            self._record.complete = not message.get("more_body", False)
        await self._send(message)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
