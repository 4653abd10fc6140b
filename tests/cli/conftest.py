"""Runs the command line as a user does: as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pellucid.cli import main

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]

COMMAND = [sys.executable, "-m", "pellucid"]


@pytest.fixture(autouse=True)
def _default_model(smollm2: Path) -> None:
    """Puts the default model into the cache, where the commands find it by name."""


@pytest.fixture
def run() -> Run:
    """run(*arguments, stdin=b"", **environment) -> the completed process; its output is bytes."""

    def go(*arguments: str | bytes, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*COMMAND, *arguments], input=stdin, capture_output=True, env={**os.environ, **environment}, timeout=60
        )

    return go


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Run:
    """As `run`, but within this process: faster, for commands that end before a model is loaded."""

    def go(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        code = main(arguments)
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, out.encode(), err.encode())

    return go


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of a few kilobytes, without a tokenizer."""
    from tests.reference.tiny import TINY, write_gguf

    return write_gguf(TINY[0], tmp_path_factory.mktemp("tiny") / "tiny.gguf")


def error_line(done: subprocess.CompletedProcess[bytes]) -> str:
    """The one line on stderr; nothing on stdout."""
    assert done.stdout == b""
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1, done.stderr.decode()
    assert lines[0].startswith("pellucid: ")
    return lines[0]
