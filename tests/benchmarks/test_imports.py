"""Every program and benchmark can be imported; benchmarks/workers/ belongs to environments that have the peers."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_import(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")
