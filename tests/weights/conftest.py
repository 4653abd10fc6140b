"""A hub on localhost, an empty cache, and a warm-up before model files are measured."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pellucid.weights import web
from tests.weights import hostile
from tests.weights.pulls import DATA
from tests.weights.server import Hub
from tests.weights.using import use


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Imports and starts what is needed once, so that no test case pays for it."""
    path = tmp_path_factory.mktemp("warm") / "sound.gguf"
    for change in (hostile.bpe, hostile.spm):
        file = hostile.model()
        change(file)
        path.write_bytes(file.bytes())
        use(path)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub with the model owner/toy, of one GGUF file."""
    server = Hub()
    for key in [key for key in os.environ if key.lower().endswith("_proxy")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(web, "_FIRST_WAIT", 0.01)
    server.model("owner/toy", {"toy-Q4_0.gguf": DATA, "README.md": b"# toy"}, license="apache-2.0")
    yield server
    server.stop()
