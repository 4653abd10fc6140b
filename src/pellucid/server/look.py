"""The look inside, over HTTP: what the model computed for a conversation and its answer, block by block."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from pellucid import checks
from pellucid.errors import WrongValue
from pellucid.look.pages import Live
from pellucid.model import Model
from pellucid.openai.fields import OPTIONS
from pellucid.sampling import SamplingOptions
from pellucid.server.body import Disconnected
from pellucid.server.failures import Failure, busy, failure
from pellucid.server.generate import read
from pellucid.server.service import Service
from pellucid.server.shapes import dumps

__all__ = ["Look"]

MOST_BYTES = 1 << 30  # of all looks that are kept; those that were not used for longest go
WAITING = 8  # looks that may wait for the one that is computed


class Look:
    """Keeps what was computed, for the key that asked for it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._kept: OrderedDict[str, tuple[str, Live]] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, "pellucid look")
        self._waiting = 0

    async def open(self, request: Request) -> Response:
        """{model, messages | prompt, answer, options, seed} -> {id, meta}. answer: ids that follow the prompt."""
        self._service.ready()
        record = request.state.record
        body = await read(self._service, request.scope, request.receive)
        if self._waiting > WAITING:
            raise busy(429, "too many looks inside wait", "queue_full", 5)
        left = threading.Event()
        self._waiting += 1
        try:
            named = body.get("model")
            _, hosted = self._service.select(None if named is None else checks.string("model", named), record)
            async with self._service.models.use(hosted) as model:
                work = asyncio.get_running_loop().run_in_executor(self._pool, partial(self._make, model, body, left))
                live = await _unless_left(request, work, left)
        except (Disconnected, Failure):
            raise
        except Exception as error:
            raise failure(error, record.id, {}) from error
        finally:
            self._waiting -= 1
        id = secrets.token_urlsafe(12)
        with self._lock:
            self._kept[id] = (request.state.key.name, live)
            while len(self._kept) > 1 and sum(one.nbytes for _, one in self._kept.values()) > MOST_BYTES:
                self._kept.popitem(last=False)
        return Response(dumps({"id": id, "meta": live.meta}), media_type="application/json")

    async def block(self, request: Request) -> Response:
        """{name} -> the numbers of a block, little-endian."""
        body = await read(self._service, request.scope, request.receive)
        id = request.path_params["id"]
        with self._lock:
            owner, live = self._kept.get(id, ("", None))
            if live is not None:
                self._kept.move_to_end(id)
        if live is None or owner != request.state.key.name:
            raise Failure(404, "this look inside is not kept any more: ask for it again", code="not_found")
        name = body.get("name")
        if not isinstance(name, str) or name not in live.meta["blocks"]:
            raise Failure(400, "name: expected one of the blocks that the look has", param="name")
        data = await asyncio.get_running_loop().run_in_executor(self._pool, live.block, name)
        return Response(data, media_type="application/octet-stream")

    def _make(self, model: Model, body: dict[str, Any], left: threading.Event) -> Live:
        def progress(share: float) -> None:
            if left.is_set() or self._service.draining:
                raise _Stopped

        progress(0)
        given = [name for name in ("messages", "prompt") if body.get(name) is not None]
        if len(given) != 1:
            raise WrongValue("messages", ": expected messages or a prompt")
        if given == ["messages"]:
            messages, limit = body["messages"], self._service.settings.limits.messages
            if isinstance(messages, list) and len(messages) > limit:
                raise WrongValue("messages", f" has {len(messages)} entries: expected at most {limit}")
            ids = list(model.core.conversation(messages).ids)
        else:
            ids = model.core.prompt(body["prompt"])
        answer = model.core.check_ids(_given(body, "answer", []), "answer", empty=True)
        options = _given(body, "options", {})
        if not isinstance(options, dict) or {*options} - {*OPTIONS}:
            raise WrongValue("options", f": expected an object with some of {', '.join(OPTIONS)}")
        chosen = SamplingOptions(**options, seed=body.get("seed"))
        all_ids = (ids + answer)[: model.context_length]
        return Live(model.core, all_ids, min(len(ids), len(all_ids)), chosen, progress)


def _given(body: dict[str, Any], name: str, otherwise: Any) -> Any:
    return otherwise if body.get(name) is None else body[name]


class _Stopped(Exception):
    """Nobody waits for it."""


async def _unless_left(request: Request, work: asyncio.Future[Live], left: threading.Event) -> Live:
    """The work's result. Raises Disconnected, and ends the work, where the client leaves."""

    async def leaves() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    gone = asyncio.ensure_future(leaves())
    try:
        both: set[asyncio.Future[Any]] = {work, gone}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise Disconnected
        try:
            return work.result()
        except _Stopped:
            raise busy(503, "the server is stopping", "shutting_down", 10) from None
    finally:
        left.set()
        gone.cancel()
        work.add_done_callback(lambda done: done.cancelled() or done.exception())
