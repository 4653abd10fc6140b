"""Clients of an OpenAI-compatible server: streamed completions, each token's arrival timed.

    python benchmarks/load.py < plan.json

Reads a `Plan` as JSON and prints a `Result` as JSON. It is a separate process, so that neither the server nor the
program that drives the benchmark shares its interpreter; its processor time is in the result. Prompts are random token
ids, new ones each time.

Closed loop: `clients` clients, each sending its next request when the last one is answered. With `rate`, requests
arrive by a Poisson process instead, whether or not others are answered.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Plan:
    """What to send. vocab: ids of prompts are below it; clients: in a closed loop; requests: total number; prompt, new:
    tokens of each prompt and answer; rate: requests per second, or None; timeout: seconds of a request."""

    port: int
    vocab: int
    clients: int
    requests: int
    prompt: int
    new: int
    seed: int
    rate: float | None = None
    host: str = "127.0.0.1"
    timeout: float = 900.0


@dataclass
class Answer:
    """When a request was sent, and when its events with text arrived; seconds from the start. tokens, cached: tokens of
    the answer, and prompt tokens that were cached, as reported by the server. error: what went wrong."""

    sent: float
    events: list[float] = field(default_factory=list)
    tokens: int = 0
    cached: int = 0
    error: str = ""


@dataclass(frozen=True)
class Result:
    """seconds: from the first request to the last answer. cpu: processor seconds of the clients."""

    seconds: float
    cpu: float
    answers: list[Answer]


async def ask(
    plan: Plan, ids: list[int], began: float, *, key: str = "", reuse: bool = False, into: Answer | None = None
) -> Answer:
    """One streamed request, on its own connection. key: the client's; reuse: whether the server may reuse what it
    computed for earlier prompts; into: the answer, which others may watch as it arrives."""
    body = {
        "model": "model",
        "prompt": ids,
        "max_tokens": plan.new,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": reuse,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    sent = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {plan.host}:{plan.port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(sent)}\r\nConnection: close\r\n"
    )
    head += f"Authorization: Bearer {key}\r\n\r\n" if key else "\r\n"
    answer = Answer(0.0) if into is None else into
    answer.sent = time.perf_counter() - began
    writer = None
    try:
        reader, writer = await asyncio.open_connection(plan.host, plan.port)
        writer.write(head.encode() + sent)
        status = (await reader.readline()).decode().strip()
        if " 200 " not in f"{status} ":
            raise ConnectionError(f"{status}: {(await reader.read(1000)).decode(errors='replace')}")
        done = False
        async for line in reader:  # chunk sizes and empty lines are between the events
            if not line.startswith(b"data: "):
                continue
            now = time.perf_counter() - began
            if line.startswith(b"data: [DONE]"):
                done = True
                continue
            event: dict[str, Any] = json.loads(line[6:])
            if "error" in event:
                raise ConnectionError(str(event["error"])[:300])
            if event.get("usage"):
                answer.tokens = event["usage"]["completion_tokens"]
                answer.cached = (event["usage"].get("prompt_tokens_details") or {}).get("cached_tokens", 0)
            if any(choice.get("text") for choice in event.get("choices", ())):
                answer.events.append(now)
        if not done:
            raise ConnectionError("the stream ended without [DONE]")
    except (OSError, ValueError, KeyError) as error:
        answer.error = f"{type(error).__name__}: {error}"
    finally:
        if writer is not None:
            writer.close()
    return answer


async def send(plan: Plan) -> Result:
    """Sends everything, and waits for every answer."""
    rng = random.Random(plan.seed)
    prompts = iter([[rng.randrange(plan.vocab) for _ in range(plan.prompt)] for _ in range(plan.requests)])
    answers: list[Answer] = []
    cpu, began = time.process_time(), time.perf_counter()

    async def one(ids: list[int]) -> None:
        try:
            answers.append(await asyncio.wait_for(ask(plan, ids, began), plan.timeout))
        except TimeoutError:
            answers.append(Answer(0.0, error=f"no end within {plan.timeout:g} s"))

    async def client() -> None:
        for ids in prompts:
            await one(ids)

    if plan.rate is None:
        await asyncio.gather(*(client() for _ in range(plan.clients)))
    else:
        tasks = []
        for ids in prompts:
            tasks.append(asyncio.create_task(one(ids)))
            await asyncio.sleep(rng.expovariate(plan.rate))
        await asyncio.gather(*tasks)
    return Result(time.perf_counter() - began, time.process_time() - cpu, answers)


if __name__ == "__main__":
    json.dump(asdict(asyncio.run(send(Plan(**json.load(sys.stdin))))), sys.stdout)
