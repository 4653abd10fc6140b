"""Models in the processes of Dask and joblib, with these packages themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.adapters.conftest import HERE, Run, readme

pytestmark = pytest.mark.clients

PACKAGES = ["dask[dataframe]==2026.8.0", "distributed==2026.8.0", "joblib==1.6.0"]


@pytest.fixture(scope="module")
def run(environment: Callable[[list[str]], Run]) -> Run:
    return environment(PACKAGES)


def test_program(run: Run, smollm2: Path) -> None:
    assert run(HERE / "programs" / "dask_program.py", smollm2).endswith("fine\n")


def test_readme(run: Run, smollm2: Path) -> None:
    assert run("-c", readme("joblib")).count("<Completion ") == 2
