"""A process that runs the inputs of one area, one after the other, within limits; and the parent's side of it.

`python -m tests.fuzz.worker AREA SECONDS MEGABYTES` reads inputs from standard input (8 bytes of length, then the
data) and answers each with a line of JSON: what is wrong with the outcome, or nothing.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tests.peak import peak

ROOT = Path(__file__).resolve().parent.parent.parent
MOST_GROWTH = 256 << 20  # bytes by which one input may raise the peak of memory in use
LIFE = 3000  # inputs of a worker, so that one input's leftovers do not reach far


class Finding(NamedTuple):
    kind: str  # "crash", "hang", "foreign" or "memory"
    what: str  # one line that is the same for inputs with the same cause
    details: str


def module(area: str) -> Any:
    return importlib.import_module(f"tests.fuzz.{area}")


# ---- in the worker --------------------------------------------------------------------------------------------------


def judge(area: Any, data: bytes) -> tuple[str, str, str]:
    """Runs one input -> (kind, what, details), all empty where it is accepted or refused as it should be."""
    from pellucid.errors import MOST, ArgumentError, PellucidError

    before = peak()
    try:
        area.run(data)
    except (PellucidError, ArgumentError) as error:
        text = str(error)
        if not text.isprintable() or len(text) > MOST:
            return "foreign", f"{type(error).__name__}: not one printable line of {MOST} characters", repr(text)[:2000]
    except (ValueError, TypeError):
        pass
    except BaseException as error:  # also what a package raises that is no Exception
        frame = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__} in {os.path.basename(frame.filename)}:{frame.name}"
        return "foreign", what, traceback.format_exc()[-4000:]
    growth = (peak() - before) * 1024
    if growth > MOST_GROWTH:
        return "memory", "the peak of memory in use grew too much", f"{growth >> 20} MB"
    return "", "", ""


def serve(name: str, seconds: int, megabytes: int) -> None:
    source, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what anything prints goes to the log
    area = module(name)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for _ in range(LIFE):
        head = source.read(8)
        if len(head) < 8:
            return
        data = source.read(int.from_bytes(head, "little"))
        usage = resource.getrusage(resource.RUSAGE_SELF)
        end = int(usage.ru_utime + usage.ru_stime) + 1 + seconds  # processor time: a busy machine makes no hang
        resource.setrlimit(resource.RLIMIT_CPU, (end, resource.RLIM_INFINITY))
        kind, what, details = judge(area, data)
        answers.write(json.dumps([kind, what, details, peak() >> 10]).encode() + b"\n")


# ---- in the parent --------------------------------------------------------------------------------------------------


class Worker:
    """Runs inputs in a process that is replaced when it ends."""

    def __init__(self, area: str, seconds: int, megabytes: int, patience: int = 240) -> None:
        self.area, self.seconds, self.megabytes, self.patience = area, seconds, megabytes, patience
        self.peak = 0  # MB
        self._process: subprocess.Popen[bytes] | None = None
        self._log: BinaryIO = tempfile.TemporaryFile()
        self._answers = b""
        self._done = 0

    def judge(self, data: bytes) -> Finding | None:
        if self._process is None or self._done == LIFE:
            self._start()
        assert self._process is not None and self._process.stdin is not None
        self._done += 1
        try:
            self._process.stdin.write(len(data).to_bytes(8, "little") + data)
            self._process.stdin.flush()
            line = self._answer(self.patience if self._done > 1 else self.patience + 60)  # its imports
        except BrokenPipeError:
            line = b""
        if line is None:
            return self._ended("hang", "no answer, without using the processor")
        if not line:
            return self._ended("", "")
        kind, what, details, peak = json.loads(line)
        self.peak = max(self.peak, peak)
        return Finding(kind, what, details) if kind else None

    def close(self) -> None:
        self._stop()
        self._log.close()

    def _start(self) -> None:
        self._stop()
        command = [sys.executable, "-m", "tests.fuzz.worker", self.area, str(self.seconds), str(self.megabytes)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": _path()}
        self._log.seek(0)
        self._log.truncate()
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log
        )
        self._answers, self._done = b"", 0

    def _answer(self, seconds: float) -> bytes | None:
        """A line; empty when the process has ended, None after a timeout."""
        assert self._process is not None and self._process.stdout is not None
        file = self._process.stdout.fileno()
        while b"\n" not in self._answers:
            if not select.select([file], [], [], seconds)[0]:
                return None
            more = os.read(file, 1 << 16)
            if not more:
                return b""
            self._answers += more
        line, _, self._answers = self._answers.partition(b"\n")
        return line

    def _ended(self, kind: str, what: str) -> Finding:
        assert self._process is not None
        self._process.kill() if kind else None
        code = self._process.wait()
        self._log.seek(0)
        log = self._log.read()[-4000:].decode("utf-8", "replace")
        self._process = None
        if not kind:
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            kind = "hang" if code == -signal.SIGXCPU else "crash"
            what = f"more than {self.seconds} s of processor time" if kind == "hang" else name
        return Finding(kind, what, log)

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
