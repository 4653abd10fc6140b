"""Benchmarks run by themselves (`pytest benchmarks --benchmark-enable`) and share the tests' case tables."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
