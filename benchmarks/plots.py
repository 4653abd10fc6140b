"""Plots of speed against depth and against the number of sequences, with the machine's limit.

    python benchmarks/plots.py smollm2-135m [--peer llama_cpp=PYTHON ...] [--out docs/]      measures, then draws
    python benchmarks/plots.py --from docs/speed.json [--out docs/]                          draws what was measured
    python benchmarks/plots.py --serve serve.json [--out docs/]      draws what `benchmarks/serve.py --json` measured

Writes speed.json, depth.svg and sequences.svg; with --serve, clients.svg: tokens/s, seconds to the first token and
between tokens, against clients. Needs matplotlib (extra `plots`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import peers
from benchmarks.arguments import count, folder

DEPTHS = (0, 512, 1024, 2048, 4096)
SEQUENCES = (1, 2, 4, 8, 16)
STEPS = 32
LABELS = {
    "depth": ("tokens before the first one timed", "one token at a time"),
    "sequences": ("sequences at once", "several sequences side by side"),
}


def points() -> dict[str, list[peers.Phase]]:
    """The phases of each plot, in the order of its axis."""
    return {
        "depth": [peers.Phase(f"depth {d}", "decode", d, STEPS) for d in DEPTHS],
        "sequences": [peers.Phase(f"{n} together", "together", n, STEPS) for n in SEQUENCES],
    }


def measure(path: Path, threads: int, workers: dict[str, str], repeat: int) -> dict[str, Any]:
    """-> the contents of speed.json: for each plot, the axis and tokens/s (medians) of every runtime and of the
    limit."""
    comparison = peers.Comparison(path, threads, workers, int(time.time()))
    out: dict[str, Any] = {}
    with ExitStack() as stack:
        comparison.start(stack)
        for plot, phases in points().items():
            found = comparison.run(phases, repeat)
            out[plot] = {
                "x": [p.size for p in phases],
                "limit": [statistics.median(f["tokens"] / s for s in f["limit"]) for f in found],
                "runtimes": {
                    name: [
                        statistics.median(f["tokens"] / s for s in f["seconds"][name]) if f["seconds"][name] else None
                        for f in found
                    ]
                    for name in comparison.workers
                },
            }
        return {**peers.document(comparison, [], {}), "plots": out}


def clients(doc: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """doc: from benchmarks/serve.py. -> by figure and runtime, the medians for each number of clients."""
    out: dict[str, dict[str, list[float]]] = {}
    for key in ("rate", "first50", "first99", "gap50", "gap99"):
        runs = {name: [row[name] for row in doc["closed"]] for name in doc["servers"]}
        out[key] = {name: [statistics.median(run[key] for run in one) for one in rows] for name, rows in runs.items()}
    out["rate"]["library"] = [statistics.median(row["library"]) for row in doc["closed"]]
    return out


def draw_clients(doc: dict[str, Any], folder: Path) -> None:
    """Writes clients.svg from the results of benchmarks/serve.py."""
    from benchmarks.serve import NAMES

    plt = _pyplot()
    x, found = [row["clients"] for row in doc["closed"]], clients(doc)
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    panels = (("tokens per second", "rate", ""), ("seconds to the first token", "first50", "first99"))
    for panel, (ylabel, middle, high) in zip(
        axes, (*panels, ("seconds between tokens", "gap50", "gap99")), strict=True
    ):
        for i, (name, values) in enumerate(found[middle].items()):
            label = f"{NAMES[name]}, p50" if high else NAMES[name]
            panel.plot(x, values, marker="o", color=f"C{i}", linewidth=2.2 if name == "pellucid" else 1.2, label=label)
            if high:
                panel.plot(x, found[high][name], marker="o", color=f"C{i}", linestyle="--", label=f"{NAMES[name]}, p99")
        panel.set_xscale("log", base=2)
        panel.set_xticks(x, [str(n) for n in x])
        panel.set_yscale("log")
        panel.set_xlabel("clients")
        panel.set_ylabel(ylabel)
        panel.grid(True, which="both", color="0.9")
        panel.legend(fontsize=8)
    sizes = f"{doc['prompt']} tokens in, {doc['new']} out"
    figure.suptitle(f"{doc['file']}, {sizes}; {doc['cpu']}, {doc['threads']} threads, {doc['date']}", fontsize=10)
    figure.savefig(folder / "clients.svg", metadata={"Date": None})
    plt.close(figure)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "pellucid", "font.size": 10})
    import matplotlib.pyplot as plt

    return plt


def draw(doc: dict[str, Any], folder: Path) -> None:
    """Writes depth.svg and sequences.svg."""
    plt = _pyplot()
    for plot, data in doc["plots"].items():
        figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
        axes.plot(data["x"], data["limit"], color="0.45", linestyle="--", label="limit of the machine")
        for name, values in data["runtimes"].items():
            own = name == "pellucid"
            axes.plot(data["x"], values, marker="o", linewidth=2.2 if own else 1.2, label=peers.NAMES[name])
        if plot == "sequences":
            axes.set_xscale("log", base=2)
            axes.set_xticks(data["x"], [str(x) for x in data["x"]])
        axes.set_yscale("log")
        xlabel, title = LABELS[plot]
        axes.set_xlabel(xlabel)
        axes.set_ylabel("tokens per second")
        axes.set_title(f"{doc['file']}, {title}\n{doc['cpu']}, {doc['threads']} threads, {doc['date']}", fontsize=10)
        axes.grid(True, which="both", color="0.9")
        axes.legend()
        figure.savefig(folder / f"{plot}.svg", metadata={"Date": None})
        plt.close(figure)


def read(about: argparse.ArgumentParser, path: Path, option: str, key: str, writer: str) -> dict[str, Any]:
    """The document of a file that `writer` wrote. Ends the program if it has no `key`."""
    try:
        doc = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        about.error(f"{option} {path}: {error}")
    if not isinstance(doc, dict) or key not in doc:
        about.error(f"{option} {path}: expected what {writer} wrote")
    return doc


def main(arguments: list[str] | None = None) -> None:
    from pellucid import _engine
    from pellucid.weights import catalog

    about = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about.add_argument("model", nargs="?", help="a GGUF file or a catalogue name")
    about.add_argument("--from", dest="source", type=Path, metavar="FILE", help="a speed.json to draw")
    about.add_argument("--serve", type=Path, metavar="FILE", help="the output of benchmarks/serve.py --json, to draw")
    about.add_argument("--out", type=folder, default=peers.ROOT / "docs")
    about.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    about.add_argument("--threads", type=count)
    about.add_argument("--repeat", type=count, default=3)
    a = about.parse_args(arguments)
    if sum(one is not None for one in (a.model, a.source, a.serve)) != 1:
        about.error("expected either a model or --from FILE or --serve FILE")
    if a.serve:
        draw_clients(read(about, a.serve, "--serve", "closed", "benchmarks/serve.py --json"), a.out)
        return
    if a.source:
        doc = read(about, a.source, "--from", "plots", "this program")
    else:
        path = Path(a.model) if Path(a.model).exists() else Path(catalog.fetch(a.model))
        workers = peers.parse([a.model, *(f"--peer={p}" for p in a.peer)]).peers
        doc = measure(path, a.threads or _engine.topology()[0], workers, a.repeat)
        (a.out / "speed.json").write_text(json.dumps(doc, indent=2) + "\n", encoding="utf-8")
    draw(doc, a.out)


if __name__ == "__main__":
    main()
