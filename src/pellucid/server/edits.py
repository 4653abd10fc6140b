"""Edited models over HTTP: views of a model that are kept for a while, and that requests may name."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pellucid.core import Core
from pellucid.model import Model
from pellucid.schedule.room import cache_bytes_used
from pellucid.schedule.run import of
from pellucid.server.changes import Changes
from pellucid.server.failures import Failure, busy
from pellucid.server.models import Hosted
from pellucid.server.settings import Limits
from pellucid.server.shapes import dumps

__all__ = ["Edited", "EditedModels"]

MOST = 4
IDLE = 600.0  # seconds without use after which one is closed
SHARE = 4  # one edited model may take this fraction (1 / SHARE) of the memory for keys and values


class Edited:
    """An edited model. key: of the client that made it. uses: requests that use it; last: when the last one ended."""

    def __init__(self, key: str, hosted: Hosted, base: Model, changes: Changes, given: str) -> None:
        self.id = secrets.token_urlsafe(12)
        self.key, self.hosted, self.base, self.given = key, hosted, base, given
        self.python = changes.python
        limit = base.core.facts.cache_limit
        core = base.core.view(changes.edits.plan(), (1 << 62) if limit is None else max(limit // SHARE, 1))
        self.model = Model(core)
        self.uses = 0
        self.last = time.monotonic()

    @property
    def gone(self) -> bool:
        """Whether the model that was edited was unloaded."""
        return self.hosted.model is not self.base or self.base.core.closed


class EditedModels:
    """The edited models that are kept, at most 4, and the requests that use them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._kept: dict[str, Edited] = {}
        self._lock = threading.Lock()

    def make(self, key: str, hosted: Hosted, model: Model, given: Any) -> Edited:
        """The edited model of a list of changes; the same one for the same list. Call it in a thread. Raises ValueError
        or TypeError naming the place, Failure (429) if all that are kept are in use."""
        text = dumps(given).decode()
        with self._lock:
            for one in self._kept.values():
                if (one.key, one.hosted, one.given) == (key, hosted, text) and not one.gone:
                    one.last = time.monotonic()
                    return one
        made = Edited(key, hosted, model, Changes(model, hosted.name, given), text)
        made.model.drive(**self._limits.queue())
        with self._lock:
            idle = [one for one in self._kept.values() if not one.uses]
            idle.sort(key=lambda one: (not one.gone, one.last))
            ended = idle[: max(len(self._kept) + 1 - MOST, 0)]
            fits = len(self._kept) - len(ended) < MOST
            if fits:
                self._kept[made.id] = made
                for one in ended:
                    del self._kept[one.id]
        if not fits:
            made.model.close()
            raise busy(429, f"{MOST} edited models are in use", "queue_full", 5)
        for one in ended:
            one.model.close()
        return made

    @asynccontextmanager
    async def use(self, id: str, key: str, hosted: Hosted) -> AsyncIterator[Model]:
        """The edited model, which is kept until the block ends. Raises Failure (404)."""
        with self._lock:
            found = self._kept.get(id)
            if found is None or found.key != key or found.hosted is not hosted or found.gone:
                text = "these edits are no longer kept: send them again"
                raise Failure(404, text, code="edits_not_found", param="pellucid_edits")
            found.uses += 1
        try:
            await asyncio.to_thread(_make_room, found.model.core)
            yield found.model
        finally:
            with self._lock:
                found.uses -= 1
                found.last = time.monotonic()

    def tick(self, now: float) -> None:
        """Closes those that have not been used for long. To be called in the event loop, now and then."""
        with self._lock:
            ended = [one for one in self._kept.values() if not one.uses and (one.gone or now - one.last > IDLE)]
            for one in ended:
                del self._kept[one.id]
        for one in ended:
            threading.Thread(target=one.model.close, name="pellucid edits", daemon=True).start()

    def close(self) -> None:
        with self._lock:
            kept, self._kept = list(self._kept.values()), {}
        for one in kept:
            one.model.close()


def _make_room(core: Core) -> None:
    """Evicts from the model's prefix cache what an edited model may need, so that both stay within the limit."""
    root = core.root
    limit, share = root.facts.cache_limit, core.facts.cache_limit
    if limit is None or share is None:
        return
    scheduler = of(root)
    while cache_bytes_used(root) + share > limit and scheduler.spare():
        pass
