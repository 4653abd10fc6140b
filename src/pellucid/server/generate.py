"""The endpoints that generate: from a request to its answer, whole or as a stream of events."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from starlette.types import Receive, Scope, Send

from pellucid import checks
from pellucid.errors import OutOfMemoryError
from pellucid.look.score import score
from pellucid.model import Model
from pellucid.openai.fields import Call, chat_call, completion_call
from pellucid.openai.parts import Part, merged
from pellucid.openai.shapes import usage
from pellucid.results import Piece, TokenLogprob
from pellucid.schedule import start
from pellucid.schedule.request import Request
from pellucid.schedule.run import of
from pellucid.server.body import parse, receive_body
from pellucid.server.failures import Disconnected, Failure, failing, failure, of_prompt, refused
from pellucid.server.feed import Feed
from pellucid.server.models import Hosted
from pellucid.server.record import log
from pellucid.server.service import Running, Service
from pellucid.server.settings import Settings
from pellucid.server.shapes import ChatShape, CompletionShape, Shape, dumps

__all__ = ["Generate", "chat_completions", "completions", "read", "until_left", "whole"]

T = TypeVar("T")

AHEAD = 256  # tokens that a request may be ahead of its client
LARGE = 65_536  # bytes from which a body is parsed in a thread
MANY = 10_000  # log probabilities from which an answer is written in a thread
NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)


def chat_completions(service: Service) -> Generate:
    return Generate(service, chat_call, ChatShape)


def completions(service: Service) -> Generate:
    return Generate(service, completion_call, CompletionShape)


async def read(service: Service, scope: Scope, receive: Receive) -> dict[str, Any]:
    """The object in a request's body."""
    body = await receive_body(receive, scope["state"]["headers"], service.settings.limits.body)
    service.ready()  # again, as the body may have taken a while
    return parse(body) if len(body) < LARGE else await service.text(partial(parse, body))


class Generate:
    """An endpoint. parse: reads the fields; shape: makes the objects of the answer."""

    def __init__(self, service: Service, parse: Callable[[dict[str, Any], Settings], Call], shape: type[Shape]) -> None:
        self._service = service
        self._parse = parse
        self._shape = shape

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, record = self._service, scope["state"]["record"]
        service.ready()
        body = await read(service, scope, receive)
        edits = body.pop("pellucid_edits", None)
        call = self._parse(body, service.settings)
        with failing(record.id, call.names):
            if edits is not None:
                call.extra["edits"] = checks.string("pellucid_edits", edits)
            _, hosted = service.select(call.model, record)
            call.priority = service.priority(call.priority, scope["state"]["key"])
            running = Running(record, call.stream, call.n)
            await self._respond(hosted, scope, receive, send, call, running)

    async def _respond(
        self, hosted: Hosted, scope: Scope, receive: Receive, send: Send, call: Call, running: Running
    ) -> None:
        answer = Answer(self._service, hosted, scope, send, call, running, self._shape)
        await until_left(receive, running, answer.run)


async def until_left(receive: Receive, running: Running, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The result of `work`. When the client leaves, cancels it and raises Disconnected."""
    task = asyncio.ensure_future(work())
    left = asyncio.ensure_future(_left(receive))
    running.task = task
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if running.record.complete:  # a client that has its whole answer counts as having left
            await asyncio.wait({task})
        if not task.done():
            raise Disconnected
        if task.cancelled():
            raise running.failure or Disconnected
        return task.result()
    finally:
        task.cancel()
        left.cancel()
        await asyncio.gather(task, left, return_exceptions=True)
        # An error's traceback refers to this frame, and the task to the error.
        running.task = running.feed = running.failure = None
        del task, left


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def ignored(names: Sequence[str]) -> list[tuple[bytes, bytes]]:
    """The header that names the fields that had no effect."""
    shown = [name for name in names if NAME.fullmatch(name)][:32]
    return [(b"pellucid-ignored", ", ".join(shown).encode())] if shown else []


async def whole(
    send: Send, body: bytes, without_effect: Sequence[str] = (), more: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    """Sends a JSON document as the answer. without_effect: fields of the request; more: headers."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": 200, "headers": [*headers, *ignored(without_effect)]})
    await send({"type": "http.response.body", "body": body})


class Answer:
    """One answer while it is made."""

    def __init__(
        self,
        service: Service,
        hosted: Hosted,
        scope: Scope,
        send: Send,
        call: Call,
        running: Running,
        shape: type[Shape],
    ) -> None:
        self.service = service
        self.hosted = hosted
        self.call = call
        self.running = running
        self.record = running.record
        self.model: Model  # once it is loaded
        self.shape: Shape
        self._make_shape = shape
        self.key = scope["state"]["key"]
        self.send = send
        self.started = False
        self.echoed: list[Part] = []
        self.parts: dict[int, Part] = {}  # without texts if they are streamed
        self.last: dict[int, float] = {}
        self.requests: list[Request] = []

    async def run(self) -> None:
        service = self.service
        service.running.add(self.running)
        try:
            async with service.models.use(self.hosted) as self.model:
                self.record.loading = time.monotonic() - self.record.begun
                edits = self.call.extra.get("edits")
                if edits is None:
                    await self._run()
                else:
                    async with service.edited.use(edits, self.key.name, self.hosted) as self.model:
                        await self._run()
        except OutOfMemoryError as error:
            raise service.crowded(error, self.running) from None
        finally:
            self._count()
            service.running.discard(self.running)

    async def _run(self) -> None:
        try:
            await self._answer()
        finally:  # before the model may be unloaded
            for request in self.requests:
                request.cancel()

    async def _answer(self) -> None:
        fingerprint, record = self.hosted.fingerprint, self.record
        self.shape = self._make_shape(self.model.core, record, fingerprint, self.call)
        await self._submit()
        async with Feed(self.requests, self.call.n) as feed:
            if self.call.echo:
                await self._echo()
            self.running.feed = feed
            if self.running.failure is not None:
                raise self.running.failure
            await (self._stream(feed) if self.call.stream else self._whole(feed))

    async def _submit(self) -> None:
        """Begins the generations; if one is refused, none runs."""
        call, limits = self.call, self.service.settings.limits
        queue: dict[str, Any] = {
            "n": call.n,
            "priority": call.priority,
            "key": self.key.name,
            "timeout": limits.request_seconds,
            "ahead": AHEAD,
            "cache_salt": call.salt if self.service.settings.share_cache else f"{self.key.name}\0{call.salt}",
        }
        options = {"speculate": self.service.settings.speculate, **call.options}
        common = {**queue, **options}
        submit = self.model.submit
        if call.messages is not None:
            if call.plain is not None and self.service.template(self.model) is None:
                given = [partial(submit, call.plain, **common)]
            else:
                common["template"] = self.service.settings.template
                given = [partial(submit, messages=call.messages, **call.template, **common)]
        elif len(call.prompts) == 1:
            given = [partial(submit, call.prompts[0], **common)]
        else:
            begin = partial(start.submit, self.model.core, admitted=True, **queue)
            given = [partial(begin, ids, None, None, options) for ids in await self._room()]
        for i, work in enumerate(given):
            with of_prompt(i if call.listed else None):
                self.requests.append(await self.service.text(work, lambda request: request.cancel()))
        self.running.requests = self.requests

    async def _room(self) -> list[list[int]]:
        """The tokens of several prompts. There must be room for all of them, or none begins; if nothing else is
        computed, there is. Raises QueueFullError."""
        core, prompts = self.model.core, []
        for i, prompt in enumerate(self.call.prompts):
            with of_prompt(i):
                prompts.append(await self.service.text(partial(core.prompt, prompt)))
        of(core).check_room(len(prompts) * self.call.n, sum(map(len, prompts)), self.key.name)
        return prompts

    # ---- the prompt in front ----------------------------------------------------------------------------------

    async def _echo(self) -> None:
        """What precedes each prompt's completions: its text, and the log probabilities of its tokens."""
        prompts, core = self.call.prompts, self.model.core
        if self.call.logprobs is not None:
            top, most = self.call.options["logprobs"], self.service.settings.limits.echoed
            found = sum(one.prompt_tokens for one in self.requests) * (1 + top) * self.call.n
            if found > most:
                text = f"={self.call.logprobs}: {found} log probabilities before the choices: expected at most {most}"
                raise refused("logprobs", text)
            work = partial(score, core, prompts, top, None)
            try:
                async with asyncio.timeout(self.service.settings.limits.request_seconds):
                    scores: Any = await self.service.score(self.model, work)
            except TimeoutError:
                raise self._late() from None
            for prompt, found in zip(prompts, scores, strict=True):
                first = TokenLogprob(found.ids[0], core.spell(found.ids[0]), math.inf, [])
                text = prompt if isinstance(prompt, str) else self.model.detokenize(found.ids)
                self.echoed.append(Part(text, [], [first, *found.tokens]))
        else:
            for prompt in prompts:
                self.echoed.append(Part(prompt if isinstance(prompt, str) else self.model.detokenize(prompt)))

    # ---- the answer -------------------------------------------------------------------------------------------

    async def _whole(self, feed: Feed) -> None:
        parts: dict[int, Part] = {}
        while True:
            pieces = await feed.take(3600)
            if pieces is None:
                break
            self._note(pieces)
            merged(pieces, parts)
        self._ended(parts)
        found = [parts[index] for index in range(len(self.requests) * self.call.n)]
        for part, before in zip(found, self._before()):
            part.text, part.logprobs = before.text + part.text, [*before.logprobs, *part.logprobs]
        self.started = True
        used = self._usage()
        body = await self._made(found, lambda: dumps(self.shape.answer(found, used), self.shape.apart))
        await whole(self.send, body, self.call.ignored, self._warnings())

    async def _made(self, parts: Sequence[Part], work: Callable[[], bytes]) -> bytes:
        """What `work` makes of these parts; in a thread if they are large, so that other clients do not wait for it."""
        if self.call.logprobs is None or sum(len(one.logprobs) for one in parts) * (1 + self.call.logprobs) < MANY:
            return work()
        self.shape.apart = True
        try:
            return await self.service.write(work)
        finally:
            self.shape.apart = False

    def _warnings(self) -> list[tuple[bytes, bytes]]:
        texts = self.requests[0].warnings[:8] if self.requests else ()
        return [(b"pellucid-warning", text.encode("ascii", "backslashreplace")[:400]) for text in texts]

    def _before(self) -> list[Part]:
        """What precedes each choice; empty: nothing."""
        return [before for before in self.echoed for _ in range(self.call.n)]

    async def _stream(self, feed: Feed) -> None:
        ping = self.service.settings.limits.ping_seconds
        try:
            while True:
                pieces = await feed.take(ping)
                if pieces is None:
                    break
                self._note(pieces)
                await self._events(merged(pieces))
            await self._write(self.shape.end(self._usage()))
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})
        except Exception as error:
            if not self.started:
                raise
            told = failure(self.service.crowded(error, self.running), self.record.id, self.call.names)
            self.record.reason = told.reason
            if told.status >= 500:
                log.warning("request %s: %s", self.record.id, told.message, exc_info=told.cause)
            await self._write(self.shape.failed(told))
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self, parts: dict[int, Part]) -> None:
        """Writes new parts; without any, what keeps the connection open."""
        self._ended(parts)
        out = []
        if not self.started:
            count, before = len(self.requests) * self.call.n, self._before()
            begin = partial(self.shape.begin, count, before, self.running.prompt_tokens)
            out.append(await self._made(before, begin))
        out += [self.shape.more(index, part) for index, part in parts.items()]
        if not parts:
            out.append(self.shape.silence)
        data = b"".join(out)
        if data:
            await self._write(data)

    async def _write(self, data: bytes) -> None:
        if not self.started:
            headers = [
                (b"content-type", self.shape.media),
                (b"cache-control", b"no-cache"),
                (b"x-accel-buffering", b"no"),  # of proxies
            ]
            self.started = True
            headers += [*self._warnings(), *ignored(self.call.ignored)]
            await self.send({"type": "http.response.start", "status": 200, "headers": headers})
        await self.send({"type": "http.response.body", "body": data, "more_body": True})

    # ---- what is counted --------------------------------------------------------------------------------------

    def _note(self, pieces: list[tuple[int, Piece]]) -> None:
        if not pieces:
            return
        now, record, metrics = time.monotonic(), self.record, self.service.metrics
        if not record.first and any(piece.finish_reason != "cancelled" for _, piece in pieces):
            record.first = now
            metrics.first_token(record)
        counts: dict[int, int] = {}
        for index, piece in pieces:
            counts[index] = counts.get(index, 0) + len(piece.ids)
            if piece.finish_reason is not None:
                part = self.parts.setdefault(index, Part())
                part.finish = piece.finish_reason
                part.reasoning_tokens = piece.reasoning_tokens
        for index, n in counts.items():
            if n:
                metrics.tokens(record, n, now - self.last[index] if index in self.last else -1)
                record.new += n
                self.last[index] = now

    def _ended(self, parts: dict[int, Part]) -> None:
        """Raises Failure if the time was up."""
        if any(part.finish == "cancelled" for part in parts.values()):
            raise self._late()

    def _late(self) -> Failure:
        seconds = self.service.settings.limits.request_seconds
        return Failure(504, f"the request took longer than {seconds:g} s", code="timeout")

    def _usage(self) -> dict[str, Any]:
        self._count()
        record = self.record
        reasoned = sum(part.reasoning_tokens for part in self.parts.values())
        return usage(record.prompt, record.new, record.cached, reasoned, record.drafted, record.accepted)

    def _count(self) -> None:
        """Each prompt's tokens count once, whatever n is."""
        record, n = self.record, self.call.n
        record.prompt = sum(one.prompt_tokens for one in self.requests)
        stats = [one.stats for one in self.requests]
        record.queued = max((one.queued for one in stats), default=0.0)
        record.drafted, record.accepted = sum(one.drafted for one in stats), sum(one.accepted for one in stats)
        # Of n choices, all but the first find the prompt computed; that does not count as cached.
        found = [had.cached - (n - 1) * (one.prompt_tokens - 1) for had, one in zip(stats, self.requests, strict=True)]
        record.cached = sum(max(one, 0) for one in found)
        if self.parts:
            record.finish = self.parts[min(self.parts)].finish or ""
