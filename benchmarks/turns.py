"""Time to the first token of a conversation's turns, with the prefix cache.

    python benchmarks/turns.py [MODEL ...] [--tokens 4000] [--new 40] [--repeat 5] [--threads N]

Each conversation begins with different tokens. Its first turn is a prompt of `--tokens`; the second one continues it
and its answer with `--new` tokens. The table has the medians, their ratio, which should be at most 0.1, and the share
of the first turn that was cached for the second.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.arguments import count
from pellucid import Model

ANSWER = 32  # tokens


def measure(model: Model, tokens: int, new: int, seed: int) -> tuple[float, float, float]:
    """(seconds to the first token of the first turn, of the second, the share of the first one that was cached)."""
    rng, vocab = random.Random(seed), model.info().vocab
    prompt = [rng.randrange(vocab) for _ in range(tokens)]
    first = model.generate(prompt, max_tokens=ANSWER, temperature=0, ignore_eos=True, speculate=False)
    prompt += [*first.ids, *(rng.randrange(vocab) for _ in range(new))]
    second = model.generate(prompt, max_tokens=1, temperature=0, ignore_eos=True, speculate=False)
    return (
        first.timings.first_token,
        second.timings.first_token,
        second.timings.cached_tokens / (tokens + len(first.ids)),
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["smollm2-135m", "gemma3-270m"], metavar="MODEL")
    parser.add_argument("--tokens", type=count, default=4000)
    parser.add_argument("--new", type=count, default=40)
    parser.add_argument("--repeat", type=count, default=5)
    parser.add_argument("--threads", type=count)
    args = parser.parse_args(argv)
    print(f"{'model':24} {'first turn':>10} {'second':>10} {'ratio':>7} {'found':>7}")
    for name in args.models:
        with Model.load(name, threads=args.threads, prefix_cache=True) as model:
            runs = [measure(model, args.tokens, args.new, seed) for seed in range(args.repeat)]
        first, second, found = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"{name[-24:]:24} {first:8.3f} s {second:8.3f} s {second / first:7.3f} {found:7.1%}")


if __name__ == "__main__":
    main()
