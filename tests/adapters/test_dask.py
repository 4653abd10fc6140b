"""Models in the processes of Dask and joblib, with these packages themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.adapters.conftest import HERE, Run

pytestmark = pytest.mark.clients

PACKAGES = ["dask[dataframe]==2026.8.0", "distributed==2026.8.0", "joblib==1.6.0"]


def test_program(environment: Callable[[list[str]], Run], smollm2: Path) -> None:
    assert environment(PACKAGES)(HERE / "programs" / "dask_program.py", smollm2).endswith("fine\n")
