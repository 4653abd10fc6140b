"""The most memory that this process has had at once."""

from __future__ import annotations

from pathlib import Path

__all__ = ["forget_peak", "peak"]


def peak() -> int:
    """KB. (`getrusage` counts what started this program, too: a test, which may be large.)"""
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM:")).split()[1])


def forget_peak() -> None:
    """What it has now is the most, from now on."""
    Path("/proc/self/clear_refs").write_text("5")
