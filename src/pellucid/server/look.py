"""The look inside, over HTTP: what the model computed for a conversation and its answer, block by block; and edited
models."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from pellucid import checks
from pellucid.errors import ClosedError, WrongType, WrongValue
from pellucid.look.drawing import Drawing
from pellucid.look.live import Live
from pellucid.model import Model
from pellucid.openai.fields import OPTIONS
from pellucid.sampling import SamplingOptions
from pellucid.server.failures import Disconnected, Failure, busy, failing, stopping
from pellucid.server.generate import read
from pellucid.server.models import Hosted
from pellucid.server.service import Service
from pellucid.server.shapes import document

__all__ = ["Look"]

T = TypeVar("T")

MOST_BYTES = 1 << 30  # of all looks that are kept; the least recently used are dropped
WAITING = 8  # looks that may wait for the one that is being computed
SHOWN = 1024  # tokens that are listed after each step


class Look:
    """The endpoints. Keeps what was computed, for the API key that requested it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._kept: OrderedDict[str, tuple[str, Live]] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, "pellucid look")
        self._waiting = 0

    # ---- endpoints --------------------------------------------------------------------------------------------

    async def open(self, request: Request) -> Response:
        """{model, messages | prompt | ids, answer, options, seed, edits} -> {id, meta}. answer: ids that follow the
        prompt. edits: an id that `edits` returned."""
        async with self._asked(request) as (body, hosted, model):
            left = threading.Event()
            edits = body.get("edits")
            if edits is None:
                live = await self._compute(request, partial(self._make, model, body, left), left)
            else:
                id, key = checks.string("edits", edits), request.state.key.name
                async with self._service.edited.use(id, key, hosted) as edited:
                    live = await self._compute(request, partial(self._make, edited, body, left), left)
        id = secrets.token_urlsafe(12)
        with self._lock:
            self._kept[id] = (request.state.key.name, live)
            while len(self._kept) > 1 and sum(one.nbytes for _, one in self._kept.values()) > MOST_BYTES:
                self._kept.popitem(last=False)
        return document({"id": id, "meta": live.meta})

    async def block(self, request: Request) -> Response:
        """{name, layer, head, positions, k} -> the numbers of a block or of a part of it, little-endian; headers say
        their types and shape."""
        body = await read(self._service, request.scope, request.receive)
        live = self._find(request)
        with failing(request.state.record.id, {}):
            name = checks.string("name", body.get("name"))
        asked = {axis: body.get(axis) for axis in ("layer", "head", "positions", "k")}
        found = await self._of_look(request, partial(live.part, name, **asked))
        headers = {"pellucid-type": found.kind, "pellucid-shape": ",".join(map(str, found.shape))}
        return Response(found.data, media_type="application/octet-stream", headers=headers)

    async def steps(self, request: Request) -> Response:
        """{position, options, seed} -> {steps, drawn}: the engine's own sampler at a position."""
        body = await read(self._service, request.scope, request.receive)
        live = self._find(request)
        with failing(request.state.record.id, {}):
            at = checks.integer("position", body.get("position"), 0, live.meta["n"] - 1)
            options = _options(body)
        found = await self._of_look(request, partial(live.steps, at, options))
        return document(_told(found, live))

    async def edits(self, request: Request) -> Response:
        """{model, list} -> {id, python}: a model with changes, which `pellucid_edits` of other requests may name."""
        async with self._asked(request) as (body, hosted, model):
            make = partial(self._service.edited.make, request.state.key.name, hosted, model, body.get("list"))
            made = await self._service.score(model, lambda cancel: make())
        return document({"id": made.id, "python": made.python})

    # ---- what they share --------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _asked(self, request: Request) -> AsyncIterator[tuple[dict[str, Any], Hosted, Model]]:
        """(the body, the served model, the loaded model). Errors become Failures."""
        self._service.ready()
        record = request.state.record
        body = await read(self._service, request.scope, request.receive)
        if self._waiting > WAITING:
            raise busy(429, "too many looks inside wait", "queue_full", 5)
        self._waiting += 1
        try:
            with failing(record.id, {}):
                named = body.get("model")
                _, hosted = self._service.select(None if named is None else checks.string("model", named), record)
                async with self._service.models.use(hosted) as model:
                    yield body, hosted, model
        finally:
            self._waiting -= 1

    async def _compute(self, request: Request, work: Callable[[], T], left: threading.Event) -> T:
        return await _unless_left(request, asyncio.get_running_loop().run_in_executor(self._pool, work), left)

    def _find(self, request: Request) -> Live:
        id = request.path_params["id"]
        with self._lock:
            owner, live = self._kept.get(id, ("", None))
            if live is not None and owner == request.state.key.name:
                self._kept.move_to_end(id)
                return live
        raise _gone()

    async def _of_look(self, request: Request, work: Callable[[], T]) -> T:
        with failing(request.state.record.id, {}):
            try:
                return await asyncio.get_running_loop().run_in_executor(self._pool, work)
            except ClosedError:  # the model was unloaded, or its edits have ended
                raise _gone() from None

    def _make(self, model: Model, body: dict[str, Any], left: threading.Event) -> Live:
        def progress(share: float) -> None:
            if left.is_set() or self._service.draining:
                raise _Stopped

        progress(0)
        given = [name for name in ("messages", "prompt", "ids") if body.get(name) is not None]
        if len(given) != 1:
            raise WrongValue("messages", ": expected messages, a prompt or ids")
        tools, limits = body.get("tools"), self._service.settings.limits
        for name in ("tools", "ids", "answer"):
            if not isinstance(body.get(name), (list, type(None))):
                raise WrongType(name, f": expected a list, not {type(body[name]).__name__}")
        for name, most in (("messages", limits.messages), ("tools", limits.tools)):
            if isinstance(body.get(name), list) and len(body[name]) > most:
                raise WrongValue(name, f" has {len(body[name])} entries: expected at most {most}")
        if given == ["messages"]:
            options = {"template": self._service.settings.template, **({"tools": tools} if tools else {})}
            ids = list(model.core.conversation(body["messages"], **options).ids)
        elif given == ["ids"]:
            ids = model.core.prompt(model.core.check_ids(body["ids"], "ids"), "ids")
        else:
            ids = model.core.prompt(body["prompt"])
        answer = model.core.check_ids(_given(body, "answer", []), "answer", empty=True)
        all_ids = (ids + answer)[: model.context_length]
        return Live(model.core, all_ids, min(len(ids), len(all_ids)), _options(body), progress)


def _options(body: dict[str, Any]) -> SamplingOptions:
    options = _given(body, "options", {})
    if not isinstance(options, dict) or {*options} - {*OPTIONS}:
        raise WrongValue("options", f": expected an object with some of {', '.join(OPTIONS)}")
    seed = body.get("seed")
    return SamplingOptions(**options, seed=None if seed is None else checks.integer("seed", seed, 0, 2**64 - 1))


def _told(found: Drawing, live: Live) -> dict[str, Any]:
    steps = [
        {
            "name": step.name,
            "kept": len(step.ids),
            "ids": step.ids[:SHOWN].tolist(),
            "probabilities": step.probabilities[:SHOWN].tolist(),
        }
        for step in found.steps
    ]
    drawn = None if found.id is None else {"id": found.id, "piece": live.spell(found.id), "u": found.u}
    return {"steps": steps, "drawn": drawn}


def _gone() -> Failure:
    return Failure(404, "this look inside is no longer kept: request it again", code="not_found")


def _given(body: dict[str, Any], name: str, otherwise: Any) -> Any:
    return otherwise if body.get(name) is None else body[name]


class _Stopped(Exception):
    """Nobody waits for the look any more."""


async def _unless_left(request: Request, work: asyncio.Future[T], left: threading.Event) -> T:
    """The work's result. If the client leaves, ends the work and raises Disconnected."""

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
            raise stopping() from None
    finally:
        left.set()
        gone.cancel()
        work.add_done_callback(lambda done: done.cancelled() or done.exception())
