from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pellucid import Model
from pellucid.server.app import make_app
from pellucid.server.gate import Gate
from pellucid.server.service import Service
from pellucid.server.settings import Settings

NAME = "smollm2-135m"


@pytest.fixture(scope="session")
def model(smollm2: Path) -> Iterator[Model]:
    with Model.load(smollm2, threads=2, context=512, prefix_cache=True) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def app(model: Model) -> Iterator[Gate]:
    service = Service(Settings(names=(NAME, "gpt-4o")), model)
    yield make_app(service)
    service.close()
