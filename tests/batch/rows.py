"""Rows and lines of files, for the tests of `pellucid batch`."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

MESSAGES = [{"role": "user", "content": "Hi"}]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def by_id(path: Path) -> dict[Any, Any]:
    found = {line.get("id", line.get("custom_id")): line for line in lines(path)}
    assert len(found) == len(lines(path))
    return found


def ids_rows(n: int) -> list[dict[str, Any]]:
    rng = random.Random(n)
    return [
        {"id": f"row {i}", "prompt_ids": [rng.randrange(40) for _ in range(rng.randint(1, 20))], "max_tokens": 4}
        for i in range(n)
    ]


def command(*arguments: Any) -> list[str]:
    return [sys.executable, "-m", "pellucid", "batch", *map(str, arguments)]
