"""What was made of rows: a file to which lines are only ever added."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from types import TracebackType
from typing import Any

from pellucid.batch.source import NAMES, key_of
from pellucid.errors import PellucidError, one_line

__all__ = ["Target"]

LINES, SECONDS = 64, 1.0  # that may be lost with the machine's power, and are then made again


class Target:
    """A file of lines of JSON with an id each. done: keys of the ids that are there.

    Opening it locks it and cuts off a last line that is not whole. Lines are written and synced together: a process
    that is killed leaves whole lines and, at most, a part of one. A context manager. Raises PellucidError: the file is
    another process's, or not one that this wrote, or cannot be written.
    """

    def __init__(self, path: str) -> None:
        self._path = one_line(path, 80)
        self._lines: list[bytes] = []
        self._since = 0.0
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise self._failed(error) from None
        try:
            self._lock()
            self.done, self._size = self._read()
            if self._size != os.fstat(self._fd).st_size:
                os.ftruncate(self._fd, self._size)
        except OSError as error:
            os.close(self._fd)
            raise self._failed(error) from None
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Target:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.flush()
        finally:
            os.close(self._fd)

    def _failed(self, error: OSError) -> PellucidError:
        return PellucidError(f"{self._path}: {os.strerror(error.errno or errno.EIO).lower()}")

    def _lock(self) -> None:
        import stat

        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            raise PellucidError(f"{self._path}: expected the name of an ordinary file")
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PellucidError(f"{self._path}: another process is writing this file") from None

    def _read(self) -> tuple[set[bytes], int]:
        """The ids that are there, and the bytes of the whole lines."""
        done: set[bytes] = set()
        size = 0
        with open(os.dup(self._fd), "rb") as file:
            for number, line in enumerate(file, 1):
                whole = line.endswith(b"\n")
                try:
                    entry = json.loads(line)
                    id = next(entry[name] for name in NAMES if name in entry)
                    done.add(key_of(id))
                except (ValueError, TypeError, StopIteration, RecursionError):
                    if not whole or not line.strip(b"\0\n"):  # torn, or never written though the file had grown
                        break
                    raise PellucidError(
                        f"{self._path}, line {number}: expected an object with an id, as this command writes; "
                        "the file is left as it is"
                    ) from None
                if not whole:  # nobody knows whether that was all of it
                    done.discard(key_of(id))
                    break
                size += len(line)
        return done, size

    def write(self, line: dict[str, Any]) -> None:
        """Adds a line, soon: with others, or when `flush` is called."""
        text = json.dumps(line, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        self._lines.append(text.encode("utf-8", "backslashreplace") + b"\n")
        now = time.monotonic()
        if len(self._lines) == 1:
            self._since = now
        if len(self._lines) >= LINES or now - self._since >= SECONDS:
            self.flush()

    def flush(self) -> None:
        """Returns when what was written is on the disk. Where that fails the file has what it had before."""
        if not self._lines:
            return
        data, self._lines = b"".join(self._lines), []
        try:
            at = 0
            while at < len(data):
                at += os.pwrite(self._fd, data[at:], self._size + at)
            os.fsync(self._fd)
        except OSError as error:
            try:
                os.ftruncate(self._fd, self._size)
            except OSError:
                pass  # the next start cuts it off
            raise self._failed(error) from None
        self._size += len(data)
