"""Merges the pieces of several running requests as they are made."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from pellucid.results import Piece
from pellucid.schedule.request import Request

__all__ = ["Feed"]

AHEAD = 64  # pieces that wait for the client; then they wait in the requests


class Feed:
    """The pieces of requests, each with the number of its choice. n: choices of each request. An asynchronous context
    manager, which cancels the requests that still run at the end."""

    def __init__(self, requests: Sequence[Request], n: int) -> None:
        self._requests = requests
        self._ready: deque[tuple[int, Piece]] = deque()
        self._room = asyncio.Event()
        self._failure: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._left = len(requests)
        self._tasks = [asyncio.ensure_future(self._pump(i * n, one)) for i, one in enumerate(requests)]

    async def __aenter__(self) -> Feed:
        return self

    async def __aexit__(self, *error: object) -> None:
        for request in self._requests:
            request.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks, self._failure = [], None  # their errors' tracebacks refer to this object

    async def _pump(self, first: int, request: Request) -> None:
        try:
            async for piece in request:
                while len(self._ready) >= AHEAD:
                    self._room.clear()
                    await self._room.wait()
                self._ready.append((first + piece.index, piece))
                self._wake()
        except Exception as error:
            self.fail(error)
        finally:
            self._left -= 1
            self._wake()

    def fail(self, error: BaseException) -> None:
        """Ends it: `take` raises the error, after the pieces so far."""
        if self._failure is None:
            self._failure = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self, seconds: float) -> list[tuple[int, Piece]] | None:
        """The pieces so far; an empty list if there were none for that many seconds; None at the end."""
        if not self._ready and self._failure is None and self._left:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = loop.call_later(seconds, self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        if self._ready:
            found = list(self._ready)
            self._ready.clear()
            self._room.set()
            return found
        if self._failure is not None:
            raise self._failure
        return [] if self._left else None
