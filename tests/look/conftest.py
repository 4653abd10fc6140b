"""Small models for looking inside, loaded once per set of options."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from tests.engine import models
from tests.reference import tiny


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[models.Load]:
    """load(name, mix="F32", **options of Model.load): a model, kept for the session; mix "folder": its folder form."""
    folder, kept = tmp_path_factory.mktemp("models"), dict[Any, Model]()

    def make(name: str, mix: str = "F32", **options: Any) -> Model:
        key = (name, mix, tuple(sorted(options.items())))
        if key not in kept:
            path: Path
            if mix == "folder":
                path = tiny.write_folder(models.BY_NAME[name], folder / name)
            else:
                path = models.write(folder, name, mix)
            kept[key] = Model.load(path, **{"threads": 2, **options})
        return kept[key]

    yield make
    for model in kept.values():
        model.close()


@pytest.fixture(scope="session")
def smollm(smollm2: Path) -> Iterator[Model]:
    with Model.load(smollm2, threads=2) as model:
        yield model
