"""Fixtures of the tests that use whole model files."""

from __future__ import annotations

import pytest

from tests.weights import hostile
from tests.weights.using import use


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is imported and started once is no case's."""
    path = tmp_path_factory.mktemp("warm") / "sound.gguf"
    for change in (hostile.bpe, hostile.spm):
        file = hostile.model()
        change(file)
        path.write_bytes(file.bytes())
        use(path)
