"""The sdist of this tree, and programs that make something of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["ROOT", "make_sdist", "run"]

ROOT = Path(__file__).resolve().parent.parent


def run(
    *command: str | Path, cwd: Path | None = None, without: tuple[str, ...] = ("PYTHONPATH",), **environment: str
) -> str:
    """What a program printed that ended without an error. without: beginnings of variables that it does not get."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(without)} | environment
    done = subprocess.run(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def make_sdist(folder: Path) -> Path:
    run(sys.executable, "-m", "build", "--sdist", "--outdir", folder, ROOT)
    (path,) = folder.glob("*.tar.gz")
    return path
