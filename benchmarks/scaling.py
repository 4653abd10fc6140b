"""Rows per second of one machine with one and two processes, and estimates for more machines.

python benchmarks/scaling.py            prints the tables of docs/scaling.md
python benchmarks/scaling.py --write    puts them into the file
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any, NamedTuple

from pellucid import Model, _engine
from pellucid.batch.source import Shard, read

PAGE = Path(__file__).resolve().parent.parent / "docs" / "scaling.md"
ROWS, PROMPT, NEW = 96, 64, 32  # rows, tokens of each prompt, new tokens of each row
JOB, LINK = 1_000_000, 125e6  # rows of the estimated job; bytes per second of a network of 1 Gbit/s
MACHINES = (1, 2, 10, 100, 1000)
OPTIONS: dict[str, Any] = {"max_tokens": NEW, "ignore_eos": True, "temperature": 0}


class Measured(NamedTuple):
    rate: float  # rows a second
    alone: float  # seconds of one row alone
    memory: float  # MB of all processes, shared memory counted once
    processors: float  # processors used: processor seconds per second


def prompts(n: int) -> list[list[int]]:
    return [[1 + (i * 7919 + j * 104729) % 40_000 for j in range(PROMPT)] for i in range(n)]


def work(path: str, threads: int, rows: list[list[int]], barrier: Any, found: Any) -> None:
    with Model.load(path, threads=threads) as model:
        list(model.map(rows[:32], **OPTIONS))
        barrier.wait()
        start, before = time.monotonic(), time.process_time()
        done = sum(len(one.ids) for one in model.map(rows, **OPTIONS))
        end, used = time.monotonic(), time.process_time() - before
        barrier.wait()
        rollup = Path("/proc/self/smaps_rollup").read_text()
        pss = int(re.search(r"^Pss: +(\d+)", rollup, re.M)[1]) / 1000  # type: ignore[index]
        barrier.wait()
        began = time.monotonic()
        model.generate(rows[0], **OPTIONS)
        found.put((start, end, done, pss, time.monotonic() - began, used))


def measure(path: str, processes: int, threads: int) -> Measured:
    """Runs several processes, each with its share of the rows."""
    spawn = multiprocessing.get_context("spawn")
    barrier, found, rows = spawn.Barrier(processes), spawn.Queue(), prompts(ROWS)
    shares = [rows[i::processes] for i in range(processes)]
    running = [spawn.Process(target=work, args=(path, threads, share, barrier, found)) for share in shares]
    for one in running:
        one.start()
    results = [found.get(timeout=170) for _ in running]
    for one in running:
        one.join()
    assert sum(done for _, _, done, *_ in results) == ROWS * NEW
    seconds = max(row[1] for row in results) - min(row[0] for row in results)
    alone, memory, used = max(row[4] for row in results), sum(row[3] for row in results), sum(row[5] for row in results)
    return Measured(ROWS / seconds, alone, memory, used / seconds)


def starting(path: str) -> float:
    """Seconds from the start of a process to its first token."""
    code = "import sys, pellucid; pellucid.Model.load(sys.argv[1]).generate([1], max_tokens=1)"
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", code, path], check=True)
    return time.monotonic() - start


def reading() -> float:
    """Seconds to read a row of a file and to find that it belongs to another share."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        n = 50_000
        file.writelines(json.dumps({"id": f"row {i}", "prompt": "x" * 300}) + "\n" for i in range(n))
        file.flush()
        start = time.monotonic()
        for _ in read(file.name, Shard(0, 1000)):
            pass
        return (time.monotonic() - start) / n


def on_paper(fixed: float, read_row: float, rate: float) -> list[str]:
    lines = [
        "| machines | rows of a share | rows of the largest | hours | times as fast as one | efficiency |",
        "|---|---|---|---|---|---|",
    ]
    one = 0.0
    for n in MACHINES:
        mean = JOB / n
        most = mean + (math.sqrt(2 * mean * math.log(n)) if n > 1 else 0)
        seconds = fixed + JOB * read_row + most / rate
        one = one or seconds
        times = one / seconds
        lines.append(f"| {n:,} | {mean:,.0f} | {most:,.0f} | {seconds / 3600:.2f} | {times:,.1f} | {times / n:.0%} |")
    return lines


def tables(path: str) -> str:
    cores = len(os.sched_getaffinity(0))
    plans = [(1, 1), (1, cores), (cores, 1)]
    found = {plan: measure(path, *plan) for plan in plans}
    start, read_row = min(starting(path) for _ in range(3)), reading()
    size = os.path.getsize(path)
    best = found[1, cores]
    fixed = start + size / LINK + best.alone
    processor = f"{_engine.cpu_name()}, {cores} cores, {_engine.find_isa(None)}"
    lines = [
        f"Measured: SmolLM2 135M Q4_1, {ROWS} rows of {PROMPT} tokens and {NEW} new ones, 32 at once; {processor}.",
        "",
        "| processes x threads | rows/s | new tokens/s | processors it had | a row alone, s | memory of all, MB |",
        "|---|---|---|---|---|---|",
    ]
    for (processes, threads), one in found.items():
        numbers = f"{one.rate:.1f} | {one.rate * NEW:.0f} | {one.processors:.2f} | {one.alone:.2f} | {one.memory:.0f}"
        lines.append(f"| {processes} x {threads} | {numbers} |")
    lines += [
        "",
        textwrap.fill(
            f"On paper: {JOB:,} such rows on machines like this one, one process each. Measured here: {start:.2f} s"
            f" from the start of a process to its first token, {read_row * 1e6:.1f} µs to read a row of another share,"
            f" {best.alone:.2f} s for a last row alone, {best.rate:.1f} rows/s. The model's {size / 1e6:.0f} MB over"
            f" 1 Gbit/s take {size / LINK:.2f} s.",
            120,
        ),
        "",
        *on_paper(fixed, read_row, best.rate),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures one and two processes on this machine.")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scaling.md")
    arguments = parser.parse_args()
    with Model.load(arguments.model) as model:
        path = model.info().path
    made = tables(path)
    print(made)
    if arguments.write:
        text = PAGE.read_text(encoding="utf-8")
        begin, end = "<!-- benchmarks/scaling.py -->\n", "<!-- end -->"
        before, rest = text.split(begin)
        PAGE.write_text(f"{before}{begin}{made}\n{end}{rest.split(end)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
