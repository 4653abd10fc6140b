"""Small models, loaded once per set of options."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from tests.engine import models


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def load(folder: Path) -> Iterator[models.Load]:
    """load(name, mix, changes={}, **options of Model.load): a model, kept for the session."""
    kept: dict[Any, Model] = {}

    def make(name: str, mix: str = "F32", changes: dict[str, Any] | None = None, **options: Any) -> Model:
        key = (name, mix, tuple((changes or {}).items()), tuple(sorted(options.items())))
        if key not in kept:
            path = models.write(folder, name, mix, **(changes or {}))
            kept[key] = Model.load(path, context=models.CONTEXT, **{"threads": 2, **options})
        return kept[key]

    yield make
    for model in kept.values():
        model.close()
