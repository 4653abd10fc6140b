"""What several running requests give, together, as it comes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from pellucid.results import FinishReason, Piece, TokenLogprob, ToolCall, ToolCallDelta, joined
from pellucid.schedule.request import Request

__all__ = ["Feed", "Part", "merged"]

AHEAD = 64  # pieces that wait for the client; then they wait in the requests


@dataclass(slots=True)
class Part:
    """What came of one choice: one piece, or several together."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: FinishReason | None = None
    prompt_tokens: int = 0
    stop_string: str | None = None
    reasoning: str = ""
    calls: list[ToolCallDelta] = field(default_factory=list)
    reasoning_tokens: int = 0

    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls, whole."""
        return joined(self.calls)

    def deltas(self) -> list[ToolCallDelta]:
        """What came of calls, joined for each."""
        found: list[ToolCallDelta] = []
        for one in self.calls:
            if found and one.index == found[-1].index:
                found[-1] = found[-1]._replace(arguments=found[-1].arguments + one.arguments)
            else:
                found.append(one)
        return found

    def add(self, piece: Piece) -> None:
        """Its log probabilities have that of the token that ended the text, too."""
        self.text += piece.text
        self.ids += piece.ids
        self.logprobs += piece.logprobs
        self.reasoning += piece.reasoning
        self.calls += piece.tool_calls
        if piece.end is not None:
            self.logprobs.append(piece.end)
        if piece.finish_reason is not None:
            self.finish = piece.finish_reason
            self.prompt_tokens = piece.prompt_tokens
            self.reasoning_tokens = piece.reasoning_tokens
            self.stop_string = piece.stop_string


def merged(pieces: Sequence[tuple[int, Piece]], parts: dict[int, Part] | None = None) -> dict[int, Part]:
    """The pieces of each choice, joined."""
    parts = {} if parts is None else parts
    for index, piece in pieces:
        parts.setdefault(index, Part()).add(piece)
    return parts


class Feed:
    """Pieces of requests, each with the number of its choice. n: choices of each request. An asynchronous context
    manager, which cancels what still runs at its end."""

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
        """Ends it: `take` raises the error, after what came before."""
        if self._failure is None:
            self._failure = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self, seconds: float) -> list[tuple[int, Piece]] | None:
        """What has come; an empty list where nothing came for that long; None at the end."""
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
