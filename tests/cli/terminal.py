"""Runs the command line at a terminal of any width."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import time
from collections.abc import Sequence

from .conftest import COMMAND

COLOURS = re.compile("\x1b\\[[0-9;]*m")
# Lines that were erased, such as those of a progress bar, which a slow machine shows.
CURSOR = re.compile("\x1b\\[\\?25[hl]|\r")
ERASED = re.compile("[^\n]*\n\x1b\\[1A\x1b\\[2K|[^\n]*\x1b\\[2K")


class Terminal:
    """A process with a terminal as its input and output."""

    def __init__(
        self,
        *arguments: str,
        columns: int = 40,
        colour: bool = False,
        program: Sequence[str] = COMMAND,
        **environment: str,
    ) -> None:
        self.process, self.file = pty.fork()
        if self.process == 0:
            os.environ.pop("NO_COLOR", None)
            os.environ.update({"TERM": "xterm-256color"} if colour else {"TERM": "dumb", "NO_COLOR": "1"})
            os.environ.update(COLUMNS=str(columns), **environment)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup, and so by what it starts
            os.execv(program[0], [*program, *arguments])
        self.seen = ""

    def wait(self, text: str, seconds: float = 60) -> str:
        """Reads up to `text` -> the output before it."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self.file], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"no {text!r} in {self.seen!r}"
            self.seen += os.read(self.file, 1 << 16).decode("utf-8", "replace").replace("\r\n", "\n")
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, text: str) -> None:
        os.write(self.file, text.encode())

    def end(self) -> tuple[int, str]:
        """-> (exit code, remaining output)."""
        try:
            while data := os.read(self.file, 1 << 16):
                self.seen += data.decode("utf-8", "replace")
        except OSError:  # the other end has closed
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1]), self.seen

    def close(self) -> None:
        try:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(self.file)


def on_terminal(*arguments: str, columns: int = 40, colour: bool = False, **environment: str) -> tuple[int, str]:
    """(exit code, what a command writes to a terminal). Colours and what was erased are taken out."""
    screen = Terminal(*arguments, columns=columns, colour=colour, **environment)
    try:
        code, seen = screen.end()
    finally:
        os.close(screen.file)
    return code, ERASED.sub("", CURSOR.sub("", COLOURS.sub("", seen)))
