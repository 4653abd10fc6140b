"""Ctrl-C at any moment of a command: exit code 130, nothing on stderr, no incomplete output."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

# Runs the command line in a process that interrupts itself: at the n-th search for a module (n from the environment),
# or when a function is called. Prints how many searches there were, where nothing interrupted them.
INTERRUPT = """
import importlib, os, signal, sys
def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
class Dying:  # an exception in the middle of this gets lost
    def __del__(self):
        interrupt()
class Finder:
    left = {searches}
    def find_spec(self, name, path=None, target=None):
        Finder.left -= 1
        if Finder.left == 0:
            Dying() if {lost} else interrupt()
sys.meta_path.insert(0, Finder())
from pellucid.cli import main
def patch(place):
    module, _, name = place.partition(":")
    owner = importlib.import_module(module)
    *path, name = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    function, calls = getattr(owner, name), [{calls}]
    def wrapped(*args, **options):
        calls[0] -= 1
        if calls[0] == 0:
            interrupt()
        return function(*args, **options)
    setattr(owner, name, wrapped)
for place in {places!r}:
    patch(place)
code = main({arguments!r})
if code == 0:
    print("\\n", {searches} - Finder.left)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.weights import hostile

    path = tmp_path_factory.mktemp("interrupts") / "small.gguf"
    path.write_bytes(hostile.model().bytes())
    return path


def run(
    arguments: list[str], searches: int = 0, places: tuple[str, ...] = (), calls: int = 1, lost: bool = False
) -> subprocess.CompletedProcess[str]:
    code = INTERRUPT.format(searches=searches, arguments=arguments, places=places, calls=calls, lost=lost)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_while_modules_are_imported(model: Path) -> None:
    """At any import from the command's first one on, including those of NumPy and typer."""
    arguments = ["generate", "he", "-m", str(model), "-n", "2", "--seed", "1"]
    whole = run(arguments)
    assert whole.returncode == 0, whole.stderr
    searches = int(whole.stdout.split()[-1])
    assert searches > 200
    # The first three are for pellucid and pellucid.cli: no module of Pellucid is loaded yet.
    for n in [*range(4, 20, 5), *range(20, searches, searches // 25)]:
        done = run(arguments, searches=n)
        assert (done.returncode, done.stderr) == (130, ""), f"search {n} of {searches}: {done.stderr}"
        assert done.stdout == ""


@pytest.mark.parametrize("search", [5, 40, 150])
def test_where_an_exception_would_get_lost(model: Path, search: int) -> None:
    done = run(["generate", "he", "-m", str(model)], searches=search, lost=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize(
    "place",
    [
        "pellucid.core:weights.open_model",
        "pellucid.core:arch.build",
        "pellucid.core:_engine.Engine",
        "pellucid.later:Later.wait",
        "pellucid.schedule.start:stream",
        "pellucid.cli.options:read_text",
    ],
)
@pytest.mark.parametrize("json", [False, True])
def test_while_a_model_is_loaded(model: Path, place: str, json: bool) -> None:
    arguments = ["generate", "he", "-m", str(model), *(["--json"] if json else [])]
    done = run(arguments, places=(place,))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("again", [False, True])
def test_while_the_vocabulary_is_made(model: Path, again: bool) -> None:
    """The interpreter ends only after the thread that makes the vocabulary, whose native code would panic in an
    interpreter that is shutting down. A second Ctrl-C ends the process without waiting."""
    code = """
import os, signal, sys, time
import pellucid.core as m
from pellucid.cli import main
class Interrupted(m._engine.Engine):
    def pack(self, *arguments):
        os.kill(os.getpid(), signal.SIGINT)
        super().pack(*arguments)
def slow(*arguments):
    time.sleep(0.5)
    if sys.argv[2:]:
        os.kill(os.getpid(), signal.SIGINT)
    os.write(1, b"made")
m._tokenizer, m._engine.Engine = slow, Interrupted
sys.exit(main(["generate", "he", "-m", sys.argv[1]]))
"""
    command = [sys.executable, "-c", code, str(model), *(["again"] if again else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    expected = (-signal.SIGINT, "", "") if again else (130, "made", "")
    assert (done.returncode, done.stdout, done.stderr) == expected


def test_between_tokens(model: Path) -> None:
    """Text that was already written stays; an incomplete JSON document is not written at all."""
    arguments = ["generate", "he", "-m", str(model), "-n", "20", "--temperature", "0"]
    place = "pellucid.generation:Job.take"
    done = run(arguments, places=(place,), calls=5)
    assert (done.returncode, done.stderr) == (130, "")
    whole = run([*arguments[:-2], "--temperature", "0"])
    assert whole.returncode == 0 and whole.stdout.startswith(done.stdout)
    done = run([*arguments, "--json"], places=(place,), calls=5)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
