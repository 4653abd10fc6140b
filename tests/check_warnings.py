"""Compiles every file of csrc with the flags of setup.py and keeps nothing: a warning is an error. CC says by what."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import setup


def main() -> None:
    cc = setup.find_compiler()
    built = setup.tiers(cc)
    jobs = setup.core_jobs(cc, built)

    def check(job: tuple[str, list[str], Path]) -> str:
        command = [*cc, *job[1], "-Werror", "-fsyntax-only", str(job[2])]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.stderr if done.returncode else ""

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        said = "".join(pool.map(check, jobs))
    print(f"{len(jobs)} files, {len(built) + 1} tiers: " + (said or "no warning"))
    if said or len(built) < 2:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
