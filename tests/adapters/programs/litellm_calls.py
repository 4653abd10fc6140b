"""What programs with litellm rely on: a stream says what it cannot give, and what is cancelled or closed stops."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import litellm

from pellucid import Model
from pellucid.adapters.litellm import register
from tests.adapters.programs.stopped import MOST, aclosed, cancelled, closed

model = Model.load(sys.argv[1])
register(models={"mine": model})
name, ask = "pellucid/mine", [{"role": "user", "content": "Name a colour."}]


async def read(**more: Any) -> None:
    async for _ in await litellm.acompletion(name, ask, stream=True, **more):
        pass


# ---- what litellm's chunks do not have
several: list[tuple[str, dict[str, Any]]] = [
    ("n=2", {"n": 2}),
    ("logprobs", {"logprobs": True}),
    ("logprobs", {"logprobs": True, "top_logprobs": 2}),
]
for says, wrong in several:
    calls: list[Callable[[], Any]] = [
        lambda wrong=wrong: list(litellm.completion(name, ask, stream=True, **wrong)),  # type: ignore[misc]
        lambda wrong=wrong: asyncio.run(read(**wrong)),  # type: ignore[misc]
    ]
    for call in calls:
        try:
            call()
        except litellm.BadRequestError as error:
            assert says in str(error) and "in a stream" in str(error), error
        else:
            raise AssertionError(says)
assert list(litellm.completion(name, ask, stream=True, n=1, logprobs=False, max_tokens=2))

# ---- what is cancelled or closed stops
endless: Any = {"max_tokens": MOST, "ignore_eos": True}
cancelled(model, lambda: litellm.acompletion(name, ask, **endless))
cancelled(model, lambda: read(**endless))
aclosed(model, lambda: litellm.acompletion(name, ask, stream=True, **endless))
closed(model, lambda: litellm.completion(name, ask, stream=True, **endless))
print("fine")
