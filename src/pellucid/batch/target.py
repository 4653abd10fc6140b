"""The results of rows: a file to which lines are only ever added."""

from __future__ import annotations

import errno
import json
import os
import time
from types import TracebackType
from typing import Any

from pellucid.batch.source import NAMES, key_of
from pellucid.errors import PellucidError, one_line
from pellucid.weights.store import has_no_locks, try_lock

__all__ = ["Target"]

LINES, SECONDS = 64, 1.0  # between two syncs
BEGIN = tuple(f'{{"{name}":'.encode() for name in NAMES)  # how every line that is written here begins


class Target:
    """A file of lines of JSON, each with an id. done: keys of the ids in it. locked: whether it is; the file system may
    have no locks.

    Opening it locks it and cuts off an incomplete last line. A line is written immediately: a process that is killed
    leaves whole lines and at most a part of one. Lines are synced now and then: if the machine loses power, the last
    ones may be lost, and are then made again. A context manager. Raises PellucidError if another process is writing the
    file, if it was not written by this command, or if it cannot be written.
    """

    def __init__(self, path: str) -> None:
        self._path = one_line(path, 80)
        self._last = time.monotonic()  # when it was synced
        self._lines = 0  # written since
        self.locked = True
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise self._failed(error) from None
        try:
            self._lock()
            self.done, self._size, ended = self._read()
            if self._size != os.fstat(self._fd).st_size:
                os.ftruncate(self._fd, self._size)
            if not ended:
                self._put(b"\n")
            self._synced = self._size  # bytes
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
            with open(self._fd, "rb", closefd=False) as file:
                if not try_lock(file):
                    raise PellucidError(f"{self._path}: another process is writing this file")
        except OSError as error:
            if not has_no_locks(error):
                raise
            self.locked = False

    def _read(self) -> tuple[set[bytes], int, bool]:
        """The ids in the file, the bytes up to the end of the last whole line, and whether a line break ends it.

        What follows that line is cut off, so it must be nothing but NULs and line breaks, as in a file that had grown
        and was never written, or the beginning of a line of this command's."""
        done: set[bytes] = set()
        at = size = 0
        ended = True
        with open(os.dup(self._fd), "rb") as file:
            for number, line in enumerate(file, 1):
                at += len(line)
                if not line.strip(b"\0\r\n"):
                    continue
                whole = line.endswith(b"\n")
                try:
                    entry = json.loads(line)
                    id = next(entry[name] for name in NAMES if name in entry)
                except (ValueError, TypeError, StopIteration, RecursionError):
                    if not whole and any(line.startswith(one[: len(line)]) for one in BEGIN):  # torn
                        break
                    raise PellucidError(
                        f"{self._path}, line {number}: expected an object with an id, as this command writes; "
                        "the file is left as it is"
                    ) from None
                done.add(key_of(id))
                size, ended = at, whole
        return done, size, ended

    def write(self, line: dict[str, Any]) -> None:
        """Adds a line. If that fails, the file is as it was before."""
        text = json.dumps(line, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        try:
            self._put(text.encode("utf-8", "backslashreplace") + b"\n")
        except OSError as error:
            raise self._cut(self._size, error) from None
        self._lines += 1
        if self._lines >= LINES or time.monotonic() - self._last >= SECONDS:
            self.flush()

    def _put(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            at += os.pwrite(self._fd, data[at:], self._size + at)
        self._size += len(data)

    def flush(self) -> None:
        """Returns when what was written is on the disk. If that fails, the file is as it was after the last flush."""
        if self._size == self._synced:
            return
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise self._cut(self._synced, error) from None
        self._synced, self._lines, self._last = self._size, 0, time.monotonic()

    def _cut(self, size: int, error: OSError) -> PellucidError:
        try:
            os.ftruncate(self._fd, size)
            self._size = size
        except OSError:
            pass  # the next start cuts it off
        return self._failed(error)
