"""Compares `pellucid serve` with another server, and with the library without a server: the same file, in turns.

    python benchmarks/serve.py MODEL [--peer llama_server=PATH] [--clients 1 --clients 16] [--load 0.7]

Each server is a separate process that is stopped except during its turns; so is the library, which generates as many
prompts together as there are clients. Every request has --prompt random token ids, new ones each time, and --new tokens
are generated greedily, streamed. benchmarks/load.py sends them. --load: requests also arrive at random, at this
fraction of the rate of the slowest server with 16 clients. CONTRIBUTING.md describes how llama-server is built.

The server's tokens/s are also given relative to the library's: to those of `Model.stream` with one client, of
`generate` with more. `python benchmarks/plots.py --serve FILE` draws what --json wrote; benchmarks/situations.py
measures the effect of a long prompt, an earlier turn and another client's queue on the first token and the gaps.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.arguments import count, page, target  # noqa: E402
from benchmarks.load import Plan  # noqa: E402
from benchmarks.peers import BUSY, QUIET, Worker, busy_cores, note, replaced, worker  # noqa: E402

NAMES = {"pellucid": "pellucid serve", "llama_server": "llama-server", "library": "generate"}
CLIENTS = (1, 4, 16, 64)
START = 300.0  # maximum seconds until a server is healthy


class Server:
    """A server's process. Stopped (SIGSTOP) except during its turns."""

    def __init__(self, name: str, command: list[str], port: int) -> None:
        self.name, self.port = name, port
        self.log = subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        try:
            self._healthy()
        except BaseException:
            self.close()
            raise
        self.stop()

    def _healthy(self) -> None:
        end = time.monotonic() + START
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with exit code {self.process.returncode}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise RuntimeError(f"{self.name} was not healthy after {START:g} s")

    def stop(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def command(name: str, program: str, path: Path, port: int, a: argparse.Namespace) -> list[str]:
    """How a server is started: every client has a slot, none waits for memory, and no tokens are guessed, since greedy
    answers to random ids repeat themselves, which would make guesses unrealistically good."""
    most, room = max(*a.clients, 32), a.prompt + a.new + 8
    if name == "pellucid":
        options = ["--sequences", str(most), "--max-waiting", str(4 * most), "--threads", str(a.threads)]
        options.append("--no-speculate")
        return [sys.executable, "-m", "pellucid", "serve", "-m", f"model={path}", "--port", str(port), *options]
    options = ["-np", str(most), "-kvu", "-c", str(most * room), "-t", str(a.threads), "-tb", str(a.threads)]
    return [program, "-m", str(path), "--port", str(port), "--host", "127.0.0.1", *options]


def drive(server: Server, plan: Plan) -> dict[str, Any]:
    """A turn of a server: the result of benchmarks/load.py."""
    server.resume()
    try:
        done = subprocess.run(
            [sys.executable, str(HERE / "load.py")], input=json.dumps(asdict(plan)), capture_output=True, text=True
        )
    finally:
        server.stop()
    if done.returncode:
        raise RuntimeError(f"benchmarks/load.py failed: {done.stderr.strip().splitlines()[-1]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def figures(result: dict[str, Any]) -> dict[str, Any]:
    """tokens/s of a turn, percentiles of seconds to the first token and between events, cores of the clients, and the
    first error."""
    answers = result["answers"]
    good = [a for a in answers if not a["error"] and a["events"]]
    first = [a["events"][0] - a["sent"] for a in good]
    gaps = [y - x for a in good for x, y in zip(a["events"], a["events"][1:])]
    return {
        "rate": sum(a["tokens"] for a in good) / result["seconds"],
        "requests": len(good) / result["seconds"],
        "failed": len(answers) - len(good),
        "error": next((a["error"] for a in answers if a["error"]), ""),
        "first50": percentile(first, 0.5),
        "first99": percentile(first, 0.99),
        "gap50": percentile(gaps, 0.5),
        "gap99": percentile(gaps, 0.99),
        "clients_cores": result["cpu"] / result["seconds"],
    }


def percentile(values: list[float], p: float) -> float:
    """The value that is not exceeded by a fraction p of the values; NaN without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(p * len(ordered)))] if ordered else float("nan")


class Comparison:
    def __init__(self, a: argparse.Namespace, path: Path) -> None:
        self.a, self.path, self.seed = a, path, a.seed
        self.servers: dict[str, Server] = {}
        self.errors: dict[str, str] = {}

    def start(self, stack: ExitStack) -> None:
        self.direct: Worker = stack.enter_context(worker("pellucid", sys.executable))
        facts = self.direct.ask("load", path=str(self.path), threads=self.a.threads, context=4096)
        self.vocab, self.isa = facts["vocab"], facts["isa"]
        for name, program in {"pellucid": "", **self.a.peers}.items():
            port = free_port()
            server = Server(name, command(name, program, self.path, port, self.a), port)
            stack.callback(server.close)
            self.servers[name] = server

    def plan(self, server: Server, clients: int, requests: int, rate: float | None = None, short: bool = False) -> Plan:
        self.seed += 1
        prompt, new = (min(self.a.prompt, 32), min(self.a.new, 8)) if short else (self.a.prompt, self.a.new)
        return Plan(server.port, self.vocab, clients, requests, prompt, new, self.seed, rate)

    def closed(self) -> list[dict[str, Any]]:
        """Runs rounds of each number of clients, in turns: {"clients", name: [figures], "library", "map":
        [tokens/s]}."""
        out: list[dict[str, Any]] = [
            {"clients": n, "library": [], "map": [], **{s: [] for s in self.servers}} for n in self.a.clients
        ]
        for round in range(self.a.repeat + 1):  # the first one warms up, with short requests
            for found in out:
                n = found["clients"]
                requests = n * (self.a.each if round else 1)
                for name, server in self.servers.items():
                    note(f"{round}/{self.a.repeat} {n} clients: {name}")
                    result = figures(drive(server, self.plan(server, n, requests, short=not round)))
                    if result["failed"]:
                        self.errors[name] = f"{result['failed']} of {requests} requests failed with {n} clients"
                        note(f"{self.errors[name]}: {result['error']}")
                    if round:
                        found[name].append(result)
                if round:
                    for key, call in (("library", "serve"), ("map", "map")):
                        found[key].append(self.direct.ask(call, count=n, prompt=self.a.prompt, n=self.a.new))
        return out

    def poisson(self, rate: float) -> dict[str, Any]:
        """Runs requests that arrive at random: {name: [figures]}."""
        out: dict[str, Any] = {name: [] for name in self.servers}
        for round in range(self.a.repeat):
            for name, server in self.servers.items():
                note(f"{round + 1}/{self.a.repeat} {rate:.2f} requests/s: {name}")
                out[name].append(figures(drive(server, self.plan(server, 0, self.a.arrivals, rate))))
        return out


def middle(runs: list[dict[str, Any]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def markdown(doc: dict[str, Any]) -> str:
    """The table of docs/performance.md."""
    names = doc["servers"]
    lines = [
        f"**{doc['file']}**, {doc['date']}, commit {doc['commit']}: {doc['cpu']}, {doc['threads']} threads, "
        f"{doc['isa']}.",
        f"{doc['prompt']} tokens in, {doc['new']} out, streamed, medians of {doc['repeat']}.",
        "",
        *([] if doc["busy_cores"] < QUIET else [BUSY.format(doc["busy_cores"]), ""]),
        "| clients | "
        + " | ".join(f"{NAMES[n]}: tokens/s; first token, gap: p50, p99 (s)" for n in names)
        + " | library: `generate` (1: `stream`), `map`, tokens/s | `pellucid serve` relative to that, to others |",
        "|---|" + "---|" * (len(names) + 2),
    ]
    for row in doc["closed"]:
        cells = [_cell(row[name]) for name in names]
        alone = [f"{statistics.median(row[key]):.0f}" for key in ("library", "map")]
        lines.append(
            f"| {row['clients']} | {' | '.join(cells)} | {', '.join(alone)} | {', '.join(_ratios(row, names))} |"
        )
    if doc["poisson"]:
        cells = [_cell(doc["poisson"][name]) for name in names]
        lines.append(f"| {doc['arriving']:.2f} a second, at random | " + " | ".join(cells) + " | | |")
    lines += [f"\n{NAMES[name]}: {text}." for name, text in doc["errors"].items()]
    return "\n".join(lines)


def _ratios(row: dict[str, Any], names: list[str]) -> list[str]:
    """tokens/s of `pellucid serve` relative to the library, and to each other server: medians over the rounds."""
    own = [run["rate"] for run in row["pellucid"]]
    others = [row["library"], *([run["rate"] for run in row[name]] for name in names if name != "pellucid")]
    ratios = ([x / y for x, y in zip(own, other, strict=True) if y] for other in others)
    return [f"{statistics.median(one):.2f}" if one else "-" for one in ratios]


def _cell(runs: list[dict[str, Any]]) -> str:
    first = f"{middle(runs, 'first50'):.2f}, {middle(runs, 'first99'):.2f}"
    return f"{middle(runs, 'rate'):.0f}; {first}; {middle(runs, 'gap50'):.3f}, {middle(runs, 'gap99'):.3f}"


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the common options of programs that compare servers."""
    about = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    about.add_argument("model", help="a GGUF file or a catalogue name")
    about.add_argument("--peer", action="append", default=[], metavar="llama_server=PATH")
    about.add_argument("--threads", type=count, default=len(os.sched_getaffinity(0)))
    about.add_argument("--repeat", type=count, default=5)
    about.add_argument("--seed", type=int, default=int(time.time()))
    about.add_argument("--json", type=target, metavar="FILE", help="write everything there")
    return about


def check(about: argparse.ArgumentParser, a: argparse.Namespace) -> None:
    """Reads the peers into `a.peers`; ends the program if they are invalid."""
    a.peers = dict(peer.partition("=")[::2] for peer in a.peer)
    for name, program in a.peers.items():
        if name != "llama_server" or not shutil.which(program):
            about.error(f"--peer {name}={program}: expected llama_server=PATH of a program")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    about = parser(__doc__)
    about.add_argument("--clients", action="append", type=count, metavar="N", help=f"default: {CLIENTS}")
    about.add_argument("--prompt", type=count, default=256)
    about.add_argument("--new", type=count, default=128)
    about.add_argument("--each", type=count, default=2, help="requests of each client in a round")
    about.add_argument("--load", type=float, metavar="FRACTION", help="also send requests at random times")
    about.add_argument("--arrivals", type=count, default=64, help="requests that arrive at random in a round")
    about.add_argument("--into", type=page, metavar="FILE", help="put the table into a document, over the model's last")
    a = about.parse_args(arguments)
    a.clients = a.clients or list(CLIENTS)
    check(about, a)
    if a.load is not None and not 0 < a.load < 1:
        about.error(f"--load {a.load:g}: expected more than 0 and less than 1")
    return a


def main(arguments: list[str] | None = None) -> None:
    from pellucid import _engine
    from pellucid.bench.history import commit
    from pellucid.weights import catalog

    a = parse(arguments)
    path = Path(a.model) if os.path.exists(a.model) else Path(catalog.fetch(a.model))
    busy = busy_cores()
    with ExitStack() as stack:
        compared = Comparison(a, path)
        compared.start(stack)
        closed = compared.closed()
        poisson, rate = {}, 0.0
        if a.load is not None:
            most = max(closed, key=lambda row: min(row["clients"], 16))
            rate = a.load * min(middle(most[name], "requests") for name in compared.servers)
            if rate > 0:
                poisson = compared.poisson(rate)
    doc = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit(),
        "cpu": _engine.cpu_name(),
        "busy_cores": busy,
        "isa": compared.isa,
        "file": path.name,
        "servers": list(compared.servers),
        "errors": compared.errors,
        "arriving": rate,
        "closed": closed,
        "poisson": poisson,
        **{name: getattr(a, name) for name in ("threads", "prompt", "new", "repeat")},
    }
    if a.json:
        a.json.write_text(json.dumps(doc, indent=1))
    table = markdown(doc)
    if a.into:
        a.into.write_text(replaced(a.into.read_text(), f"server, {path.name}", table))
    if not a.json and not a.into:
        print(table)


if __name__ == "__main__":
    main()
