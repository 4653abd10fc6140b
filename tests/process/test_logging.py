"""The logger "pellucid"."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from pellucid import Model, log
from pellucid.server.run import _logging
from tests.engine import models

SECRET = "a text of the user"


def run(code: str, *arguments: object) -> tuple[str, str]:
    """(stdout, stderr) of a program."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_loading(smollm2: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pellucid")
    with Model.load(smollm2, threads=1, context=100, kv="f16", isa="avx2") as model:
        info = model.info()
        done = model.generate(SECRET, max_tokens=2)
        model.context().append(SECRET)
        model.chat([{"role": "user", "content": SECRET}], max_tokens=2)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    for part in (
        f"loaded {smollm2} in {model.load_seconds:.2f} s", "isa avx2 (asked for)", "threads 1 (asked for)", "kv f16",
        "context 100", f"huge pages {'yes' if info.huge_pages else 'no'}",
    ):  # fmt: skip
        assert part in line
    ends = [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]
    assert len(ends) == 2 and all(end.endswith(" 2 new ones, until: length") for end in ends)
    took = done.timings
    assert ends[0].startswith(f"{took.prefill_rate:.1f} and {took.decode_rate:.1f} tokens/s: ")
    assert f": a prompt of {done.prompt_tokens} tokens (0 cached), " in ends[0]
    assert {record.name for record in caplog.records} == {"pellucid"} and SECRET not in caplog.text


FALLBACKS = """
import ctypes, logging, os, sys
logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from pellucid import Model
for threads in (None, None, 2, 2):
    Model.load(sys.argv[1], threads=threads)
"""


def test_what_is_slower_or_missing_is_a_warning_once(tmp_path: Path) -> None:
    path = models.write(tmp_path, "narrow", "all")
    _, stderr = run(FALLBACKS, path)
    lines = stderr.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["WARNING"] * len(lines)
    for words in ("no huge pages", "2 threads, but the process has cores for 1", f"{path} has no tokenizer"):
        assert len([line for line in lines if words in line]) == 1, lines


def test_silent_by_default(tmp_path: Path) -> None:
    """Even warnings, which a logger without a handler would print."""
    path = models.write(tmp_path, "narrow", "all")
    assert run("import logging\n" + FALLBACKS.replace("logging.basicConfig", "dict"), path) == ("", "")
    code = "import sys; from pellucid import Model; Model.load(sys.argv[1]); print('logging' in sys.modules)"
    assert run(code, path) == ("False\n", "")  # it costs nothing where nobody listens


def test_a_warning_comes_once(caplog: pytest.LogCaptureFixture) -> None:
    for value in (1, 1, 2):
        log.warn_once("a test's %d", value)
    log.warn_once("100 %")
    assert [record.getMessage() for record in caplog.records] == ["a test's 1", "a test's 2", "100 %"]
    assert isinstance(logging.getLogger("pellucid").handlers[0], logging.NullHandler)


def test_threads_that_a_scheduler_asks_openmp_for(
    smollm2: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray and others set OMP_NUM_THREADS; it does not decide here, and `info` says what does."""
    monkeypatch.delenv("PELLUCID_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "61")
    monkeypatch.setattr(log, "_warned", set())
    with Model.load(smollm2) as model:
        assert "OMP_NUM_THREADS is ignored, PELLUCID_THREADS is not" in model.info().threads_why
    assert len([r for r in caplog.records if "OMP_NUM_THREADS" in r.getMessage()]) == 1
    for name, value in (("OMP_NUM_THREADS", "many"), ("PELLUCID_THREADS", "1")):
        monkeypatch.setenv(name, value)
        with Model.load(smollm2) as model:
            assert "OMP_NUM_THREADS" not in model.info().threads_why


def test_a_server_leaves_levels_as_they_were() -> None:
    """What a logger remembers of its level, too."""
    loggers = [logging.getLogger(name) for name in ("pellucid.server", "uvicorn.error")]
    levels = range(10, 60, 10)
    before = [[one.isEnabledFor(level) for level in levels] for one in loggers]
    with _logging(False):
        assert [one.isEnabledFor(logging.INFO) for one in loggers] == [True, False]
        assert [one.isEnabledFor(logging.ERROR) for one in loggers] == [True, False]
    assert [[one.isEnabledFor(level) for level in levels] for one in loggers] == before
