"""A client of the application in the same process and event loop, without sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pellucid.server.gate import Gate

HEADERS = {"host": "127.0.0.1:8080", "content-type": "application/json"}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json["error"]
        assert {"message", "type", "param", "code"} <= set(found), found
        return found

    @property
    def events(self) -> list[Any]:
        """The data of a stream; its end is "[DONE]"."""
        lines = [e for e in self.body.decode().split("\n\n") if e and not e.startswith(":")]
        assert all(line.startswith("data: ") for line in lines), lines
        return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


async def ask(
    app: Gate,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    *,
    leave: asyncio.Event | None = None,
) -> Answer:
    """One request. body: bytes, or what becomes JSON. headers: beside the usual ones; "" leaves one out. leave: the
    client disconnects when it is set."""
    raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    wanted = {name: value for name, value in {**HEADERS, **(headers or {})}.items() if value}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path.partition("?")[0],
        "raw_path": path.encode(),
        "query_string": path.partition("?")[2].encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in wanted.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8080),
    }
    sent = [{"type": "http.request", "body": raw, "more_body": False}]
    status, found, out = 0, {}, bytearray()
    gone = leave or asyncio.Event()

    async def receive() -> Any:
        if sent:
            return sent.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal status, found
        if message["type"] == "http.response.start":
            status = message["status"]
            found = {name.decode(): value.decode("latin-1") for name, value in message["headers"]}
        else:
            out.extend(message.get("body", b""))

    await app(scope, receive, send)
    return Answer(status, found, bytes(out))


def call(app: Gate, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
    """`ask` in an event loop of its own."""
    return asyncio.run(ask(app, method, path, body, headers))
