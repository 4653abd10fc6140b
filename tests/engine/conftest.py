"""Small models, loaded once per set of options while they are in use."""

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


KEPT = 64  # models; a worker that kept all had 6 GB


@pytest.fixture(scope="session")
def load(folder: Path) -> Iterator[models.Load]:
    """load(name, mix, changes={}, **options of Model.load): a model; the last ones are kept."""
    kept: dict[Any, Model] = {}

    def make(name: str, mix: str = "F32", changes: dict[str, Any] | None = None, **options: Any) -> Model:
        key = (name, mix, tuple((changes or {}).items()), tuple(sorted(options.items())))
        model = kept.pop(key, None)
        if model is None:
            path = models.write(folder, name, mix, **(changes or {}))
            model = Model.load(path, context=models.CONTEXT, **{"threads": 2, **options})
        kept[key] = model  # the last
        if len(kept) > KEPT:
            del kept[next(iter(kept))]  # whoever still has it goes on using it
        return model

    yield make
    for model in kept.values():
        model.close()
