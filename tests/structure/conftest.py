from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pellucid import Model


@pytest.fixture(scope="session")
def smol(smollm2: Path) -> Iterator[Model]:
    with Model.load(smollm2, threads=2) as model:
        yield model
