"""What the machine can do at most: read bandwidth and peaks of multiply-and-add, on the engine's own threads.

Both change from second to second on a shared machine, so a measurement takes a quarter of a second and is repeated
between the phases that it is compared with.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from pellucid import _engine

__all__ = ["UNITS", "Limits", "Prober", "last_cache"]

UNITS = {"read_4k": "GB/s", "read_2m": "GB/s", "int8": "Gop/s", "bf16": "Gop/s", "f32": "Gop/s"}
_REPEAT = 3  # of which the best counts: a limit is what can be done
_PEAK_NS = 5_000_000  # of one run of a peak
_CACHES = 8  # times the last-level cache: what is left in it then adds an eighth at most
_SMALLEST, _LARGEST = 64 << 20, 2 << 30  # bytes of a buffer


@dataclass(frozen=True, slots=True)
class Limits:
    """One measurement by all threads together. Reads in GB/s (1e9 bytes), peaks in Gop/s (two operations a product).

    read_2m: None where the system gives no 2 MB pages; bf16: None where the tier has no such instruction.
    """

    read_4k: float
    read_2m: float | None
    int8: float
    bf16: float | None
    f32: float

    @classmethod
    def better(cls, a: Limits, b: Limits) -> Limits:
        """The better of two measurements, figure by figure."""
        return cls(*(max(x, y) if x is not None and y is not None else None for x, y in zip(a.values(), b.values())))  # type: ignore[arg-type]

    def values(self) -> tuple[float | None, ...]:
        """In the order of the fields."""
        return tuple(asdict(self).values())

    def read(self, huge: bool) -> float:
        """Bandwidth over memory in huge pages or in small ones, GB/s."""
        return self.read_2m if huge and self.read_2m is not None else self.read_4k

    def peak(self, kind: str) -> float:
        """Gop/s of "int8", "bf16" or "f32"; bf16 without an instruction runs as f32."""
        if kind == "int8":
            return self.int8
        return self.bf16 if kind == "bf16" and self.bf16 is not None else self.f32


class Prober:
    """Measures limits of `threads` threads with the loops of tier `isa`. Holds two buffers while it lives.

    size: bytes of each; default: 8 times the last-level cache, within an eighth of the memory available. Raises
    IsaError, OutOfMemoryError.
    """

    def __init__(self, isa: str, threads: int, size: int | None = None) -> None:
        self.size = size or _buffer_size()
        self._probe = _engine.Probe(isa=isa, threads=threads, size=self.size)
        self.huge = self._probe.has("read_2m")
        self._rounds: dict[str, int] = {}

    def measure(self) -> Limits:
        """One measurement: of each limit the best of three runs."""
        return Limits(**{kind: self._best(kind) if self._probe.has(kind) else None for kind in _engine.PROBES})  # type: ignore[arg-type]

    def read(self) -> float:
        """The bandwidth of this moment, GB/s: memory is read once, in huge pages where there are any."""
        done, ns = self._probe.run("read_2m" if self.huge else "read_4k", 1)
        return done / max(ns, 1)

    def _best(self, kind: str) -> float:
        n = 1 if kind.startswith("read") else self._rounds.get(kind) or self._calibrate(kind)
        runs = (self._probe.run(kind, n) for _ in range(_REPEAT))
        return max(done / max(ns, 1) for done, ns in runs)

    def _calibrate(self, kind: str) -> int:
        """Rounds that take about _PEAK_NS."""
        n = 1000
        while True:
            _, ns = self._probe.run(kind, n)
            if ns >= _PEAK_NS / 4:
                break
            n *= 4
        self._rounds[kind] = max(1, n * _PEAK_NS // ns)
        return self._rounds[kind]


def last_cache(root: Path = Path("/")) -> int | None:
    """Bytes of processor 0's largest cache; None where the system does not say."""
    sizes = []
    for path in root.glob("sys/devices/system/cpu/cpu0/cache/index*/size"):
        text = path.read_text().strip()
        number, unit = text.rstrip("KMG"), text[-1:]
        if number.isdecimal():
            sizes.append(int(number) << {"K": 10, "M": 20, "G": 30}.get(unit, 0))
    return max(sizes, default=None)


def _buffer_size() -> int:
    size = min(max(_CACHES * (last_cache() or 32 << 20), _SMALLEST), _LARGEST)
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                size = min(size, int(value.split()[0]) * 1024 // 8)
    except (OSError, ValueError, IndexError):
        pass
    return max(size, 4096)
