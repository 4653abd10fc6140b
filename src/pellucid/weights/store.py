"""The cache folder: its place, locks and free space, how a complete file gets its name, and disk errors."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from pellucid.errors import FetchError, one_line, os_reason

# progress(done bytes, total bytes, label): done never decreases, and reaches total.
Progress = Callable[[int, int, str], None]

MIN_RATE = 1000.0  # minimum bytes per second of a download: an eighth of what a telephone modem carries
RESERVE = 0.05  # of the disk, which downloads leave free
_POLL = 0.05  # seconds between attempts to take a lock
_STALE = 7 * 86400.0  # seconds after which an unfinished download is deleted
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)  # of a file system without locks


def cache_folder() -> Path:
    """Where models are kept; the folder need not exist. Raises FetchError if the user has no home folder."""
    own = os.environ.get("PELLUCID_CACHE")
    try:
        if own:
            return Path(own).expanduser().absolute()
        if sys.platform == "win32":
            local = os.environ.get("LOCALAPPDATA")
            return (Path(local) if local else Path.home() / "AppData" / "Local") / "pellucid"
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "pellucid"
        xdg = os.environ.get("XDG_CACHE_HOME", "")
        return (Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache") / "pellucid"
    except RuntimeError:
        raise FetchError("there is no home folder: set PELLUCID_CACHE to a folder for models") from None


def size(nbytes: int) -> str:
    """Bytes in readable form: "98.4 MB"."""
    for unit, scale in (("EB", 1e18), ("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.1f} {unit}"
    return f"{nbytes} B"


class DiskFull(FetchError):
    """The disk has too little room."""


def is_full(error: OSError) -> bool:
    """Whether an error is a full disk, an exhausted quota, or a limit on the size of files."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cannot_use(name: str, folder: Path, need: int, error: OSError) -> FetchError:
    """The FetchError for an OSError of the cache folder. ``need``: bytes that the download needs there, 0 if
    unknown."""
    if isinstance(error, BrokenPipeError):  # of the progress output, not of the folder
        raise error
    if is_full(error):
        return disk_full(name, folder, need)
    reason = os_reason(error)
    if error.errno == errno.ENAMETOOLONG:
        where = os.path.basename(os.fsdecode(error.filename or "")) or name
        return FetchError(f"{one_line(where, 100)}: the name is too long for the file system of {folder}", name=name)
    return FetchError(
        f"the cache folder {folder} cannot be used ({reason}): set PELLUCID_CACHE to a folder that can be written",
        name=name,
    )


def disk_full(name: str, folder: Path, need: int) -> DiskFull:
    """The error for a disk without ``need`` free bytes (0: not known) beyond the share that is left free."""
    what = f"needs {size(need)} free" if need else "needs more free space"
    return DiskFull(
        f"the disk is full: {one_line(name, 100)} {what} in {folder}, where {RESERVE:.0%} of the disk is left free;"
        " free some, or set PELLUCID_CACHE to a folder elsewhere",
        name=name,
    )


def check_space(name: str, folder: Path, need: int) -> None:
    """Raises DiskFull if the disk has less than ``need`` bytes free beyond `RESERVE` of its size."""
    disk = shutil.disk_usage(folder)
    if disk.free - need < RESERVE * disk.total:
        raise disk_full(name, folder, need)


def has_size(path: Path, nbytes: int) -> bool:
    """Whether this is a file of that many bytes."""
    try:
        return path.is_file() and path.stat().st_size == nbytes
    except OSError:
        return False


def commit(out: IO[bytes], draft: Path, target: Path) -> None:
    """Gives a complete file its name, by one atomic rename after its bytes are on the disk. ``out``: the open draft."""
    out.flush()
    os.fsync(out.fileno())
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(draft, target)
    if os.name == "posix":  # the rename should survive a power failure, too
        fd = os.open(target.parent, os.O_RDONLY)
        with suppress(OSError):
            os.fsync(fd)
        os.close(fd)


def has_no_locks(error: OSError) -> bool:
    """Whether the file system has no locks, such as Lustre in a common configuration."""
    return error.errno in _NO_LOCKS


def try_lock(file: IO[Any]) -> bool:
    """Takes the lock if it is free, and returns whether it was. The lock is released when the process ends, however it
    ends. Raises OSError, also if the file system has no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
            return False
        raise
    return True


@contextmanager
def lock(path: Path, waiting: Callable[[], None]) -> Iterator[bool]:
    """Waits for the lock of ``path``; yields False if the file system has no locks, and work continues without one.

    waiting: called repeatedly while another process holds it.
    """
    with open(path, "ab") as file:
        try:
            while not try_lock(file):
                waiting()
                time.sleep(_POLL)
        except OSError as error:
            if not has_no_locks(error):
                raise
            yield False
        else:
            yield True


def sweep(folder: Path, own: str) -> None:
    """Removes what killed processes left: work folders of the model ``own`` and of models whose lock is free."""
    for work in folder.glob(".*.tmp"):
        if work.is_file():  # a draft of a record: written without a lock
            _remove_stale(work)
            continue
        name = work.name[1:].rsplit(".", 2)[0]
        if name == own:
            shutil.rmtree(work, ignore_errors=True)
            continue
        with suppress(OSError), open(folder / f".{name}.lock", "ab") as file:
            if try_lock(file):
                shutil.rmtree(work, ignore_errors=True)


def sweep_parts(top: Path) -> None:
    """Removes downloads below ``top`` (in its ``*/.NAME.parts``) that were interrupted and not resumed."""
    for part in (*top.glob("*/.*.parts/*"), *top.glob("*/.*.verified.*.tmp")):
        _remove_stale(part)
        with suppress(OSError):
            part.parent.rmdir()


def _remove_stale(file: Path) -> None:
    with suppress(OSError):
        if time.time() - file.stat().st_mtime > _STALE:
            file.unlink()
