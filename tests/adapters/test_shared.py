"""Models that adapters share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pellucid import Model
from pellucid.adapters.shared import loaded
from pellucid.errors import FetchError, ModelFileError
from pellucid.weights import catalog
from tests.reference.tiny import TINY, write_gguf


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_gguf(TINY[0], tmp_path / "tiny.gguf")


def test_the_same_file_and_options_are_one_model(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(str(path), {"threads": 1})
    monkeypatch.chdir(path.parent)
    assert loaded("tiny.gguf", {"threads": 1}) is model is loaded(model, {})
    assert loaded(str(path), {"threads": 1, "context": 16}) is not model


def test_a_file_that_was_replaced_is_another_model(path: Path) -> None:
    model = loaded(str(path), {})
    os.replace(write_gguf(TINY[1], path.with_name("new.gguf")), path)
    again = loaded(str(path), {})
    with Model.load(path) as expected:
        assert again is not model and again.info().architecture == expected.info().architecture
    assert loaded(str(path), {}) is again


def test_names_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name stands for a file of the cache, which may be downloaded anew."""
    monkeypatch.setattr(catalog, "path", lambda name: path)
    monkeypatch.setattr(catalog, "is_cached", lambda name: True)
    monkeypatch.setattr(catalog, "fetch", lambda name, **more: path)
    model = loaded("smollm2-135m", {})
    assert loaded("smollm2-135m", {}) is model is loaded(str(path), {})
    os.replace(write_gguf(TINY[1], path.with_name("new.gguf")), path)
    assert loaded("smollm2-135m", {}) is not model


def test_what_is_not_there() -> None:
    with pytest.raises(ModelFileError, match="no/such/file.gguf"):
        loaded("no/such/file.gguf", {})
    with pytest.raises(FetchError, match="smollm5"):
        loaded("smollm5", {})
