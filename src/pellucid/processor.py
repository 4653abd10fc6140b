"""Which processor this is, independent of the name that its maker or a virtual machine gives it, and how many there
are."""

from __future__ import annotations

from pathlib import Path

from pellucid import _engine

__all__ = ["processor", "processors"]

_KEYS = ("vendor_id", "cpu family", "model", "stepping", "CPU implementer", "CPU part", "CPU variant")


def processor(root: Path = Path("/")) -> str:
    """As in "AuthenticAMD, family 25, model 17, stepping 1"; "" if the system does not report it."""
    found: dict[str, str] = {}
    try:
        with open(root / "proc/cpuinfo", errors="replace") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key.strip() in _KEYS:
                    found.setdefault(key.strip(), value.strip())
                elif not key.strip() and found:
                    break  # the next processor, of perhaps hundreds
    except OSError:
        pass
    words = (value if key == "vendor_id" else f"{key.split()[-1]} {value}" for key, value in found.items())
    return ", ".join(words)


def processors() -> float:
    """How many processors this process can use at the same time: those of its affinity, or a cgroup's quota if that is
    lower."""
    return _engine.processors()
