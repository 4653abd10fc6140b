"""The limits of the machine: read bandwidth and peak rates of multiply-add, measured on the engine's threads.

On a shared machine the bandwidth changes from second to second, so it is measured beside each phase that is compared
with it. A peak is a property of the cores: the best measurement of a session counts (:attr:`Prober.best`).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pellucid import _engine, memory
from pellucid.processor import processors

__all__ = ["UNITS", "Limits", "Prober", "buffer_size", "last_cache"]

UNITS = {
    "read_4k": "GB/s",
    "read_2m": "GB/s",
    "int8": "Gop/s",
    "int8_wide": "Gop/s",
    "bf16": "Gop/s",
    "f32": "Gop/s",
    "clock": "GHz",
}
_REPEAT = 3  # runs per limit; the best one counts
_PEAK_NS = 5_000_000  # nanoseconds of one run that measures a peak
_CACHES = 8  # size of a buffer in last-level caches, which then serve at most an eighth of the reads
_SMALLEST, _LARGEST = 64 << 20, 2 << 30  # bytes of a buffer


@dataclass(frozen=True, slots=True)
class Limits:
    """One measurement, of all threads together: reads in GB/s (1e9 bytes), peaks in Gop/s (two operations a product);
    clock: mean GHz of the threads' cores.

    read_2m: None if the system has no 2 MB pages; bf16: None if the tier has no such instruction; int8_wide: for
    eight-bit codes, None if their products are summed like those of others. Peaks and clock are per second of processor
    time, so that a thread that waits for a processor does not count as slow; peaks are for as many threads as can run
    at the same time.
    """

    read_4k: float
    read_2m: float | None
    int8: float
    bf16: float | None
    f32: float
    clock: float
    int8_wide: float | None = None

    @classmethod
    def better(cls, a: Limits, b: Limits) -> Limits:
        """The better value of each limit in two measurements."""
        return cls(*(max(x, y) if x is not None and y is not None else None for x, y in zip(a.values(), b.values())))  # type: ignore[arg-type]

    def values(self) -> tuple[float | None, ...]:
        """The limits, in the order of the fields."""
        return tuple(asdict(self).values())

    def computing(self, best: Limits) -> Limits:
        """These reads combined with the peaks of another measurement."""
        return replace(best, read_4k=self.read_4k, read_2m=self.read_2m)

    def read(self, huge: bool) -> float:
        """Read bandwidth of memory in huge or in small pages, GB/s."""
        return self.read_2m if huge and self.read_2m is not None else self.read_4k

    def peak(self, kind: str) -> float:
        """Gop/s of "int8", "int8_wide", "bf16" or "f32"; if the tier has no bf16 instruction, bf16 counts as f32."""
        if kind.startswith("int8"):
            return self.int8_wide if kind == "int8_wide" and self.int8_wide is not None else self.int8
        return self.bf16 if kind == "bf16" and self.bf16 is not None else self.f32


class Prober:
    """Measures the limits of `threads` threads with the loops of tier `isa`. It holds two buffers.

    size: bytes of each; default: 8 times the last-level caches, within an eighth of the memory available. best: the
    better value of each limit so far; None before the first measurement. Raises IsaError, OutOfMemoryError.
    """

    best: Limits | None = None

    def __init__(self, isa: str, threads: int, size: int | None = None) -> None:
        self.threads = threads
        self.size = size or buffer_size()
        self._probe = _engine.Probe(isa=isa, threads=threads, size=self.size)
        self.huge = self._probe.has("read_2m")
        self._rounds: dict[str, int] = {}

    def measure(self) -> Limits:
        """One measurement: the best of three runs for each limit."""
        found = {kind: self._best(kind) if self._probe.has(kind) else None for kind in _engine.PROBES}
        assert found["clock"] is not None
        found["clock"] /= self.threads
        share = min(1.0, processors() / self.threads)  # share of the threads that can compute at the same time
        found = {k: x if x is None or UNITS[k] != "Gop/s" else x * share for k, x in found.items()}
        limits = Limits(**found)  # type: ignore[arg-type]
        self.best = limits if self.best is None else Limits.better(self.best, limits)
        return limits

    def holding(self) -> Limits:
        """A measurement, with the best peaks so far in place of its own."""
        limits = self.measure()
        assert self.best is not None
        return limits.computing(self.best)

    def read(self) -> float:
        """The current read bandwidth in GB/s: memory is read once, in huge pages if the system has them."""
        done, ns = self._probe.run("read_2m" if self.huge else "read_4k", 1)
        return done / max(ns, 1)

    def _best(self, kind: str) -> float:
        n = 1 if kind.startswith("read") else self._rounds.get(kind) or self._calibrate(kind)
        runs = (self._probe.run(kind, n) for _ in range(_REPEAT))
        return max(done / max(ns, 1) for done, ns in runs)

    def _calibrate(self, kind: str) -> int:
        """The number of rounds that take about _PEAK_NS."""
        n = 1000
        while True:
            _, ns = self._probe.run(kind, n)
            if ns >= _PEAK_NS / 4:
                break
            n *= 4
        self._rounds[kind] = max(1, n * _PEAK_NS // ns)
        return self._rounds[kind]


def last_cache(root: Path = Path("/")) -> int | None:
    """Bytes of the largest caches of all processors together, since each thread reads its share of a buffer; None if
    the system does not report them."""
    found: dict[str, int] = {}  # by the processors that share a cache
    for processor in root.glob("sys/devices/system/cpu/cpu[0-9]*"):
        sizes: dict[Path, int] = {}
        for folder in processor.glob("cache/index*"):
            with suppress(OSError, ValueError):
                text = (folder / "size").read_text().strip()
                number, unit = text.rstrip("KMG"), text[-1:]
                sizes[folder] = int(number) << {"K": 10, "M": 20, "G": 30}.get(unit, 0)
        if sizes:
            largest, shared = max(sizes, key=sizes.__getitem__), processor.name
            with suppress(OSError, ValueError):
                shared = (largest / "shared_cpu_list").read_text().strip()
            found[shared] = sizes[largest]
    return sum(found.values()) or None


def buffer_size() -> int:
    """Bytes of a buffer that is read from memory: 8 times the last-level caches, within an eighth of the memory
    available to the system or container."""
    size = min(max(_CACHES * (last_cache() or 32 << 20), _SMALLEST), _LARGEST)
    left = memory.available()
    return size if left is None else max(min(size, left // 8), 4096)
