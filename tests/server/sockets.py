"""A server with sockets, in a thread of the test's process, and raw connections to it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pellucid import Model
from pellucid.server.run import Server, listen
from pellucid.server.service import Service
from pellucid.server.settings import Limits, Settings

WAIT = 30.0  # seconds after which a test fails


class Running:
    """port: that it listens on."""

    def __init__(self, port: int, service: Service) -> None:
        self.port = port
        self.service = service

    def connect(self, receive_buffer: int = 0) -> socket.socket:
        made = socket.socket()
        if receive_buffer:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        made.settimeout(WAIT)
        made.connect(("127.0.0.1", self.port))
        return made

    def exchange(self, data: bytes) -> bytes:
        """Sends, and reads until the server closes."""
        with self.connect() as connection:
            connection.sendall(data)
            return rest(connection)

    def until(self, what: Callable[[], bool]) -> None:
        end = time.monotonic() + WAIT
        while not what():
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.01)

    def settled(self) -> None:
        """Waits until no request runs."""
        self.until(lambda: not self.service.running)


@contextmanager
def running(
    model: Model,
    send_buffer: int = 0,
    grace: float = 5,
    keys: Any = (),
    origins: Any = (),
    look: bool = False,
    **limits: Any,
) -> Iterator[Running]:
    settings = Settings(names=("m",), grace=grace, keys=keys, origins=origins, look=look, limits=Limits(**limits))
    listener = listen("127.0.0.1", 0)
    if send_buffer:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)  # connections inherit it
    loaded = threading.Event()
    server = Server(Service(settings), lambda: model, lambda _: loaded.set())
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve(sockets=[listener])

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    port = listener.getsockname()[1]
    thread.start()
    try:
        assert loaded.wait(WAIT)
        yield Running(port, server.service)
    finally:
        loops[0].call_soon_threadsafe(server.stop)
        thread.join(WAIT)
        server.service.close()
        assert not thread.is_alive()


def request(body: Any, path: str = "/v1/completions", more: str = "") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{more}"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


def rest(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    found = bytearray()
    while True:
        try:
            part = connection.recv(1 << 16)
        except ConnectionResetError:
            part = b""
        if not part:
            return bytes(found)
        found += part


def reset(connection: socket.socket) -> None:
    """Closes with RST in place of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
