"""How much more memory the process may use."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

__all__ = ["address_space_is_limited", "available", "cache_limit", "prefix_limit"]

CACHE_SHARE = 2  # default limit of keys and values: 1/2 of the memory that is left
LEAST_CACHE = 64 << 20  # bytes, however little is left
PREFIX_SHARE = 4  # default limit of a prefix cache: 1/4 of the memory that is left
PREFIX_BYTES = 1 << 30  # if the system does not report how much is left


def cache_limit(weights: int, whole: int) -> tuple[int | None, str]:
    """(the default limit of a model's keys and values, in bytes, or None: no limit; the reason for it): half of the
    memory left by its weights; or `whole`, the size of one sequence that fills the model's context, if that is more and
    fits in what is left. weights: bytes that are about to be loaded."""
    left = available()
    if left is None:
        return None, "the system does not report how much memory is left"
    left = max(left - weights, 0)
    whole = min(whole, left)
    if whole > left // CACHE_SHARE:
        return max(whole, LEAST_CACHE), "one sequence of the context, or all memory that was left"
    return max(left // CACHE_SHARE, LEAST_CACHE), "half of the memory that was left after loading"


def address_space_is_limited() -> bool:
    """Whether the process has a limit on its address space (ulimit -v)."""
    try:
        import resource
    except ImportError:  # not available on this system
        return False
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def prefix_limit() -> int:
    """The default limit of a prefix cache, in bytes."""
    left = available()
    return PREFIX_BYTES if left is None else left // PREFIX_SHARE


def available(root: Path = Path("/")) -> int | None:
    """Bytes that the process can use before the system or a control group runs short; None if the system does not
    report it. root: the parent of /proc and /sys."""
    found = [_system(root / "proc/meminfo"), *_groups(root)]
    return min((n for n in found if n is not None), default=None)


def _system(path: Path) -> int | None:
    return _field(path, "MemAvailable:", 1024)


def _groups(root: Path) -> list[int | None]:
    """What is left in each control group of the process, of both versions (cgroups(7))."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return []
    found: list[int | None] = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if not controllers:
            # Above memory.high processes still run, but are throttled.
            top, limits, used = "sys/fs/cgroup", ["memory.max", "memory.high"], "memory.current"
            cache = "inactive_file"
        elif "memory" in controllers.split(","):
            top, limits, used = "sys/fs/cgroup/memory", ["memory.limit_in_bytes"], "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        path = PurePosixPath("/", name)
        for group in (path, *path.parents):  # the limits of outer groups apply, too
            folder = root / top / group.relative_to("/")
            most = min((n for n in (_number(folder / limit) for limit in limits) if n is not None), default=None)
            now = _number(folder / used)
            if most is not None and now is not None:
                # The page cache of files that are not in use can be reclaimed.
                found.append(max(most - now + (_field(folder / "memory.stat", cache, 1) or 0), 0))
    return found


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such group; "max"
        return None


def _field(path: Path, name: str, unit: int) -> int | None:
    try:
        for line in path.read_text().splitlines():
            words = line.split()
            if words and words[0] == name:
                return int(words[1]) * unit
    except (OSError, ValueError, IndexError):
        pass
    return None
