"""Plots of speed against depth and against the number of sequences, with the machine's limit drawn in.

    python benchmarks/plots.py smollm2-135m [--peer llama_cpp=PYTHON ...] [--out docs/]      measures, then draws
    python benchmarks/plots.py --from docs/speed.json [--out docs/]                          draws what was measured

Writes speed.json, depth.svg and sequences.svg. Needs matplotlib (extra `plots`).
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
    """-> the contents of speed.json: per plot the axis, and tokens/s (medians) of every runtime and of the limit."""
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


def draw(doc: dict[str, Any], folder: Path) -> None:
    """Writes depth.svg and sequences.svg."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "pellucid", "font.size": 10})
    import matplotlib.pyplot as plt

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


def main(arguments: list[str] | None = None) -> None:
    from pellucid import _engine
    from pellucid.weights import catalog

    about = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about.add_argument("model", nargs="?", help="a GGUF file or a name of the catalogue")
    about.add_argument("--from", dest="source", type=Path, metavar="FILE", help="a speed.json to draw")
    about.add_argument("--out", type=Path, default=peers.ROOT / "docs")
    about.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    about.add_argument("--threads", type=int)
    about.add_argument("--repeat", type=int, default=3)
    a = about.parse_args(arguments)
    if (a.model is None) == (a.source is None):
        about.error("expected either a model or --from FILE")
    if a.source:
        doc = json.loads(a.source.read_text(encoding="utf-8"))
    else:
        path = Path(a.model) if Path(a.model).exists() else Path(catalog.fetch(a.model))
        workers = peers.parse([a.model, *(f"--peer={p}" for p in a.peer)]).peers
        doc = measure(path, a.threads or _engine.topology()[0], workers, a.repeat)
        (a.out / "speed.json").write_text(json.dumps(doc, indent=2) + "\n", encoding="utf-8")
    draw(doc, a.out)


if __name__ == "__main__":
    main()
