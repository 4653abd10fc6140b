"""A running server, and environments of their own for its clients. With --clients alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.embedding.cases import BY_NAME
from tests.embedding.files import load_golden, write_folder
from tests.server.thinks import write as write_thinking

HERE = Path(__file__).parent
NAME = "smollm2-135m"


@contextmanager
def serving(model: Path, *options: str) -> Iterator[str]:
    """`pellucid serve` on a free port; gives the base URL of its interface."""
    command = [sys.executable, "-m", "pellucid", "serve", "-m", f"{NAME}={model}", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith((f"{NAME} at http://", f"{NAME}, ")), line
            yield line.split(";")[0].rpartition(" ")[2]
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture(scope="session")
def url(smollm2: Path) -> Iterator[str]:
    with serving(smollm2) as url:
        yield url


@pytest.fixture(scope="session")
def two(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """With a second model, a tiny embedder."""
    case = BY_NAME["bert"]
    folder = write_folder(case, load_golden(case), tmp_path_factory.mktemp("m") / "embedder")
    with serving(smollm2, "-m", f"embedder={folder}") as url:
        yield url


@pytest.fixture(scope="session")
def thinking(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a model that reasons before it answers."""
    return write_thinking(smollm2, tmp_path_factory.mktemp("m") / "thinks.gguf")


@pytest.fixture(scope="session")
def thinking_url(thinking: Path) -> Iterator[str]:
    with serving(thinking) as url:
        yield url


Run = Callable[..., str]


@pytest.fixture(scope="session")
def python_client(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str]], Run]:
    """Makes an environment with the packages, once for each list of them -> a function that runs a program of
    `programs` in it, and gives what it printed. A program asserts what it finds; one that fails shows its output."""
    made: dict[tuple[str, ...], Run] = {}

    def make(packages: list[str]) -> Run:
        key = tuple(packages)
        if key not in made:
            made[key] = install(packages)
        return made[key]

    def install(packages: list[str]) -> Run:
        folder = tmp_path_factory.mktemp("client")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = folder / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages], check=True)
        return lambda *command, **env: run([str(folder / "bin" / command[0]), *command[1:]], folder, **env)

    return make


@pytest.fixture(scope="session")
def node_client(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str]], Run]:
    """The same for packages of npm and programs of node."""
    made: dict[tuple[str, ...], Run] = {}

    def make(packages: list[str]) -> Run:
        key = tuple(packages)
        if key not in made:
            made[key] = install(packages)
        return made[key]

    def install(packages: list[str]) -> Run:
        folder = tmp_path_factory.mktemp("node")
        (folder / "package.json").write_text('{"private": true, "type": "module"}')
        subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", *packages], cwd=folder, check=True)

        def program(name: str, *arguments: str) -> str:
            (folder / name).write_text((HERE / "programs" / name).read_text())  # where node finds its packages
            return run(["node", name, *arguments], folder)

        return program

    return make


def run(command: list[str], folder: Path, **env: str) -> str:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "OPENAI_API_KEY")}
    done = subprocess.run(
        command, cwd=folder, env=clean | env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
