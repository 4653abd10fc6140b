"""Accepted tokens per pass and tokens per second, with and without guesses, in turns.

    python benchmarks/speculate.py [MODEL] [--draft MODEL] [--tokens 256] [--repeat 5] [--threads N] [--text NAME ...]
                                   [--json OUT.json] [--plot OUT.svg]

Each text is continued once with `speculate="auto"` and once without, in turns, so that changes of the machine's speed
affect both. The table has the medians, also of the ratio of each turn. The ids of both must agree. Prose is drawn at a
temperature of 1, different in each turn; the others are greedy. Small models that write prose greedily soon repeat
themselves, which makes guessing easy. A plot needs matplotlib (extra `plots`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.arguments import count, target
from pellucid import Model

CODE = """def {0}(path):
    with open(path, encoding="utf-8") as file:
        return [line.strip() for line in file if line.strip()]


"""
TEXTS = {
    "repeating text": "The red fox ran over the hill. The grey wolf slept under the tree. " * 12,
    "code": "".join(CODE.format(f"read_{name}") for name in ("names", "places", "dates", "prices"))
    + "def read_colours",
    "prose": (
        "The harbour was quiet when the last boat came in. Nobody on the quay had expected it so late in the year, and "
        "the old man who kept the light put down his book to see who would step ashore. What he saw surprised him:"
    ),
    "JSON": json.dumps(
        [
            {"id": n, "name": name, "address": {"city": city, "country": "France"}, "active": True}
            for n, (name, city) in enumerate([("Anne", "Paris"), ("Paul", "Lyon"), ("Marie", "Lille"), ("Luc", "Nice")])
        ],
        indent=1,
    )[:-2]
    + ",",
}

TEMPERATURES = {"prose": 1.0}


def run(
    model: Model, text: str, tokens: int, speculate: Any, temperature: float = 0, seed: int = 1
) -> tuple[list[int], float, float]:
    """(ids, tokens per second, tokens per pass) of a continuation."""
    before = model.stats().passes
    done = model.generate(
        text, max_tokens=tokens, temperature=temperature, seed=seed, ignore_eos=True, speculate=speculate
    )
    passes = model.stats().passes - before
    return done.ids, done.timings.decode_rate, len(done.ids) / passes


def measure(model: Model, tokens: int, repeat: int, texts: Sequence[str] = tuple(TEXTS)) -> list[dict[str, Any]]:
    """One row per text: tokens per second with and without guesses, and tokens per pass with them, each a list."""
    rows = []
    for name in texts:
        temperature = TEMPERATURES.get(name, 0)
        row: dict[str, Any] = {"text": name, "with": [], "without": [], "per_pass": []}
        for turn in range(repeat):
            found = {}
            for speculate in ("auto", False) if turn % 2 == 0 else (False, "auto"):
                found[speculate] = run(model, TEXTS[name], tokens, speculate, temperature, turn)
            if found["auto"][0] != found[False][0]:
                raise SystemExit(f"{name}: different ids with guesses than without")
            row["with"].append(found["auto"][1])
            row["without"].append(found[False][1])
            row["per_pass"].append(found["auto"][2])
        rows.append(row)
    return rows


def draw(rows: list[dict[str, Any]], path: str) -> None:
    """A plot: tokens per second with and without, and tokens per pass."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    names = [row["text"] for row in rows]
    figure, (speed, passes) = pyplot.subplots(1, 2, figsize=(9, 3.2))
    at = range(len(rows))
    for shift, key, label in ((-0.2, "without", "without guesses"), (0.2, "with", "with guesses")):
        speed.bar([i + shift for i in at], [statistics.median(row[key]) for row in rows], 0.4, label=label)
    speed.set_ylabel("tokens per second")
    speed.legend(frameon=False)
    passes.bar(at, [statistics.median(row["per_pass"]) for row in rows], 0.5)
    passes.axhline(1, color="black", linewidth=0.8)
    passes.set_ylabel("tokens per pass")
    for axes in (speed, passes):
        axes.set_xticks(list(at), names, rotation=15)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m", metavar="MODEL")
    parser.add_argument("--draft", metavar="MODEL")
    parser.add_argument("--tokens", type=count, default=256)
    parser.add_argument("--repeat", type=count, default=5)
    parser.add_argument("--threads", type=count)
    parser.add_argument("--text", nargs="+", choices=TEXTS, default=list(TEXTS), metavar="NAME")
    parser.add_argument("--json", type=target, metavar="OUT.json")
    parser.add_argument("--plot", type=target, metavar="OUT.svg")
    args = parser.parse_args(argv)
    with Model.load(args.model, threads=args.threads, draft=args.draft) as model:
        run(model, "One, two, three.", 32, False)  # so that the speed of passes is known
        rows = measure(model, args.tokens, args.repeat, args.text)
    print(f"{'text':16} {'without':>12} {'with':>12} {'ratio':>7} {'tokens a pass':>14}")
    for row in rows:
        without, guessed = statistics.median(row["without"]), statistics.median(row["with"])
        ratio = statistics.median(b / a for a, b in zip(row["without"], row["with"], strict=True))
        a_pass = statistics.median(row["per_pass"])
        print(f"{row['text']:16} {without:8.1f} t/s {guessed:8.1f} t/s {ratio:7.2f} {a_pass:14.2f}")
    if args.json:
        document = {"model": args.model, "draft": args.draft, "tokens": args.tokens, "rows": rows}
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    if args.plot:
        draw(rows, args.plot)


if __name__ == "__main__":
    main()
