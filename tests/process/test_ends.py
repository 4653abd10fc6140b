"""The interpreter may end while other threads are at work: no crash, no hang, nothing on stderr."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pellucid.native import _Native

ROOT = Path(__file__).resolve().parents[2]

# A daemon thread calls llguidance all the time. What is at work when the interpreter ends differs from run to run, but
# without `native` nearly every run of the first and every second one of the other crashes.
WORK = """
import sys, threading
import numpy as np
from pellucid.structure import Structure
from tests.structure.walks import grammars
some = grammars()
matcher = some.compile(Structure("schema", '{"type": "array"}')).matcher()
words = np.zeros(some.words, np.uint32)
begun = threading.Event()
def mask(i):
    matcher.mask(words)
def compile(i):
    some.compile(Structure("schema", '{"type": "object", "title": "%d"}' % i))
def work():
    for i in range(1 << 40):
        WHAT(i)
        if i == 20:
            begun.set()
threading.Thread(target=work, daemon=True).start()
begun.wait()
"""


@pytest.mark.parametrize("what", ["mask", "compile"])
@pytest.mark.parametrize(("end", "code"), [("", 0), ("sys.exit(3)", 3)])
def test_a_daemon_thread_with_a_grammar(what: str, end: str, code: int) -> None:
    program = WORK.replace("WHAT", what) + end
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT)
        assert (done.returncode, done.stderr) == (code, "")


def test_a_function_at_exit_uses_a_grammar() -> None:
    """One that was registered before Pellucid was imported, which is called last."""
    program = """
import atexit
def last():
    matcher.mask(words)
    print(words.any())
atexit.register(last)
"""
    program += WORK.replace("WHAT", "mask").replace("    matcher.mask", "    other.mask")
    program = program.replace("words = np", "other = matcher.fork()\nwords = np")  # one matcher, one thread
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_the_end_waits_and_lets_nothing_begin() -> None:
    native = _Native()
    inside, go, ended, said = threading.Event(), threading.Event(), threading.Event(), []

    def call() -> None:
        with native:
            inside.set()
            go.wait()
            with native:  # one within another goes on
                said.append("within")
        try:
            with native:
                said.append("another")
        except SystemExit:
            said.append("none after it")

    def end() -> None:
        native.end()
        said.append("end")
        with native:  # a function of atexit's
            ended.set()

    threads = [threading.Thread(target=one, daemon=True) for one in (call, end)]
    threads[0].start()
    inside.wait()
    threads[1].start()
    assert not ended.wait(0.05)
    go.set()
    for one in threads:
        one.join(10)
    assert said[0] == "within" and sorted(said[1:]) == ["end", "none after it"]


def test_a_child_does_not_wait_for_the_parents_threads() -> None:
    code = """
import os, threading
from pellucid.native import native
inside, go = threading.Event(), threading.Event()
def call():
    with native:
        inside.set()
        go.wait()
threading.Thread(target=call).start()
inside.wait()
child = os.fork()
if child:
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    go.set()
    print(status)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")
