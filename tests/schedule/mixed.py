"""Requests of every kind at once, in random order and timing, for tests that compare them with each alone."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pellucid import Completion, Model, Request
from pellucid.errors import ClosedError

OPTIONS: tuple[dict[str, Any], ...] = (
    {"temperature": 0, "logprobs": 2},
    {"temperature": 1.3},
    {"temperature": 1.0, "top_k": 0, "xtc_probability": 0.5, "logprobs": 1},
    {"temperature": 0.9, "repeat_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.2, "logprobs": 1},
    {"temperature": 0.8, "dry_multiplier": 0.8, "dry_allowed_length": 1},
    {"temperature": 1.0, "mirostat": 2},
    {"temperature": 0, "cache": False},
    {"temperature": 0.7, "chunk": 5},
    {"temperature": 1.1, "logit_bias": {3: 4.0, 5: -100.0}, "typical_p": 0.9, "logprobs": 3},
    {"temperature": 1.5, "stop_ids": list(range(40))},
    {"temperature": 1.2, "min_p": 0.05, "n": 3, "logprobs": 1},
)
Asked = tuple[Any, dict[str, Any]]  # a prompt or a conversation, and options


def ids_requests(n: int, seed: int, lengths: Sequence[int], vocab: int = 60) -> list[Asked]:
    """(prompt, options) of random ids; some begin as others do."""
    r = random.Random(seed)
    system = [r.randrange(vocab) for _ in range(90)]
    out: list[Asked] = []
    for i in range(n):
        ids = (system if r.random() < 0.3 else []) + [r.randrange(vocab) for _ in range(r.choice(lengths))]
        more = {"seed": i, "max_tokens": r.choice([1, 3, 8, 20]), "ignore_eos": True}
        out.append((ids, {**OPTIONS[i % len(OPTIONS)], **more}))
    r.shuffle(out)
    return out


def content(done: Completion | list[Completion]) -> Any:
    many = done if isinstance(done, list) else [done]
    return [(one.ids, one.text, one.tool_calls, one.logprobs, one.end, one.finish_reason, one.seed) for one in many]


def talks(prompt: Any) -> bool:
    """Whether a prompt is a conversation."""
    return isinstance(prompt, list) and isinstance(prompt[0], dict)


def generate(model: Model, prompt: Any, options: dict[str, Any]) -> Any:
    return content(model.chat(prompt, **options) if talks(prompt) else model.generate(prompt, **options))


def alone(model: Model, asked: Sequence[Asked]) -> list[Any]:
    return [generate(model, prompt, {**options, "speculate": False}) for prompt, options in asked]


async def awaited(request: Request) -> Any:
    return await request


def ask(model: Model, asked: Asked, number: int) -> Any:
    """One request in one of the ways to ask, after a neighbour of it that is cancelled, perhaps."""
    prompt, options = asked
    r = random.Random(number)
    if r.random() < 0.3:
        threading.Event().wait(r.random() * 0.01)
    if r.random() < 0.3:
        neighbour = prompt[0]["content"] if talks(prompt) else prompt[::-1]
        with model.stream(neighbour, max_tokens=50, ignore_eos=True) as stream:
            for _ in range(r.randrange(3)):
                next(stream)
        model.submit(neighbour, max_tokens=50, ignore_eos=True, n=r.choice([1, 3])).cancel()
    way = r.randrange(5)
    if way == 0 and options.get("n") is None:
        stream = model.chat(prompt, stream=True, **options) if talks(prompt) else model.stream(prompt, **options)
        for _ in stream:
            if r.random() < 0.1:
                threading.Event().wait(0.002)
        return content(stream.result())
    if way in (1, 2):
        given = {**options, "priority": r.randrange(2), "key": str(r.randrange(4))}
        request = model.submit(messages=prompt, **given) if talks(prompt) else model.submit(prompt, **given)
        return content(asyncio.run(awaited(request)) if way == 1 else request.result())
    return generate(model, prompt, options)


def beside(model: Model, prompt: Any, stop: threading.Event) -> list[str]:
    """Other calls and edited views until `stop` is set -> what was wrong."""
    options: dict[str, Any] = {"max_tokens": 4, "temperature": 0, "ignore_eos": True}
    calls: list[Callable[[], Any]] = [
        lambda: model.score(prompt).total,
        lambda: model.logits(model.core.prompt(prompt)[:20]).tobytes(),
    ]

    def edited() -> Any:
        with model.edit() as edit:
            edit.skip(0, "mlp")
            return edit.generate(prompt, **options).ids

    calls.append(edited)
    expected: dict[int, Any] = {}
    wrong = []
    while not stop.is_set():
        for i, call in enumerate(calls):
            try:
                found = call()
            except ClosedError:
                break
            if expected.setdefault(i, found) != found:
                wrong.append(f"call {i}")
    return wrong


def together(model: Model, asked: Sequence[Asked], seed: int, callers: int = 12, others: Any = None) -> list[Any]:
    """All requests at once, in random order -> their results, in the order of `asked`. others: a prompt of calls
    beside them."""
    order = list(range(len(asked)))
    random.Random(seed).shuffle(order)
    stop = threading.Event()
    with ThreadPoolExecutor(callers + 1) as pool:
        running = None if others is None else pool.submit(beside, model, others, stop)
        found = dict(zip(order, pool.map(lambda i: ask(model, asked[i], seed + i), order), strict=True))
        stop.set()
        assert running is None or running.result() == []
    return [found[i] for i in range(len(asked))]
