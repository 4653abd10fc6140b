"""Compiles every file of csrc with the flags of setup.py and keeps nothing: a warning is an error. CC says by what."""

from __future__ import annotations

import os
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import setup


def main() -> None:
    cc = setup.find_compiler()
    built = setup.tiers(cc)
    core = [*setup.COMMON, *setup.WARNINGS, *setup.stack_flags(cc, []), f"-I{setup.CSRC}", *(t.define for t in built)]
    jobs = [(core, path) for folder in setup.BASELINE for path in sorted((setup.CSRC / folder).glob("*.c"))]
    for tier in built:
        flags = [*core, *shlex.split(tier.flags)]
        jobs += [(flags, path) for path in sorted((setup.CSRC / "kernels" / tier.sources).glob("*.c"))]

    def check(job: tuple[list[str], Path]) -> str:
        command = [*cc, *job[0], "-Werror", "-c", str(job[1]), "-o", os.devnull]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.stderr if done.returncode else ""

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        said = "".join(pool.map(check, jobs))
    print(f"{len(jobs)} files, {len(built) + 1} tiers: " + (said or "no warning"))
    if said or len(built) < 2:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
