"""Whether a generation stops with what waits for it. Programs of the tests import it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any

from pellucid import Model

__all__ = ["aclosed", "cancelled", "closed"]

MOST = 4000  # tokens, one a pass, which take longer than a check waits


def cancelled(model: Model, ask: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Cancels a task once its generation has begun."""

    async def main() -> None:
        before = model.stats().passes
        task = asyncio.create_task(ask())
        async with asyncio.timeout(60):
            while model.stats().passes < before + 2:
                await asyncio.sleep(0.01)
        assert model.stats().running == 1
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await _check(model, before)

    asyncio.run(main())


def aclosed(model: Model, ask: Callable[[], Any]) -> None:
    """Closes an asynchronous stream after its first pieces."""

    async def main() -> None:
        before = model.stats().passes
        asked = ask()
        stream: Any = await asked if isinstance(asked, Coroutine) else asked
        pieces = 0
        async for _ in stream:
            pieces += 1
            if pieces == 3:
                break
        assert model.stats().running == 1
        await stream.aclose()
        await _check(model, before)

    asyncio.run(main())


def closed(model: Model, ask: Callable[[], Any]) -> None:
    """Closes a stream after its first pieces."""
    before = model.stats().passes
    stream = ask()
    for _ in range(3):
        next(stream)
    assert model.stats().running == 1
    stream.close()
    asyncio.run(_check(model, before))


async def _check(model: Model, before: int) -> None:
    end = time.monotonic() + 10
    while (stats := model.stats()).running or stats.waiting:
        assert time.monotonic() < end, stats
        await asyncio.sleep(0.01)
    assert stats.passes - before < MOST, stats
