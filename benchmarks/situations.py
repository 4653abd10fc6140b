"""The effect of clients on each other: gaps and first tokens of `pellucid serve`, and of another server, in turns.

    python benchmarks/situations.py MODEL [--peer llama_server=PATH] [--streams 8] [--long 4000] [--repeat 5]

- beside: a prompt of --long tokens arrives while --streams clients receive tokens: the gaps between the streams' tokens
  until its first token arrives (for `pellucid serve` also relative to --max-gap), and the time to that token, relative
  to the same prompt alone.
- turn: the time to the first token of a second turn that continues a prompt of --long tokens, relative to the first
  turn's, and how much of the first prompt was cached by the server.
- keys (`pellucid serve` alone): the client of one key has --queue requests waiting, then the client of another key
  sends one: the seconds to its first token, the same when alone, and the seconds of one pass, measured by the gaps of
  the others.
- idle: --streams clients receive tokens while --idle inactive connections are open: a third silent, a third with half a
  request head, a third sending a body at a byte per second: the gaps between the streams' tokens, relative to those
  without these connections.

Each is repeated with new random ids, the servers in turns; the table has medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.arguments import count  # noqa: E402
from benchmarks.load import Answer, Plan, ask  # noqa: E402
from benchmarks.peers import busy_cores, note  # noqa: E402
from benchmarks.serve import NAMES, Server, check, free_port, parser, percentile  # noqa: E402

KEYS = ("first-key-of-the-benchmark", "second-key-of-the-benchmark")
SHORT = 16  # tokens of a stream's prompt, and of a second turn
SETTLED = 8  # tokens that each stream has before the long prompt arrives
Found = dict[str, float]


class Clients:
    """Requests to a server. began: the time from which the answers' seconds count."""

    def __init__(self, port: int, vocab: int, seed: int) -> None:
        self.port, self.vocab, self.began = port, vocab, time.perf_counter()
        self.rng = random.Random(seed)

    def ids(self, n: int) -> list[int]:
        return [self.rng.randrange(self.vocab) for _ in range(n)]

    async def ask(self, ids: list[int], new: int, **options: Any) -> Answer:
        plan = Plan(self.port, self.vocab, 1, 1, len(ids), new, 0)
        answer = await ask(plan, ids, self.began, **options)
        if answer.error or not answer.events:
            raise RuntimeError(answer.error or "an answer without text")
        return answer

    async def first(self, ids: list[int], **options: Any) -> float:
        """Seconds to the first token of an answer of one or two tokens."""
        answer = await self.ask(ids, 2, **options)
        return answer.events[0] - answer.sent

    async def gaps(self, streams: int, new: int) -> list[float]:
        """The gaps between the tokens of several concurrent streams, after each has SETTLED tokens, or half of all its
        tokens."""
        answers = await asyncio.gather(*(self.ask(self.ids(SHORT), new) for _ in range(streams)))
        begun = max(one.events[min(SETTLED, len(one.events) // 2)] for one in answers)
        return [y - x for one in answers for x, y in zip(one.events, one.events[1:]) if x >= begun]

    async def among(self, prompts: list[list[int]], new: int, begun: int, then: Callable[[], Awaitable[Answer]],
                    **options: Any) -> tuple[Answer, list[float]]:  # fmt: skip
        """Streams `prompts`; when `begun` of them have SETTLED tokens, awaits `then`; ends the streams -> its answer,
        and the gaps between the streams' tokens from its sending to its first token."""
        answers = [Answer(0.0) for _ in prompts]
        tasks = [
            asyncio.create_task(self.ask(ids, new, into=answer, **options))
            for ids, answer in zip(prompts, answers, strict=True)
        ]
        try:
            while sum(len(one.events) >= SETTLED for one in answers) < begun:
                for task in tasks:
                    if task.done():
                        raise RuntimeError(f"a stream ended before the others had begun: {task.exception()}")
                await asyncio.sleep(0.005)
            answer = await then()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        end = answer.events[0]
        gaps = [y - x for one in answers for x, y in zip(one.events, one.events[1:]) if y > answer.sent and x < end]
        return answer, gaps


async def beside(clients: Clients, a: argparse.Namespace) -> Found:
    alone = await clients.first(clients.ids(a.long))
    long = clients.ids(a.long)
    prompts = [clients.ids(SHORT) for _ in range(a.streams)]
    answer, gaps = await clients.among(prompts, a.long, a.streams, lambda: clients.ask(long, 2))
    seconds = answer.events[0] - answer.sent
    return {
        "gap p50 (s)": percentile(gaps, 0.5),
        "gap p99 (s)": percentile(gaps, 0.99),
        "gap p50 / max_gap": percentile(gaps, 0.5) / a.max_gap,
        "gap p99 / max_gap": percentile(gaps, 0.99) / a.max_gap,
        "first token alone (s)": alone,
        "first token beside (s)": seconds,
        "beside / alone": seconds / alone,
    }


async def turn(clients: Clients, a: argparse.Namespace) -> Found:
    prompt = clients.ids(a.long)
    first = await clients.first(prompt, reuse=True)
    again = await clients.ask([*prompt, *clients.ids(SHORT)], 2, reuse=True)
    second = again.events[0] - again.sent
    return {
        "first turn (s)": first,
        "second turn (s)": second,
        "second / first": second / first,
        "found": again.cached / a.long,
    }


async def keys(clients: Clients, a: argparse.Namespace) -> Found:
    alone = await clients.first(clients.ids(a.prompt), key=KEYS[1])
    prompts = [clients.ids(a.prompt) for _ in range(a.queue)]
    mine = clients.ids(a.prompt)
    answer, gaps = await clients.among(prompts, a.new, 1, lambda: clients.ask(mine, 2, key=KEYS[1]), key=KEYS[0])
    one_pass, seconds = percentile(gaps, 0.5), answer.events[0] - answer.sent
    return {
        "first token alone (s)": alone,
        "a pass (s)": one_pass,
        "first token (s)": seconds,
        "relative to 2 x alone + a pass": seconds / (2 * alone + one_pass),
    }


async def idle(clients: Clients, a: argparse.Namespace) -> Found:
    alone = await clients.gaps(a.streams, a.new)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{clients.port}\r\nContent-Type: application/json\r\n"
    begun = [b"", head[: len(head) // 2].encode(), f"{head}Content-Length: 100000\r\n\r\n".encode()]
    writers = []
    try:
        for i in range(a.idle):
            _, writer = await asyncio.open_connection("127.0.0.1", clients.port)
            writers.append(writer)
            writer.write(begun[i % 3])

        async def trickle() -> None:
            while True:
                for writer in writers[2::3]:
                    writer.write(b" ")
                await asyncio.sleep(1)

        slow = asyncio.create_task(trickle())
        try:
            beside = await clients.gaps(a.streams, a.new)
        finally:
            slow.cancel()
    finally:
        for writer in writers:
            writer.close()
    found = {f"gap {name} alone (s)": percentile(alone, p) for name, p in (("p50", 0.5), ("p99", 0.99))}
    found |= {f"gap {name} beside (s)": percentile(beside, p) for name, p in (("p50", 0.5), ("p99", 0.99))}
    return found | {"p99 beside / alone": percentile(beside, 0.99) / percentile(alone, 0.99)}


SITUATIONS = {"beside": beside, "turn": turn, "keys": keys, "idle": idle}


def command(name: str, program: str, path: Path, port: int, a: argparse.Namespace, key_file: Path | None) -> list[str]:
    """How a server is started. Without guesses, so that a pass gives each stream one token."""
    room = 2 * a.long + 64
    if name == "pellucid":
        options = ["--port", str(port), "--threads", str(a.threads), "--max-gap", str(a.max_gap)]
        options += ["--context", str(room), "--max-waiting", str(2 * a.queue), "--no-speculate"]
        options += [] if key_file is None else ["--key-file", str(key_file)]
        return [sys.executable, "-m", "pellucid", "serve", "-m", f"model={path}", *options]
    options = ["-np", str(a.streams + 1), "-kvu", "-c", str((a.streams + 1) * room)]
    options += ["-t", str(a.threads), "-tb", str(a.threads)]
    return [program, "-m", str(path), "--port", str(port), "--host", "127.0.0.1", *options]


def measure(a: argparse.Namespace, path: Path, vocab: int) -> dict[str, dict[str, list[Found]]]:
    """-> by situation and server, the results of each repetition."""
    found: dict[str, dict[str, list[Found]]] = {}
    for situation in a.only:
        with ExitStack() as stack:
            key_file = None
            if situation == "keys":
                key_file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "keys"
                key_file.touch(0o600)
                key_file.write_text("".join(f"{key} client-{i}\n" for i, key in enumerate(KEYS)))
            servers = {}
            for name, program in {"pellucid": "", **({} if key_file else a.peers)}.items():
                port = free_port()
                servers[name] = Server(name, command(name, program, path, port, a, key_file), port)
                stack.callback(servers[name].close)
            runs: dict[str, list[Found]] = {name: [] for name in servers}
            for round in range(a.repeat + 1):  # the first one warms up
                for name, server in servers.items():
                    note(f"{situation} {round}/{a.repeat}: {name}")
                    server.resume()
                    try:
                        clients = Clients(server.port, vocab, a.seed + round)
                        result = asyncio.run(SITUATIONS[situation](clients, a))
                    finally:
                        server.stop()
                    if round:
                        runs[name].append(result)
            found[situation] = runs
    return found


def markdown(doc: dict[str, Any]) -> str:
    lines = [
        f"**{doc['file']}**, {doc['date']}, commit {doc['commit']}: {doc['cpu']}, {doc['threads']} threads.",
        f"{doc['long']} tokens, {doc['streams']} streams, max_gap {doc['max_gap']:g} s, {doc['queue']} requests that "
        f"wait; medians of {doc['repeat']}, {doc['busy_cores']:.1f} cores busy before.",
    ]
    for situation, servers in doc["found"].items():
        names = list(servers)
        lines += ["", f"| {situation} | " + " | ".join(NAMES[n] for n in names) + " |", "|---|" + "---|" * len(names)]
        for figure in servers["pellucid"][0]:
            cells = []
            for name in names:
                own = name == "pellucid" or "max_gap" not in figure
                cells.append(f"{statistics.median(run[figure] for run in servers[name]):.3f}" if own else "")
            lines.append(f"| {figure} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    about = parser(__doc__)
    about.add_argument("--only", action="append", choices=list(SITUATIONS), help="default: all")
    about.add_argument("--streams", type=count, default=8)
    about.add_argument("--long", type=count, default=4000, help="tokens of the long prompt")
    about.add_argument("--prompt", type=count, default=256, help="tokens of the prompts of clients with keys")
    about.add_argument("--new", type=count, default=128, help="tokens of the first key's answers")
    about.add_argument("--queue", type=count, default=100, help="requests of the first key")
    about.add_argument("--idle", type=count, default=600, help="inactive connections")
    about.add_argument("--max-gap", type=float, default=0.1, metavar="SECONDS")
    a = about.parse_args(arguments)
    a.only = a.only or list(SITUATIONS)
    check(about, a)
    if a.new <= SETTLED:
        about.error(f"--new {a.new}: expected more than {SETTLED}")
    if not a.max_gap > 0:
        about.error(f"--max-gap {a.max_gap:g}: expected more than 0")
    return a


def main(arguments: list[str] | None = None) -> None:
    from pellucid import Model, _engine
    from pellucid.bench.history import commit
    from pellucid.weights import catalog

    a = parse(arguments)
    path = Path(a.model) if os.path.exists(a.model) else Path(catalog.fetch(a.model))
    busy = busy_cores()
    with Model.load(path, threads=1, context=64) as model:
        vocab = model.info().vocab
    doc = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit(),
        "cpu": _engine.cpu_name(),
        "busy_cores": busy,
        "file": path.name,
        **{name: getattr(a, name) for name in ("threads", "long", "streams", "max_gap", "queue", "repeat")},
        "found": measure(a, path, vocab),
    }
    if a.json:
        a.json.write_text(json.dumps(doc, indent=1))
    print(markdown(doc))


if __name__ == "__main__":
    main()
