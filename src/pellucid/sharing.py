"""Packed weights shared by the processes of a user: a file in memory, which the first process fills and all map.

The folder /dev/shm/pellucid-UID has two files for each set of packed weights: KEY, the weights, and KEY.lock. A process
that packs holds the lock exclusively and, when the weights are complete, records in it what identifies them; processes
that use the weights hold it shared for as long as they are mapped. The system releases a process's locks however it
ends, so no process waits for one that was killed; weights that nobody holds are removed by the last process that closes
them, or at the next load.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import stat
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pellucid import _engine, checks, log
from pellucid.errors import os_reason
from pellucid.plan import Plan
from pellucid.snapshot import snapshot
from pellucid.weights.base import ModelFile
from pellucid.weights.store import is_full, size

if sys.platform != "win32":
    import fcntl

__all__ = ["Place", "asked", "find"]

ROOT = "/dev/shm"
LAYOUT = 1  # of the file layout here
HUGE_PAGE = 2 << 20
LONGEST = 60.0  # seconds that packing by another process may take, ...
SLOWEST = 50e6  # ... plus one second for this many bytes; then it is no longer waited for
_POLL = 0.01  # seconds between attempts to take a lock
_MOST_MARK = 256  # bytes

_live: weakref.WeakSet[Place] = weakref.WeakSet()


def asked(share: Any) -> bool:
    """Whether to share weights: the argument if given, else PELLUCID_SHARE. Raises TypeError, ValueError."""
    if share is not None:
        return checks.flag("share", share)
    text = os.environ.get("PELLUCID_SHARE", "")
    if text not in ("", "0", "1"):
        raise checks.wrong_value("PELLUCID_SHARE", text, "0 or 1")
    return text == "1"


def find(file: ModelFile, plan: Plan, how: str) -> tuple[Place | None, str]:
    """(where a model's packed weights are or will be, or None: in this process's own memory; why). how: what was done
    to the file's weights before packing."""
    try:
        place = _open(file, plan, how)
        return place, "packed by an earlier load" if place.packed else "packed by this load"
    except _Refused as refused:
        why = str(refused)
    except OSError as error:
        why = f"{ROOT}: {os_reason(error)}"
    log.warn_once("the weights are not shared: %s", why)
    return None, why


class _Refused(Exception):
    """Why weights are not shared."""


class Place:
    """Where packed weights are. fd: of the file; packed: whether another process has packed them. This process's use
    ends when nothing refers to the object any more, or when the process ends."""

    def __init__(self, folder: int, path: str, key: str, lock: int, fd: int, packed: bool) -> None:
        self.fd = fd
        self.packed = packed
        self._names = folder, path, key
        self._lock = lock
        self._lent: int | None = None  # a second lock, for a child being forked
        self._hold()

    def _hold(self) -> None:
        end = functools.partial(_end, *self._names, self._lock, self.fd)
        self._finalizer = weakref.finalize(self, end)
        _live.add(self)
        processes = sys.modules.get("multiprocessing.util")
        if processes is not None:  # its forked children skip other exit functions
            processes.Finalize(self, end_once, (self._finalizer,), exitpriority=0)

    def finish(self) -> None:
        """Marks the weights as complete: others may use them."""
        if self.packed or not self._finalizer.alive:
            return
        os.fchmod(self.fd, 0o400)
        os.pwrite(self._lock, _mark(os.fstat(self.fd)), 0)
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def before_fork(self) -> None:
        """Opens the lock once more, for the child: it may use the weights longer than its parent."""
        folder, _, key = self._names
        with suppress(OSError):
            # If it is empty, this process is packing, which the child will not do.
            if self._finalizer.alive and os.pread(self._lock, 1, 0):
                self._lent = os.open(f"{key}.lock", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                if not _is_named(folder, key, self._lock) or not _take(self._lent, fcntl.LOCK_SH):
                    self.after_fork()

    def after_fork(self) -> None:
        """In the parent: closes the child's lock, which is only for the child."""
        lent, self._lent = self._lent, None
        if lent is not None:
            os.close(lent)

    def in_child(self) -> None:
        if self._finalizer.detach() is None:  # its use has ended: its descriptors are closed, or other files'
            return
        os.close(self._lock)
        if self._lent is None:  # mapped weights stay
            os.close(self.fd)
            os.close(self._names[0])
        else:
            self._lock, self._lent = self._lent, None
            self._hold()


def end_once(finalizer: weakref.finalize[Any, Any]) -> None:
    finalizer()


def _end(folder: int, path: str, key: str, lock: int, fd: int) -> None:
    """Ends a use; the last user removes the weights."""
    with suppress(OSError):
        if _take(lock, fcntl.LOCK_EX):
            _remove(folder, key, lock)
            os.rmdir(path)  # succeeds if it is empty
    for one in (lock, fd, folder):
        os.close(one)


# ---- finding ---------------------------------------------------------------------------------------------------------


def _open(file: ModelFile, plan: Plan, how: str) -> Place:
    if sys.platform != "linux":
        raise _Refused("only Linux has files in memory that processes find by name")
    nbytes = _engine.packed_bytes(plan)
    if not nbytes:
        raise _Refused("there are no weights")
    key = _key(file, plan, how)
    path = os.path.join(ROOT, f"pellucid-{os.geteuid()}")
    until = time.monotonic() + LONGEST + nbytes / SLOWEST
    while True:
        folder = _folder(path)
        try:
            with contextlib.ExitStack() as undo:
                undo.callback(os.close, folder)
                _sweep(folder, key)
                place = _enter(folder, path, key, nbytes, until, undo)
                if place is not None:
                    undo.pop_all()
                    return place
        except FileNotFoundError:  # its last user has just removed it
            if time.monotonic() > until:
                raise
        except _Refused:
            with suppress(OSError):
                os.rmdir(path)  # succeeds if it is empty
            raise


def _folder(path: str) -> int:
    """The user's own folder; nobody else can write to it."""
    if not os.path.isdir(ROOT):
        raise _Refused(f"there is no {ROOT}")
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError:  # also a symbolic link
        raise _Refused(f"{path} is not a folder") from None
    status = os.fstat(folder)
    wrong = ""
    if status.st_uid != os.geteuid():
        wrong = "belongs to another user"
    elif status.st_mode & 0o077:
        wrong = "can be used by others"
    if wrong:
        os.close(folder)
        raise _Refused(f"{path} {wrong}")
    return folder


def _enter(folder: int, path: str, key: str, nbytes: int, until: float, undo: contextlib.ExitStack) -> Place | None:
    """Finds or makes the weights; None if the files have just been removed."""
    lock = _open_lock(folder, key)
    undo.callback(os.close, lock)
    while True:
        if _take(lock, fcntl.LOCK_SH):
            if not _is_named(folder, key, lock):
                return None
            mark = os.pread(lock, _MOST_MARK, 0)
            if mark:
                fd = _packed(folder, key, nbytes, mark)
                if fd is not None:
                    return Place(folder, path, key, lock, fd, True)
            fcntl.flock(lock, fcntl.LOCK_UN)
            if mark and not _take(lock, fcntl.LOCK_EX):  # others use the file in this state
                raise _Refused(f"{path}/{key} is not what was packed: it was cut short or altered")
            if mark:
                _remove(folder, key, lock)
                return None
        if _take(lock, fcntl.LOCK_EX):
            if not _is_named(folder, key, lock):
                return None
            if not os.pread(lock, 1, 0):
                return Place(folder, path, key, lock, _make(folder, key, lock, nbytes), False)
            fcntl.flock(lock, fcntl.LOCK_UN)
        if time.monotonic() > until:
            raise _Refused("another process has been packing them for too long")
        time.sleep(_POLL)


def _packed(folder: int, key: str, nbytes: int, mark: bytes) -> int | None:
    """The complete file, opened; None if it does not match its mark."""
    try:
        fd = os.open(key, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return None
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and status.st_size == nbytes and mark == _mark(status):
        return fd
    os.close(fd)
    return None


def _make(folder: int, key: str, lock: int, nbytes: int) -> int:
    """Makes a new file and allocates its memory. The lock is held exclusively; an existing file was left by a killed
    process."""
    try:
        with suppress(FileNotFoundError):
            os.unlink(key, dir_fd=folder)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(key, flags, 0o600, dir_fd=folder)
        try:
            for start in range(0, nbytes, HUGE_PAGE):  # one page of each, which then grows into a huge page
                os.posix_fallocate(fd, start, 1)
            _engine.share_huge(fd, nbytes)
            os.posix_fallocate(fd, 0, nbytes)  # the rest, so that no later write runs out of memory
        except BaseException:
            os.close(fd)
            raise
        return fd
    except BaseException as error:
        _remove(folder, key, lock)
        if isinstance(error, OSError) and (is_full(error) or error.errno == errno.ENOMEM):
            raise _Refused(f"{ROOT} has no room for {size(nbytes)}") from None
        raise


def _mark(status: os.stat_result) -> bytes:
    """What identifies a complete file. The time of the last change cannot be set by anyone."""
    values = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return f"{' '.join(map(str, values))} {status.st_mode:o} {status.st_nlink}\n".encode()


# ---- locks -----------------------------------------------------------------------------------------------------------


def _open_lock(folder: int, key: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.open(f"{key}.lock", flags, 0o600, dir_fd=folder)


def _take(lock: int, kind: int) -> bool:
    """Takes a lock if it is free. If it is not, a lock of another kind that this process holds on it is lost."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_named(folder: int, key: str, lock: int) -> bool:
    """Whether other processes still find this lock under its name."""
    try:
        found = os.stat(f"{key}.lock", dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(lock))


def _remove(folder: int, key: str, lock: int) -> None:
    """Removes both files. The lock is held exclusively."""
    if _is_named(folder, key, lock):
        for name in (key, f"{key}.lock"):
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)


def _sweep(folder: int, own: str) -> None:
    """Removes weights that nobody uses."""
    for key in {name.removesuffix(".lock") for name in os.listdir(folder)} - {own}:
        with suppress(OSError):
            lock = _open_lock(folder, key)
            try:
                if _take(lock, fcntl.LOCK_EX):
                    _remove(folder, key, lock)
            finally:
                os.close(lock)


# ---- the key ---------------------------------------------------------------------------------------------------------


def _key(file: ModelFile, plan: Plan, how: str) -> str:
    """The same for the same packed bytes; one for each set of NUMA nodes, which each have their own copy."""
    what = {
        "layout": LAYOUT,
        "pellucid": sys.modules["pellucid"].__version__,
        "engine": _engine_digest(),
        "nodes": _nodes(),
        "how": how,
        "files": [[s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns] for s in _stamps(file)],
        "matrices": [[m.name, m.type, m.rows, m.k, m.stack, m.plain, m.data.size] for m in plan.matrices],
    }
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _stamps(file: ModelFile) -> Iterator[os.stat_result]:
    """The stat results of the open files, and of the tables beside a folder's files that affect how weights are
    read."""
    yield from file.stamps()
    if os.path.isdir(file.path):
        for path in sorted(Path(file.path).glob("*.json")):
            with suppress(OSError):
                yield path.stat()


@functools.cache
def _engine_digest() -> str:
    """A digest of the code that packs."""
    with open(_engine.__file__, "rb") as module:
        return hashlib.sha256(module.read()).hexdigest()


def _nodes(root: str = "/sys/devices/system/node") -> list[int]:
    """The NUMA nodes of the processors that the process may use."""
    mine = os.sched_getaffinity(0)
    found = []
    for path in Path(root).glob("node[0-9]*/cpulist"):
        with suppress(OSError, ValueError):
            if mine & set(_numbers(path.read_text())):
                found.append(int(path.parent.name[4:]))
    return sorted(found)


def _numbers(text: str) -> Iterable[int]:
    """0-3,8 -> 0, 1, 2, 3, 8."""
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


_forking = threading.Lock()  # from before a fork until after it


def _before_fork() -> None:
    _forking.acquire()
    for place in snapshot(_live):
        place.before_fork()


def _after_fork() -> None:
    for place in snapshot(_live):
        place.after_fork()
    _forking.release()


def _in_child() -> None:
    for place in snapshot(_live):
        with suppress(OSError):
            place.in_child()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
