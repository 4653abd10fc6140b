"""Clients of every kind at once, for `soak`: a process that prints what they did, and what was wrong, as JSON.

python -m tests.server.mixed PORT SECONDS CLIENTS SEED < CONTROLS: [[path, body, the choices that are right]...]
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pellucid.server.failures import STATUSES
from tests.server.sockets import request
from tests.server.test_hostile import PATHS, body

CHAT = PATHS[0]
WAIT = 240.0  # seconds after which a request hangs
WORDS = "The capital of France is Paris , and a river runs through it . Once upon a time there was".split()
STOPS = [".", "\n", "the", " a", "is "]
KINDS = {"whole": 4, "stream": 4, "same": 1, "control": 2, "leave": 4, "half": 1, "slow": 1, "hostile": 4, "kept": 1}


@dataclass
class Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(cls, port: int, receive_buffer: int = 0) -> Connection:
        made = socket.socket()
        if receive_buffer:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", port))
        return cls(*await asyncio.open_connection(sock=made, limit=receive_buffer or 1 << 16))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, pause: float = 0.0) -> tuple[int, bytes]:
        """(status, body). pause: seconds between reading two parts of it."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status = int(head.split()[1])
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        if "content-length" in fields:
            return status, await self.reader.readexactly(int(fields["content-length"]))
        parts = []
        while size := int(await self.reader.readline(), 16):
            parts.append(await self.reader.readexactly(size))
            await self.reader.readline()
            await asyncio.sleep(pause)
        await self.reader.readline()
        return status, b"".join(parts)

    def leave(self, by_reset: bool = False) -> None:
        if by_reset:
            made = self.writer.get_extra_info("socket")
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.writer.transport.abort()
        else:
            self.writer.close()


def good(r: random.Random) -> tuple[str, dict[str, Any]]:
    """A request that can be answered."""
    words = [r.choice(WORDS) for _ in range(r.choice((1, 4, 12, 40, 150, 300)))]
    if r.random() < 0.5:  # else it begins as no other does
        words[:0] = WORDS[: r.randrange(len(WORDS))] * 3
    text = " ".join(words)
    made: dict[str, Any] = {"max_tokens": r.choice((1, 3, 8, 16, 48)), "seed": r.randrange(1000)}
    path = r.choice(PATHS[:2])
    if path == CHAT:
        made["messages"] = [{"role": "user", "content": text}]
    else:
        made["prompt"] = text if r.random() < 0.8 else [text, "Hello"]
    for name, values in {
        "temperature": (0, 0.7, 1.5),
        "n": (2, 3),
        "logprobs": (True,) if path == CHAT else (0, 3),
        "presence_penalty": (0.5, -1),
        "frequency_penalty": (0.5, 2),
        "repeat_penalty": (1.1,),
        "dry_multiplier": (0.8,),
        "mirostat": (2,),
        "logit_bias": ({"260": -100, "284": 5},),
        "stop": (STOPS, "e"),
        "echo": () if path == CHAT else (True,),
        "ignore_eos": (True,),
    }.items():
        if values and r.random() < 0.25:
            made[name] = r.choice(values)
    return path, made


def whole(made: dict[str, Any], data: bytes) -> list[tuple[str, Any, str]]:
    """The (text, log probabilities, finish reason) of each choice of an answer, checked."""
    choices = [
        (
            choice["message"]["content"] if "messages" in made else choice["text"],
            _logprobs(choice["logprobs"]),
            choice["finish_reason"],
        )
        for choice in json.loads(data)["choices"]
    ]
    return _checked(made, choices)


def events(made: dict[str, Any], data: bytes) -> list[tuple[str, Any, str]]:
    """The same of a stream."""
    lines = [line for line in data.decode().split("\n\n") if line and not line.startswith(":")]
    assert lines[-1] == "data: [DONE]", lines[-1]
    texts: dict[int, str] = {}
    logprobs: dict[int, list[Any]] = {}
    reasons: dict[int, str] = {}
    for line in lines[:-1]:
        for choice in json.loads(line[6:])["choices"]:
            index = choice["index"]
            assert index not in reasons, "after the end of a choice"
            text = choice["delta"].get("content", "") if "messages" in made else choice["text"]
            texts[index] = texts.get(index, "") + text
            logprobs.setdefault(index, []).extend(_logprobs(choice["logprobs"]))
            if choice["finish_reason"] is not None:
                reasons[index] = choice["finish_reason"]
    return _checked(made, [(texts[i], logprobs[i], reasons[i]) for i in range(len(texts))])


def _logprobs(given: Any) -> list[Any]:
    if given is None:
        return []
    if "content" in given:
        return [[one["token"], one["logprob"]] for one in given["content"]]
    return [list(one) for one in zip(given["tokens"], given["token_logprobs"], strict=True)]


def _checked(made: dict[str, Any], choices: list[tuple[str, Any, str]]) -> list[tuple[str, Any, str]]:
    prompt = made.get("prompt", "")
    assert len(choices) == made.get("n", 1) * (len(prompt) if isinstance(prompt, list) else 1)
    for text, logprobs, reason in choices:
        assert reason in ("stop", "length")
        assert (made.get("logprobs") is None) == (not logprobs) or not text, logprobs
        if not made.get("echo"):
            stops = made.get("stop", [])
            assert not any(stop in text for stop in ([stops] if isinstance(stops, str) else stops)), text
    return choices


@dataclass
class Clients:
    port: int
    end: float
    controls: list[Any]
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    async def client(self, seed: int) -> None:
        r = random.Random(seed)
        while time.monotonic() < self.end:
            kind = r.choices(list(KINDS), list(KINDS.values()))[0]
            connection = await Connection.open(self.port, 4096 if kind == "slow" else 0)
            try:
                await asyncio.wait_for(getattr(self, kind)(r, connection), WAIT)
            except Exception:
                what = traceback.format_exc(limit=-3)
                self.wrong.append(f"{kind}, client {seed}, {what}")
            self.counts[kind] += 1
            connection.leave()

    async def _ask(self, connection: Connection, path: str, made: Any, pause: float = 0.0) -> bytes | None:
        """The body of an answer; None where too many requests wait."""
        await connection.send(request(made, path))
        status, data = await connection.answer(pause)
        self.counts[str(status)] += 1
        assert status in (200, 429), (status, data, made)
        if b'"code":"queue_full"' in data[-300:]:  # of a stream, where another has the memory
            return None
        return data if status == 200 else None

    async def whole(self, r: random.Random, connection: Connection) -> None:
        path, made = good(r)
        data = await self._ask(connection, path, made)
        if data is not None:
            whole(made, data)

    async def stream(self, r: random.Random, connection: Connection, pause: float = 0.0) -> None:
        path, made = good(r)
        data = await self._ask(connection, path, {**made, "stream": True}, pause)
        if data is not None:
            events(made, data)

    async def slow(self, r: random.Random, connection: Connection) -> None:
        await self.stream(r, connection, 0.1)

    async def same(self, r: random.Random, connection: Connection) -> None:
        """What is streamed is what comes whole."""
        path, made = good(r)
        first = await self._ask(connection, path, made)
        second = await self._ask(connection, path, {**made, "stream": True})
        if first is not None and second is not None:
            assert events(made, second) == whole(made, first), made

    async def control(self, r: random.Random, connection: Connection) -> None:
        path, made, expected = r.choice(self.controls)
        data = await self._ask(connection, path, made)
        if data is not None:
            assert json.loads(data)["choices"] == expected, (made, data)

    async def kept(self, r: random.Random, connection: Connection) -> None:
        """Several requests over one connection."""
        for _ in range(3):
            await self.whole(r, connection)

    async def leave(self, r: random.Random, connection: Connection) -> None:
        path, made = good(r)
        await connection.send(request({**made, "max_tokens": 400, "stream": r.random() < 0.5}, path))
        await asyncio.sleep(r.choice((0, 0.01, 0.1, 0.5, 2)))
        connection.leave(r.random() < 0.5)

    async def half(self, r: random.Random, connection: Connection) -> None:
        path, made = good(r)
        data = request(made, path)
        await connection.send(data[: r.randrange(len(data))])
        await asyncio.sleep(r.random())
        connection.leave(r.random() < 0.5)

    async def hostile(self, r: random.Random, connection: Connection) -> None:
        path = r.choice(PATHS)
        made = body(r, path)
        await connection.send(request(made, path))
        status, data = await connection.answer()
        self.counts[str(status)] += 1
        assert status in STATUSES - {500, 503, 504}, (status, data)
        if status >= 400:
            error = json.loads(data)["error"]
            assert error if isinstance(error, str) else error["message"]


async def run(port: int, seconds: float, clients: int, seed: int) -> Clients:
    made = Clients(port, time.monotonic() + seconds, json.load(sys.stdin))
    await asyncio.gather(*(made.client(seed + i) for i in range(clients)))
    return made


if __name__ == "__main__":
    port, seconds, clients, seed = sys.argv[1:]
    done = asyncio.run(run(int(port), float(seconds), int(clients), int(seed)))
    print(json.dumps({"counts": done.counts, "wrong": done.wrong}))
