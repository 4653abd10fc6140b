"""The program of the documentation for DuckDB, with DuckDB; those for pandas, polars and SQLite run with the others."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from tests.adapters.conftest import EXAMPLES, Run, readme

pytestmark = pytest.mark.clients

PACKAGES = ["duckdb==2.0.1"]
PAGE = EXAMPLES.parent / "docs" / "other-packages.md"


def test_duckdb(environment: Callable[[list[str]], Run], smollm2: Path) -> None:
    (program,) = re.findall(r"^## DuckDB$.*?^```py\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    run = environment(PACKAGES)

    def rows(code: str) -> list[tuple[Any, ...]]:
        (line,) = (line for line in run("-c", code).splitlines() if line.startswith("["))  # DuckDB can draw a bar
        found: list[tuple[Any, ...]] = ast.literal_eval(line)
        return found

    with Model.load(smollm2) as model:
        sky, sea = (done.text for done in model.generate(["The sky is", "The sea is"], max_tokens=4, temperature=0))
    assert rows(program) == [(1, sky), (2, None), (3, sea)]
    assert all(len(row) == 1 and row[0] for row in rows(readme("duckdb")))
