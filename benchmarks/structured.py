"""Tokens per second of answers constrained by a structure, relative to free ones.

    python benchmarks/structured.py [MODEL] [--callers 1 16] [--tokens 64] [--repeat 5] [--threads N] [--json OUT.json]

Tokens that a structure forces are not drawn, so that a pass yields more than one; masks are computed during the pass.
Each structure and no structure are measured in turns, so that changes of the machine's speed affect both, for the same
number of concurrent callers and of new tokens each. Without guesses, which would help some of them. The table has the
medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.arguments import count, target
from pellucid import Model

# Arrays of at least this many items, so that no answer ends before TOKENS.
KINDS: dict[str, dict[str, Any]] = {
    "strings": {"schema": {"type": "array", "items": {"type": "string", "minLength": 300}, "minItems": 9}},
    "numbers": {"schema": {"type": "array", "items": {"type": "integer"}, "minItems": 99}},
    "objects": {
        "schema": {
            "type": "array",
            "minItems": 99,
            "items": {
                "type": "object",
                "properties": {"first name": {"type": "string"}, "born in the year": {"type": "integer"}},
                "required": ["first name", "born in the year"],
                "additionalProperties": False,
            },
        }
    },
    "expression": {"regex": "[a-z ]{1000}"},
}


def run(model: Model, callers: int, tokens: int, **structure: Any) -> float:
    """Tokens per second of all callers together."""
    prompts = [[1 + i, 2, 3] for i in range(callers)]
    start = time.perf_counter()
    done = model.generate(
        prompts, max_tokens=tokens, seed=1, temperature=1.0, ignore_eos=True, speculate=False, **structure
    )
    seconds = time.perf_counter() - start
    if sum(len(one.ids) for one in done) != callers * tokens:
        raise SystemExit(f"{structure}: an answer ended before {tokens} tokens")
    return callers * tokens / seconds


def measure(model: Model, callers: int, tokens: int, repeat: int) -> list[dict[str, Any]]:
    """One row per structure: tokens per second with and without it, each a list."""
    rows = []
    for kind, structure in KINDS.items():
        row: dict[str, Any] = {"structure": kind, "callers": callers, "free": [], "bound": []}
        run(model, callers, 2, **structure)  # so that it is compiled
        for turn in range(repeat):
            for key, one in [("free", {}), ("bound", structure)][:: 1 if turn % 2 == 0 else -1]:
                row[key].append(run(model, callers, tokens, **one))
        rows.append(row)
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m", metavar="MODEL")
    parser.add_argument("--callers", type=count, nargs="+", default=[1, 16])
    parser.add_argument("--tokens", type=count, default=64)
    parser.add_argument("--repeat", type=count, default=5)
    parser.add_argument("--threads", type=count)
    parser.add_argument("--json", type=target, metavar="OUT.json")
    args = parser.parse_args(argv)
    with Model.load(args.model, threads=args.threads) as model:
        run(model, 1, 8)  # warms up the memory
        rows = [row for callers in args.callers for row in measure(model, callers, args.tokens, args.repeat)]
    print(f"{'structure':12} {'callers':>7} {'free':>12} {'bound':>12} {'ratio':>7}")
    for row in rows:
        free, bound = statistics.median(row["free"]), statistics.median(row["bound"])
        print(
            f"{row['structure']:12} {row['callers']:7} {free:8.1f} t/s {bound:8.1f} t/s {bound / free:7.2f}", flush=True
        )
    if args.json:
        document = {"model": args.model, "tokens": args.tokens, "rows": rows}
        args.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
