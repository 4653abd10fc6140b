"""A hub on localhost that misbehaves on demand."""

from __future__ import annotations

import hashlib
import http.server
import json
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    sent: int = 0  # bytes of the body


@dataclass
class Hub:
    """Serves `files` (path -> bytes). `faults`: per path, what to do instead for the next requests, in order.

    A fault gets the handler and the bytes. pace: seconds before each 16 KB.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    pace: float = 0.0
    etags: bool = True

    def __post_init__(self) -> None:
        self.faults: dict[str, list[Callable[..., None]]] = defaultdict(list)
        self.requests: list[Request] = []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.close_connection = True
                self.seen = Request(self.path, {k.lower(): v for k, v in self.headers.items()})
                hub.requests.append(self.seen)
                path = self.path.partition("?")[0]
                if hub.faults[path]:
                    hub.faults[path].pop(0)(self, hub.files.get(path, b""))
                elif path not in hub.files:
                    self.answer(404)
                else:
                    self.give(hub.files[path])

            def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
                self.send_response(code)
                for key, value in {"Content-Length": str(len(body)), "Connection": "close", **headers}.items():
                    self.send_header(key.replace("_", "-"), value)
                self.end_headers()
                self.body(body)

            def give(self, data: bytes, *, ranges: bool = True, stop: int | None = None) -> None:
                """Sends the file, or the requested range. stop: drop the connection after so many bytes of the body."""
                etag = f'"{hashlib.md5(data).hexdigest()}"' if hub.etags else ""
                wanted = self.headers.get("Range", "") if ranges else ""
                start, code = 0, 200
                if wanted and self.headers.get("If-Range", etag) == etag:
                    start, code = int(wanted.removeprefix("bytes=").removesuffix("-")), 206
                self.send_response(code)
                self.send_header("Content-Length", str(len(data) - start))
                self.send_header("Connection", "close")
                if etag:
                    self.send_header("ETag", etag)
                if code == 206:
                    self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
                self.end_headers()
                self.body(data[start:][:stop])

            def body(self, data: bytes) -> None:
                try:
                    for i in range(0, len(data), 16384):
                        time.sleep(hub.pace)
                        self.wfile.write(data[i : i + 16384])
                        self.seen.sent += len(data[i : i + 16384])
                except OSError:  # the client has gone
                    pass

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def model(self, name: str, files: dict[str, bytes], *, revision: str = "main", **card: object) -> None:
        """Serves a model: its listing, and its files as large ones (*.json as small ones)."""
        siblings = []
        for path, data in files.items():
            self.files[f"/{name}/resolve/{COMMIT}/{path}"] = data
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            entry: dict[str, object] = {"rfilename": path, "size": len(data), "blobId": blob}
            if not path.endswith(".json"):
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        answer = {"sha": COMMIT, "siblings": siblings, "gated": card.pop("gated", False), "cardData": card}
        self.files[f"/api/models/{name}/revision/{revision}"] = json.dumps(answer).encode()

    def file(self, name: str, path: str) -> str:
        return f"/{name}/resolve/{COMMIT}/{path}"

    def sent(self, path: str) -> int:
        """Bytes of this file that were sent."""
        return sum(r.sent for r in self.requests if r.path.partition("?")[0] == path)


def status(code: int, **headers: str) -> Callable[..., None]:
    return lambda handler, data: handler.answer(code, b"sorry", **headers)


def drop(after: int) -> Callable[..., None]:
    return lambda handler, data: handler.give(data, stop=after)


def instead(other: bytes, **headers: str) -> Callable[..., None]:
    return lambda handler, data: handler.answer(200, other, **headers)


def redirect(to: str, code: int = 302, **headers: str) -> Callable[..., None]:
    return lambda handler, data: handler.answer(code, Location=to, **headers)


class Raw:
    """Answers each connection, once its request has come, with the next of `answers` (the last one again and again):
    bytes, or a function that is given the connection. A context manager."""

    def __init__(self, *answers: bytes | Callable[[socket.socket], None]) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Raw:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)  # ends accept()
        self.listener.close()
        self.thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            with connection, suppress(OSError):
                request = b""
                while b"\r\n\r\n" not in request and (more := connection.recv(65536)):
                    request += more
                self.requests.append(request)
                if callable(answer):
                    answer(connection)
                else:
                    connection.sendall(answer)
