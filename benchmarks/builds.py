"""Compares two builds of Pellucid in turns: how much faster one generates than the other.

    python benchmarks/builds.py [MODEL] --other PYTHON [--sequences 16] [--prompt 4] [--tokens 24] [--starts 6]
                                [--rounds 15] [--threads N]

PYTHON is the interpreter of an environment with the other build. Each build runs in a separate process, which waits
while the other one generates, so that both meet the same conditions on a shared machine. The placement of memory
differs between processes, which matters as much as the machine's other work, so both are restarted several times. It
prints the median of the ratios of times, other / this one: above 1, this build is faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.arguments import count, program

CHILD = """
import json, random, sys, time
from pellucid import Model
model, sequences, prompt, tokens, threads = json.loads(sys.argv[1])
m = Model.load(model, threads=threads)
rng, vocab = random.Random(1), m.info().vocab
options = {"max_tokens": tokens, "temperature": 0, "ignore_eos": True}
try:
    m.generate([1], **options, speculate=False)
    options["speculate"] = False
except TypeError:  # a build without guesses
    pass
def run():
    prompts = [[rng.randrange(vocab) for _ in range(prompt)] for _ in range(sequences)]
    start = time.perf_counter()
    m.generate(prompts, **options)
    return time.perf_counter() - start
run()
print(flush=True)
for _ in sys.stdin:
    print(run(), flush=True)
"""


class Build:
    """A process with a build. given: of CHILD, as JSON."""

    def __init__(self, python: str, given: str) -> None:
        self.process = subprocess.Popen(
            [python, "-c", CHILD, given], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._line()

    def _line(self) -> str:
        out: IO[str] | None = self.process.stdout
        assert out is not None
        line = out.readline()
        if not line:
            raise SystemExit(f"a build ended with exit code {self.process.wait()}")
        return line

    def seconds(self) -> float:
        """Of one call."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self._line())

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def ratios(pythons: Sequence[str], given: str, starts: int, rounds: int) -> list[float]:
    """Times of the second build / those of the first."""
    found = []
    for start in range(starts):
        made = {python: Build(python, given) for python in (pythons if start % 2 else pythons[::-1])}
        for turn in range(rounds):
            took = {python: made[python].seconds() for python in (pythons if turn % 2 else pythons[::-1])}
            found.append(took[pythons[1]] / took[pythons[0]])
        for build in made.values():
            build.end()
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m")
    parser.add_argument("--other", type=program, required=True, metavar="PYTHON")
    for name, default in (("sequences", 16), ("prompt", 4), ("tokens", 24), ("starts", 6), ("rounds", 15)):
        parser.add_argument(f"--{name}", type=count, default=default)
    parser.add_argument("--threads", type=count)
    o = parser.parse_args(argv)
    if o.starts * o.rounds < 2:
        parser.error("--rounds 1: expected 2 or more with a single start")
    given = json.dumps([o.model, o.sequences, o.prompt, o.tokens, o.threads])
    low, middle, high = statistics.quantiles(ratios([sys.executable, o.other], given, o.starts, o.rounds), n=4)
    print(
        f"{o.sequences} x {o.prompt} + {o.tokens} tokens: {middle:.3f} ({low:.3f} to {high:.3f} in half of the turns)"
    )


if __name__ == "__main__":
    main()
