"""How much memory is left, as the system and control groups tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from pellucid.memory import available

GB = 1 << 30


def write(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


MEMORY = {"proc/meminfo": f"MemTotal: {8 * GB >> 10} kB\nMemFree: 5 kB\nMemAvailable:   {4 * GB >> 10} kB"}
TOP, V1 = "sys/fs/cgroup", "sys/fs/cgroup/memory"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/meminfo": "MemTotal: 1 kB"}, None),
        ({"proc/meminfo": "MemAvailable: many kB"}, None),
        (MEMORY, 4 * GB),
        ({**MEMORY, "proc/self/cgroup": "0::/a/b"}, 4 * GB),
        (
            {
                **MEMORY,
                "proc/self/cgroup": "0::/a/b",
                f"{TOP}/a/b/memory.max": "max",
                f"{TOP}/a/b/memory.current": GB,
                f"{TOP}/a/memory.max": 3 * GB,
                f"{TOP}/a/memory.current": 2 * GB,
                f"{TOP}/a/memory.stat": f"anon 5\ninactive_file {GB // 2}\nactive_file 7",
            },
            GB + GB // 2,
        ),
        (
            {
                **MEMORY,
                "proc/self/cgroup": "5:cpu,memory:/job\n1:name=systemd:/x\n0::/",
                f"{V1}/job/memory.limit_in_bytes": 2 * GB,
                f"{V1}/job/memory.usage_in_bytes": GB,
                f"{V1}/job/memory.stat": f"total_inactive_file {GB // 4}",
                f"{V1}/memory.limit_in_bytes": 2**63 - 4096,
                f"{V1}/memory.usage_in_bytes": 3 * GB,
            },
            GB + GB // 4,
        ),
        (
            {
                **MEMORY,
                "proc/self/cgroup": "0::/a",
                f"{TOP}/a/memory.max": 3 * GB,
                f"{TOP}/a/memory.high": 2 * GB,
                f"{TOP}/a/memory.current": GB,
            },
            GB,
        ),
        (
            {
                "proc/self/cgroup": "0::/",
                f"{TOP}/memory.max": GB,
                f"{TOP}/memory.current": 2 * GB,
            },
            0,
        ),
        ({**MEMORY, "proc/self/cgroup": "nonsense\n0::/../../escape"}, 4 * GB),
    ],
)
def test_available(tmp_path: Path, files: dict[str, object], expected: int | None) -> None:
    assert available(write(tmp_path, files)) == expected


def test_of_this_system() -> None:
    found = available()
    assert found is None or 0 < found < 1 << 50
