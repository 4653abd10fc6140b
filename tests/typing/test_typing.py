"""What a type checker finds in programs that use the package: its mistakes, and the types that calls return."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def test_strict_mypy_finds_the_mistakes_and_nothing_else(tmp_path: Path) -> None:
    source = HERE / "uses.py"
    lines = source.read_text(encoding="utf-8").splitlines()
    expected = {i for i, line in enumerate(lines, 1) if line.endswith("  # error")}
    assert len(expected) > 25
    options = ["--strict", "--follow-imports=silent", "--config-file", os.devnull, "--no-color-output", "--no-pretty"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "--cache-dir", tmp_path / "cache", source],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(HERE.parent.parent / "src")},
    )
    assert done.returncode == 1, done.stderr + done.stdout
    found = {int(number) for number in re.findall(r"uses\.py:(\d+): error: ", done.stdout)}
    missing, more = expected - found, found - expected
    assert not missing and not more, f"not found: {sorted(missing)}; not expected: {sorted(more)}\n{done.stdout}"
