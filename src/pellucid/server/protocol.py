"""HTTP over one connection: uvicorn's, with the limits that it lacks.

It stays HTTP/1.1: a request to change the protocol is answered like any other (Java's client begins with one).

A header must arrive completely within its time and size, then the body within its time; a client that reads nothing of
what was sent to it is dropped. The number of connections is limited: a new one replaces the one whose client has been
silent for longest, or is refused if all are being answered. A connection on which too many requests wait behind another
is closed. The server checks every connection twice a second.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from pellucid.server.failures import Failure, busy
from pellucid.server.record import Record
from pellucid.server.service import Service
from pellucid.server.settings import Limits
from pellucid.server.shapes import dumps

__all__ = ["Protocol"]

MOST_BEHIND = 128  # requests that wait for the answer to another on their connection


class _TooLong(Exception):
    """The header is too long."""


class _NoProxy(Exception):
    """CONNECT asks for a proxy, which this server is not."""


class _TooMany(Exception):
    """Too many requests wait behind another."""


class _Counting:
    """A transport that counts what is written to it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.written = 0

    def write(self, data: bytes) -> None:
        self.written += len(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Answering:
    """The transport of an answer. It is closed only after its request's body: if it were closed while the body is still
    arriving, the client would not see the answer. A client that waits for `100 Continue` sends no body."""

    def __init__(self, protocol: Protocol, cycle: Any, waits: bool) -> None:
        self._protocol, self._cycle, self._waits = protocol, weakref.ref(cycle), waits  # the cycle has it
        self._transport = protocol.transport

    def write(self, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1 100"):
            self._waits = False
        self._transport.write(data)

    def close(self) -> None:
        if self._waits or not self._protocol.close_behind(self._cycle()):
            self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Parser:
    """httptools' parser. That takes whatever follows a header with `Upgrade`, even a body, for another protocol; here
    the header is parsed again without `Upgrade`."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpRequestParser(self._protocol)
        # What follows a request with `Connection: close` is left, and does not end its answer.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def feed_data(self, data: bytes) -> None:
        while data:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as error:
                head = self._protocol.head()
                self._begin()
                data = head + data[error.args[0] :]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)


class _Unframed(RequestResponseCycle):  # type: ignore[misc]  # Any where uvicorn is not installed
    """An answer in HTTP/1.0, which has no chunks: one without a length ends when the connection is closed."""

    scope: Any

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            if all(name != b"content-length" for name, _ in message["headers"]):
                self.scope = {**self.scope, "method": "HEAD"}  # uvicorn then frames and writes no body
        elif self.scope["method"] == "HEAD":
            if self.flow.write_paused and not self.disconnected:
                await self.flow.drain()
            if not self.disconnected:
                self.transport.write(message.get("body", b""))
        await super().send(message)


def _full() -> Failure:
    return busy(503, "too many connections", "too_many_connections", 5)


class Protocol(HttpToolsProtocol):  # type: ignore[misc]  # Any where uvicorn is not installed
    """config: has `service`, too."""

    limits: Limits

    def __init__(self, config: Any, server_state: Any, app_state: Any, _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.transport: Any
        self.parser = _Parser(self)
        self._again = False  # the header is parsed again
        self._service: Service = config.service
        self.limits = self._service.settings.limits
        now = time.monotonic()
        self._header_since: float | None = None  # a header is incomplete
        self.heard = now  # when something last arrived, or the last answer was complete
        self._header_bytes = 0  # of an incomplete header, except those that arrived with its first byte
        self._header_begins = False
        self._body_since: float | None = None  # a body is incomplete
        self._taken, self._taken_since = 0, now  # bytes that the client's side has read
        self._cycles: deque[Any] = deque()  # requests in the order of their answers; answered ones are removed
        self._behind = 0  # bytes that arrived while requests waited for the answer to another
        self._too_long = False
        self._ends = False  # the connection is closed when the body has arrived

    # ---- events of the connection -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(_Counting(cast(asyncio.Transport, transport)))
        if len(self.connections) > self.limits.connections and not self._make_room():
            self._refuse(_full())

    def _make_room(self) -> bool:
        """Ends the connection whose client has been silent for longest -> whether there was any."""
        silent = [one for one in self.connections if one is not self and one.awaits_client]
        if silent:
            min(silent, key=lambda one: one.heard)._refuse(_full())
        return bool(silent)

    @property
    def awaits_client(self) -> bool:
        """Whether the server waits for the client to send more."""
        return not self.transport.is_closing() and (self._body_since is not None or not self._answering)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self.heard = time.monotonic()
        if self._header_since is None and self._body_since is None and not self._answering:
            self._header_since = time.monotonic()  # the next request begins
        super().data_received(data)
        if self._header_begins:
            self._header_begins = False
        elif self._header_since is not None and not self.transport.is_closing():
            self._header_bytes += len(data)
            if self._header_bytes > self.limits.header:
                self._too_long = True
                self.send_400_response("")
        self._behind = self._behind + len(data) if self.pipeline else 0
        if 0 < self._behind <= self.limits.header:  # uvicorn paused reading, and would not notice a close
            self.flow.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._drop_cycles()

    def _drop_cycles(self) -> None:
        """Tells every request that its client is gone."""
        for cycle in self._cycles:
            cycle.disconnected = True
            cycle.message_event.set()

    @property
    def _answering(self) -> bool:
        while self._cycles and self._cycles[0].response_complete:
            self._cycles.popleft()
        return bool(self._cycles)

    # ---- events of the parser ---------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._header_since = self._header_since or time.monotonic()
        self._header_bytes = self._parsed = 0
        self._header_begins = True

    def on_url(self, url: bytes) -> None:
        self._grow(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._grow(len(name) + len(value) + 4)
        if self._body_since is None:  # else it is a trailer of a chunked body, not part of the header
            super().on_header(name, value)

    def _grow(self, n: int) -> None:
        self._parsed += n
        if self._parsed > self.limits.header:
            self._too_long = True
            raise _TooLong

    def head(self) -> bytes:
        """The header that was parsed last, without `Upgrade`."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (method, self.url, version)]
        lines += [b"%b: %b" % (name, value) for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def on_headers_complete(self) -> None:
        self._again = self.parser.should_upgrade()
        if self._again:
            if self.parser.get_method() == b"CONNECT":
                raise _NoProxy
            return
        if len(self.pipeline) == MOST_BEHIND:
            raise _TooMany
        self._header_since, self._header_begins = None, False
        self._body_since = time.monotonic()
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0" and self.scope["method"] != "HEAD":
            self.cycle.__class__ = _Unframed
        self.cycle.transport = _Answering(self, self.cycle, self.expect_100_continue)
        self._cycles.append(self.cycle)

    def on_message_complete(self) -> None:
        if self._again:
            return
        self._body_since = None
        super().on_message_complete()
        if self._ends:
            self.transport.close()

    def close_behind(self, cycle: Any) -> bool:
        """Whether this request's body is still arriving; then the connection is closed after it."""
        self._ends = cycle is self.cycle and self._body_since is not None
        return self._ends

    def on_response_complete(self) -> None:
        self.heard = time.monotonic()
        if self._header_since is not None:  # the next request's, which arrived while this one was answered
            self._header_since = time.monotonic()
        super().on_response_complete()

    # ---- what is refused --------------------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        """Called for data that is not HTTP, too."""
        if self._too_long:
            text = f"the header is longer than {self.limits.header} bytes"
            self._refuse(Failure(431, text, code="header_too_long"))
        else:
            self._refuse(Failure(400, "this is not an HTTP request", code="invalid_http"))

    def _refuse(self, told: Failure) -> None:
        if self.transport.is_closing():
            return
        answering = self._answering
        if not answering or (len(self._cycles) == 1 and not self._cycles[0].response_started):
            body = dumps(told.body())
            record = Record("-", "-", status=told.status, reason=told.reason)
            headers = {
                "content-type": "application/json",
                "content-length": str(len(body)),
                "connection": "close",
                "x-request-id": record.id,
                **told.headers,
            }
            head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            self.transport.write(STATUS_LINE[told.status] + head.encode() + b"\r\n" + body)
            self._service.ended(record)
        # Within another answer, an error would be read as part of it.
        self._drop_cycles()
        self.transport.close()

    def check(self, now: float) -> None:
        """Ends the connection if its time is up."""
        limits = self.limits
        unsent = self.transport.get_write_buffer_size()
        taken = self.transport.written - unsent
        if not unsent or taken > self._taken:
            self._taken, self._taken_since = taken, now
        if unsent and now - self._taken_since > limits.stalled_seconds:
            self.transport.abort()
        elif self.transport.is_closing():
            return
        elif self._header_since is not None and not self._answering:
            if now - self._header_since > limits.header_seconds:
                text = f"the header did not arrive within {limits.header_seconds:g} s"
                self._refuse(Failure(408, text, code="request_timeout"))
        elif self._body_since is None and not self._answering:
            if now - self.heard > limits.idle_seconds:
                self.transport.close()
        elif self._body_since is not None and not self.pipeline:
            if now - self._body_since > limits.body_seconds:
                text = f"the body did not arrive within {limits.body_seconds:g} s"
                if not self._answering:  # it has already been answered
                    self.transport.close()
                self._refuse(Failure(408, text, code="request_timeout"))
