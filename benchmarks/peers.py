"""Compares Pellucid with other runtimes: same file, same number of threads, in turns (A B A B).

    python benchmarks/peers.py MODEL --peer llama_cpp=PYTHON [--peer openvino=PYTHON] [--peer transformers=PYTHON]

PYTHON is the interpreter of an environment that has the peer (benchmarks/workers/ says what each needs). Every runtime
is a separate process that is stopped except during its turns. Prompts are random token ids, new ones each time. Beside
each phase is the limit of the machine at that time (explained by `pellucid bench`), and, if there is a stored reference
for the file (tests/reference), the mean KL divergence from full precision.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from benchmarks.arguments import count, page, target  # noqa: E402

NAMES = {"pellucid": "Pellucid", "llama_cpp": "llama.cpp", "openvino": "OpenVINO GenAI", "transformers": "transformers"}
CONTEXT = 4096 + 256
QUIET = 0.15  # cores at work, or taken by other machines, on an otherwise idle machine
BUSY = "The machine was also doing other work ({:.1f} cores of it): these figures are not reliable."
COLD = 5  # tokens of a cold start's prompt


class Worker:
    """A runtime in a separate process, which is stopped except during a request."""

    def __init__(self, name: str, python: str) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [python, str(HERE / "workers" / f"{name}_worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if name != "pellucid" else None,
            text=True,
        )

    def ask(self, do: str, **arguments: Any) -> Any:
        """A request's result. Raises RuntimeError if the runtime reported an error or ended."""
        assert self.process.stdin is not None and self.process.stdout is not None
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)
        try:
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"the process ended with exit code {self.process.wait()}")
        os.kill(self.process.pid, signal.SIGSTOP)
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def worker(name: str, python: str) -> Iterator[Worker]:
    made = Worker(name, python)
    try:
        yield made
    finally:
        made.close()


@dataclass(frozen=True)
class Phase:
    """kind: "prefill", "decode", "together" or "cold"; size: prompt length, depth, or number of sequences."""

    name: str
    kind: str
    size: int
    steps: int = 0

    @property
    def tokens(self) -> int:
        """Number of tokens that the rate is computed from."""
        return {"prefill": self.size, "decode": self.steps, "together": self.steps * self.size, "cold": 1}[self.kind]


PHASES = (
    Phase("prefill 512", "prefill", 512),
    Phase("prefill 4096", "prefill", 4096),
    Phase("decode at 0", "decode", 0, 64),
    Phase("decode at 4096", "decode", 4096, 64),
    Phase("4 sequences", "together", 4, 64),
    Phase("16 sequences", "together", 16, 64),
    Phase("cold start", "cold", COLD),
)


class Comparison:
    """Runs phases on workers, in turns."""

    def __init__(self, path: Path, threads: int, workers: dict[str, str], seed: int) -> None:
        self.path, self.threads, self.pythons = path, threads, workers
        self.rng = np.random.default_rng(seed)
        self.workers: dict[str, Worker] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.errors: dict[str, dict[str, str]] = {}
        self.busy_cores = busy_cores()  # before this process adds to it
        self.memory: dict[str, list[float]] = {}  # peaks of cold starts, MB
        self.vocab = 0
        self.deep: dict[int, list[int]] = {}

    def start(self, stack: ExitStack) -> None:
        """Starts and loads every worker; one that cannot load is left out, and the reason is printed. Raises SystemExit
        if that is Pellucid."""
        for name, python in self.pythons.items():
            w = stack.enter_context(worker(name, python))
            try:
                self.facts[name] = w.ask("load", path=str(self.path), threads=self.threads, context=CONTEXT)
            except RuntimeError as error:
                self.errors.setdefault(name, {})["load"] = str(error)
                note(f"{name}: {error}")
                continue
            self.workers[name] = w
        if "pellucid" not in self.workers:
            raise SystemExit(f"{self.path}: Pellucid cannot load it, so there is nothing to compare with")
        self.vocab = self.facts["pellucid"]["vocab"]

    def ids(self, n: int) -> list[int]:
        return self.rng.integers(0, self.vocab, n).tolist()

    def once(self, name: str, phase: Phase) -> float:
        """Seconds of one run."""
        w = self.workers[name]
        if phase.kind == "prefill":
            return w.ask("prefill", ids=self.ids(phase.size))
        if phase.kind == "decode":
            ids = self.deep.setdefault(phase.size, self.ids(phase.size + 1))
            return w.ask("decode", depth=phase.size, ids=ids, n=phase.steps)
        if phase.kind == "together":
            return w.ask("together", prompts=[self.ids(1) for _ in range(phase.size)], n=phase.steps)
        self.cold_start(name, phase.size)  # so that no runtime pays for pages evicted while it was stopped
        return self.cold_start(name, phase.size)

    def cold_start(self, name: str, size: int) -> float:
        """Seconds from a new process to its first token."""
        start = time.perf_counter()
        with worker(name, self.pythons[name]) as new:
            new.ask("load", path=str(self.path), threads=self.threads, context=CONTEXT)
            new.ask("prefill", ids=self.ids(size))
            seconds = time.perf_counter() - start
            self.memory.setdefault(name, []).append(new.ask("memory"))
            return seconds

    def limit(self, phase: Phase) -> float | None:
        if phase.kind == "cold":
            return None
        tokens = phase.size if phase.kind == "prefill" else phase.steps
        return self.workers["pellucid"].ask("limit", phase=phase.kind, tokens=tokens, depth=phase.size)

    def run(self, phases: list[Phase], repeat: int) -> list[dict[str, Any]]:
        """Each phase: {"phase", "tokens", "limit": [seconds], "seconds": {runtime: [seconds]}}."""
        out: list[dict[str, Any]] = [
            {"phase": p.name, "tokens": p.tokens, "limit": [], "seconds": {n: [] for n in self.workers}} for p in phases
        ]
        for round in range(repeat):
            for p, found in zip(phases, out, strict=True):
                for name in self.workers:
                    if p.name in self.errors.get(name, {}):
                        continue
                    note(f"{round + 1}/{repeat} {p.name}: {name}")
                    before = self.limit(p) if name == "pellucid" else None  # right beside the turn that it belongs to
                    try:
                        found["seconds"][name].append(self.once(name, p))
                    except RuntimeError as error:
                        self.errors.setdefault(name, {})[p.name] = str(error)
                        note(f"{name}: {error}")
                    after = self.limit(p) if before is not None else None
                    if before is not None and after is not None:
                        found["limit"].append(min(before, after))
        return out

    def precision(self) -> dict[str, Any]:
        """KL divergence over the first window of the file's stored reference; {} if there is none."""
        from tests.reference import corpus

        digest = corpus.file_sha256(self.path)
        known = next((m for m in corpus.MODELS.values() if m.sha256 == digest), None)
        out: dict[str, Any] = {}
        for name, w in self.workers.items() if known else ():
            note(f"KL divergence: {name}")
            try:
                out[name] = w.ask("kl", golden=str(known.golden))  # type: ignore[union-attr]
            except RuntimeError as error:
                self.errors.setdefault(name, {})["kl"] = str(error)
        return out


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def busy_cores(seconds: float = 3.0) -> float:
    """Number of busy cores, on average over some seconds. Source: /proc/stat; 0.0 on systems without it."""

    def times() -> list[int]:
        with open("/proc/stat", encoding="ascii") as file:
            return [int(x) for x in file.readline().split()[1:9]]  # user nice system idle iowait irq softirq steal

    try:
        before = times()
        time.sleep(seconds)
        spent = [b - a for a, b in zip(before, times(), strict=True)]
    except OSError:
        return 0.0
    return (sum(spent) - spent[3] - spent[4]) / (seconds * os.sysconf("SC_CLK_TCK"))


def document(c: Comparison, phases: list[dict[str, Any]], kl: dict[str, Any], label: str = "") -> dict[str, Any]:
    """All results, as plain data. memory_mb: peak memory of a process that loads and generates one token, 1e6 bytes."""
    from pellucid import _engine
    from pellucid.bench.history import commit

    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit(),
        "cpu": _engine.cpu_name(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": c.threads,
        "busy_cores": c.busy_cores,
        "file": c.path.name,
        "label": label,
        "file_bytes": c.path.stat().st_size,
        "runtimes": c.facts,
        "memory_mb": {name: statistics.median(peaks) for name, peaks in c.memory.items()},
        "phases": phases,
        "kl": kl,
        "errors": c.errors,
    }


def markdown(doc: dict[str, Any]) -> str:
    """The tables of docs/performance.md."""
    names = list(doc["runtimes"])
    isa = doc["runtimes"]["pellucid"]["isa"]
    label = f", {doc['label']}" if doc.get("label") else ""
    versions = ", ".join(f"{NAMES[n]} {doc['runtimes'][n]['version']}" for n in names)
    lines = [
        f"**{doc['file']}** ({doc['file_bytes'] / 1e6:.0f} MB){label}, {doc['date']}, commit {doc['commit']}: "
        f"{doc['cpu']}, {doc['threads']} threads, {isa}. {versions}.",
        "",
        *([] if doc["busy_cores"] < QUIET else [BUSY.format(doc["busy_cores"]), ""]),
        "| phase (tokens/s) | " + " | ".join(NAMES[n] for n in names) + " | limit | Pellucid of it |",
        "|---|" + "---|" * (len(names) + 2),
    ]
    for p in doc["phases"]:
        cold = p["phase"] == "cold start"
        cells = [_cell(p["seconds"][n], None if cold else p["tokens"]) for n in names]
        limit, part = "", ""
        if p["limit"]:
            rates = [p["tokens"] / s for s in p["limit"]]
            limit = _rate(statistics.median(rates))
            own = p["seconds"]["pellucid"]
            part = f"{100 * statistics.median(a / b for a, b in zip(p['limit'], own)):.0f} %" if own else ""
        lines.append(f"| {p['phase']}{' (s)' if cold else ''} | " + " | ".join([*cells, limit, part]) + " |")
    if doc["memory_mb"]:
        memory = [f"{doc['memory_mb'][n]:.0f}" if n in doc["memory_mb"] else "-" for n in names]
        lines.append("| peak memory of a cold start (MB) | " + " | ".join([*memory, "", ""]) + " |")
    if doc["kl"]:
        cells = [f"{doc['kl'][n]['mean']:.4f}" if n in doc["kl"] else "-" for n in names]
        lines.append("| mean KL divergence (nats) | " + " | ".join([*cells, "", ""]) + " |")
    for name, errors in doc["errors"].items():
        for what, text in errors.items():
            if text != "not offered":
                lines += ["", f"{NAMES[name]}, {what}: {text[:200]}"]
    return "\n".join(lines)


def replaced(text: str, name: str, table: str) -> str:
    """The document with the table of the file `name` between its marks, or at the end if it has no such marks."""
    start, end = f"<!-- measured: {name} -->\n", "<!-- end -->\n"
    before, found, after = text.partition(start)
    if found:
        _, found, after = after.partition(end)
        if not found:
            raise ValueError(f"{start.strip()} without {end.strip()}")
    else:
        before += "\n" if before and not before.endswith("\n\n") else ""
    return f"{before}{start}{table}\n{end}{after}"


def _cell(seconds: list[float], tokens: int | None) -> str:
    """A median, and the range in brackets."""
    if not seconds:
        return "-"
    values = [s if tokens is None else tokens / s for s in seconds]
    show = (lambda x: f"{x:.2f}") if tokens is None else _rate
    return f"{show(statistics.median(values))} ({show(min(values))}..{show(max(values))})"


def _rate(x: float) -> str:
    return f"{x:.0f}" if x >= 100 else f"{x:.1f}"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    about = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about.add_argument("model", help="a GGUF file or a catalogue name")
    about.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help=f"one of {', '.join(NAMES)}")
    about.add_argument("--threads", type=count, help="default: as Pellucid chooses")
    about.add_argument("--repeat", type=count, default=3)
    about.add_argument("--phase", action="append", default=[], metavar="NAME", help="only phases with this in the name")
    about.add_argument("--seed", type=int, default=int(time.time()))
    about.add_argument("--json", type=target, metavar="FILE", help="write everything there")
    about.add_argument("--markdown", action="store_true", help="print the table; default if no file is given")
    about.add_argument("--into", type=page, metavar="FILE", help="put the table into a document, over the model's last")
    about.add_argument("--label", default="", metavar="TEXT", help="label for a separate table")
    a = about.parse_args(arguments)
    a.peers = {"pellucid": sys.executable}
    for peer in a.peer:
        name, _, python = peer.partition("=")
        if name not in NAMES or name == "pellucid" or not python:
            about.error(
                f"--peer {peer}: expected NAME=PYTHON, NAME one of {', '.join(n for n in NAMES if n != 'pellucid')}"
            )
        if not shutil.which(python):
            about.error(f"--peer {peer}: {python!r} is not a program")
        a.peers[name] = python
    a.phases = [p for p in PHASES if not a.phase or any(part in p.name for part in a.phase)]
    for part in a.phase:
        if not any(part in p.name for p in PHASES):
            about.error(f"--phase {part!r}: the phases are {', '.join(p.name for p in PHASES)}")
    return a


def main(arguments: list[str] | None = None) -> None:
    from pellucid import _engine
    from pellucid.weights import catalog

    a = parse(arguments)
    path = Path(a.model) if os.path.exists(a.model) else Path(catalog.fetch(a.model))
    comparison = Comparison(path, a.threads or _engine.topology()[0], a.peers, a.seed)
    with ExitStack() as stack:
        comparison.start(stack)
        found = comparison.run(a.phases, a.repeat)
        doc = document(comparison, found, comparison.precision(), a.label)
    if a.json:
        a.json.write_text(json.dumps(doc, indent=2) + "\n", encoding="utf-8")
    if a.into:
        name = f"{path.name}, {a.label}" if a.label else path.name
        a.into.write_text(replaced(a.into.read_text(encoding="utf-8"), name, markdown(doc)), encoding="utf-8")
    if a.markdown or not (a.json or a.into):
        print(markdown(doc))


if __name__ == "__main__":
    main()
