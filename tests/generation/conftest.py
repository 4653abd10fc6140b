from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pellucid import Model
from tests.engine import models


@pytest.fixture(scope="session")
def smol(smollm2: Path) -> Iterator[Model]:
    with Model.load(smollm2, threads=2) as model:
        yield model


@pytest.fixture(scope="session")
def ids_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """A tiny model without a tokenizer, with a context of 64 tokens."""
    folder = tmp_path_factory.mktemp("generation")
    with Model.load(models.write(folder, "narrow", "all"), threads=2, context=64) as model:
        yield model
