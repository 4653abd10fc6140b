"""The server itself: sockets, signals, loading, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import uvicorn

from pellucid.errors import PellucidError, one_line, os_reason
from pellucid.model import Model
from pellucid.server.app import make_app
from pellucid.server.failures import stopping
from pellucid.server.models import Hosted, Source, at_work, wait_for_writes
from pellucid.server.protocol import Protocol
from pellucid.server.record import log
from pellucid.server.service import Service
from pellucid.server.settings import Settings

__all__ = ["Server", "listen", "listen_unix", "serve"]

SIGNALS = signal.SIGTERM, signal.SIGINT
SWITCH = 0.0002  # seconds that a thread may keep the interpreter while another wants it
LAST = 1.0  # seconds for the last bytes of answers, after all requests were ended


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises PellucidError if the address cannot be bound."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise PellucidError(f"{one_line(host, 80)}: no such host") from None
    family, kind, protocol, _, address = found[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(1024)
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise PellucidError(f"port {port} is in use; --port 0 takes a free one") from None
        message = f"cannot listen on {one_line(host, 80)}, port {port}: {os_reason(error)}"
        raise PellucidError(message) from None
    return made


def listen_unix(path: str) -> socket.socket:
    """A listening Unix socket, for this user alone. One that an earlier server left is replaced."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.exists(path):
            if not stat.S_ISSOCK(os.stat(path).st_mode):
                raise PellucidError(f"{one_line(path, 200)}: exists and is not a socket")
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
                if other.connect_ex(path) == 0:
                    raise PellucidError(f"{one_line(path, 200)}: in use")
            os.unlink(path)
        before = os.umask(0o177)
        try:
            made.bind(path)
        finally:
            os.umask(before)
        made.listen(1024)
    except (OSError, ValueError) as error:
        made.close()
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise PellucidError(f"cannot listen on {one_line(path, 200)}: {reason}") from None
    except PellucidError:
        made.close()
        raise
    return made


def serve(
    sources: Sequence[Source], settings: Settings, listener: socket.socket, ready: Callable[[Hosted | None], None]
) -> None:
    """Serves until SIGTERM or SIGINT. sources: the models; a single one is loaded immediately, in a thread, and the
    server answers 503 meanwhile. ready: called when requests are answered, with the single model, or with None if there
    are several. Raises what loading the single model raised."""
    before = sys.getswitchinterval()
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    sys.setswitchinterval(SWITCH)
    try:
        alone = sources[0].load if len(sources) == 1 else None
        service = Service(settings, sources=() if alone else sources)
        with _logging(settings.log_json):
            try:
                server = Server(service, alone, ready)
                asyncio.run(server.serve(sockets=[listener]))
            finally:
                service.close()
            wait_for_writes()
            if not at_work():
                server.wait()
            service.models.close()
        if at_work() or service.at_work:  # the process must not wait for it
            _exit(0)
        if server.failure is not None:
            raise server.failure
    finally:
        sys.setswitchinterval(before)
        for number, handler in handlers.items():
            with contextlib.suppress(ValueError, TypeError):  # not the main thread; no handler of Python's
                signal.signal(number, handler)


def _exit(code: int) -> NoReturn:
    """Ends the process, whatever its threads do."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


class _AsJson(logging.Formatter):
    """Formats other messages than the lines of requests as JSON, too, so that every line of the log is JSON."""

    def format(self, record: logging.LogRecord) -> str:
        if getattr(record, "is_request", False):
            return record.getMessage()
        found = {"time": round(record.created, 3), "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            found["traceback"] = self.formatException(record.exc_info)
        return json.dumps(found)


@contextlib.contextmanager
def _logging(as_json: bool) -> Iterator[None]:
    """Logs a line per request on stderr; of uvicorn's own messages, only critical ones."""
    handler = logging.StreamHandler()
    handler.setFormatter(_AsJson() if as_json else logging.Formatter("%(message)s"))
    other = logging.getLogger("uvicorn.error")
    levels = log.level, log.propagate, other.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    other.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = levels[1]
        log.setLevel(levels[0])  # which, unlike the attribute, also drops what loggers remember of their levels
        other.setLevel(levels[2])


class _Config(uvicorn.Config):  # type: ignore[misc]  # Any where uvicorn is not installed
    def __init__(self, service: Service) -> None:
        self.service = service
        super().__init__(
            make_app(service),
            http=Protocol,
            loop="asyncio",
            ws="none",
            interface="asgi3",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=max(int(service.settings.limits.idle_seconds), 1),
            timeout_graceful_shutdown=1,
        )


class Server(uvicorn.Server):  # type: ignore[misc]
    """The server. load: loads the only model; None: there are several. ready: as in `serve`. failure: what `load`
    raised."""

    def __init__(
        self, service: Service, load: Callable[[], Model] | None, ready: Callable[[Hosted | None], None]
    ) -> None:
        super().__init__(_Config(service))
        self.service = service
        self.failure: BaseException | None = None
        self._load = load
        self._ready = ready
        self._tasks: set[asyncio.Task[None]] = set()
        self._start: threading.Thread | None = None

    def wait(self) -> None:
        """Waits until the only model is prepared, which takes a second or two."""
        if self._start is not None:
            self._start.join()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles signals: the first drains, a second one ends the process."""
        loop = asyncio.get_running_loop()
        taken = []
        for number in SIGNALS:
            with contextlib.suppress(ValueError, RuntimeError):  # not the main thread
                loop.add_signal_handler(number, self._signal, number)
                taken.append(number)
        try:
            yield
        finally:
            for number in taken:
                loop.remove_signal_handler(number)
                signal.signal(number, lambda number, _: _exit(128 + number))

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self._load is None:
            self._ready(None)
            return
        loop, load = asyncio.get_running_loop(), self._load
        self.service.models.all[0].load = load  # for loading it again after it was unloaded
        # Not a daemon thread: the native code of llguidance crashes if it still runs when the interpreter exits.
        self._start = threading.Thread(target=self._loading, args=(loop, load), name="pellucid start")
        self._start.start()

    def _loading(self, loop: asyncio.AbstractEventLoop, load: Callable[[], Model]) -> None:
        try:
            model = load()
            self.service.loaded(model)
            self._ready(self.service.models.all[0])
            self.service.prepare(model)
        except BaseException as error:
            self.failure = error
            with contextlib.suppress(RuntimeError):  # the loop ended meanwhile
                loop.call_soon_threadsafe(self.stop)

    def stop(self) -> None:
        """Ends it immediately. To be called in the event loop."""
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        if counter % 5 == 0:
            now = time.monotonic()
            self.service.models.tick(now)
            self.service.edited.tick(now)
            for connection in list(self.server_state.connections):
                if isinstance(connection, Protocol):
                    connection.check(now)
        ends: bool = await super().on_tick(counter)
        return ends

    # ---- the end ----------------------------------------------------------------------------------------------

    def _signal(self, number: int) -> None:
        service = self.service
        if service.draining or service.state == "loading":
            _exit(128 + number if service.draining else 0)
        service.draining = True
        task = asyncio.ensure_future(self._drain())
        self._tasks.add(task)

    async def _drain(self) -> None:
        """Ends the waiting requests; running ones have the grace period."""
        service = self.service
        told = stopping()
        for one in list(service.running):
            if one.waits:
                one.end(told)
        log.info("stopping: %d requests run", len(service.running))
        await self._wait(service.settings.grace)
        for one in list(service.running):
            one.end(told)
        await self._wait(LAST)
        self.should_exit = True

    async def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self.service.running and time.monotonic() < until:
            await asyncio.sleep(0.02)
