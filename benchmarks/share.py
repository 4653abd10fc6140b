"""Measures the savings of shared weights: cold starts, and the memory of several processes.

    python benchmarks/share.py MODEL [--repeat 5] [--processes 8]

Cold start: from a new process to the first token, the file in the page cache: with its own weights, as the first
process that shares, and as a further one while another process holds them. Memory: the sum of Pss
(/proc/PID/smaps_rollup) of processes that each have loaded the model and generated a token, with one thread each. Needs
/dev/shm.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.arguments import count

PROGRAM = """
import sys
from pellucid import Model
model = Model.load(sys.argv[1], share=sys.argv[2] == "1", threads=int(sys.argv[3]) or None, context=256)
model.generate([1, 2, 3], max_tokens=1)
info = model.info()
assert info.shared == (sys.argv[2] == "1"), info.shared_why
print(info.packed_bytes, flush=True)
if sys.argv[4] == "1":
    sys.stdin.readline()
"""


class Process:
    """A process that loads the model and generates a token. seconds: until the token."""

    def __init__(self, model: str, share: bool, *, threads: int = 0, stays: bool = False) -> None:
        start = time.perf_counter()
        arguments = [model, str(int(share)), str(threads), str(int(stays))]
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.seconds = time.perf_counter() - start
        if not line:
            sys.exit("the model could not be loaded that way")
        self.packed_bytes = int(line)
        if not stays:
            self.process.communicate()

    def pss(self) -> int:
        """Bytes."""
        with open(f"/proc/{self.process.pid}/smaps_rollup") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.communicate("\n")


def starts(model: str, repeat: int) -> None:
    """Takes turns, so that all meet the same conditions."""
    seconds: dict[str, list[float]] = {"own": [], "first": [], "next": []}
    Process(model, False)  # reads the file into the page cache
    for _ in range(repeat):
        seconds["own"].append(Process(model, False).seconds)
        with Process(model, True, stays=True) as first:
            seconds["first"].append(first.seconds)
            seconds["next"].append(Process(model, True).seconds)
    print("| cold start (s), median (least..most) | |\n|---|---|")
    names = {"own": "weights of its own", "first": "the first that shares", "next": "one more"}
    for kind, found in seconds.items():
        print(f"| {names[kind]} | {statistics.median(found):.2f} ({min(found):.2f}..{max(found):.2f}) |")


def memory(model: str, processes: int) -> None:
    print("\n| memory (MB) | own | shared |\n|---|---|---|")
    rows: dict[int, list[int]] = {}
    for share in (False, True):
        with ExitStack() as stack:
            running: list[Process] = []
            while len(running) < processes:
                running.append(stack.enter_context(Process(model, share, threads=1, stays=True)))
                if len(running) in (1, 2, processes):
                    rows.setdefault(len(running), []).append(sum(one.pss() for one in running))
    for n, (own, shared) in rows.items():
        print(f"| {n} process{'es' * (n > 1)} | {own / 1e6:.0f} | {shared / 1e6:.0f} |")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--repeat", type=count, default=5)
    parser.add_argument("--processes", type=count, default=8)
    options = parser.parse_args(argv)
    starts(options.model, options.repeat)
    memory(options.model, options.processes)


if __name__ == "__main__":
    main()
