"""Models of a few kilobytes."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a few kilobytes, without a tokenizer."""
    from tests.reference.tiny import TINY, write_gguf

    return write_gguf(TINY[0], tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.embedding.cases import BY_NAME
    from tests.embedding.files import load_golden, write_folder

    return write_folder(BY_NAME["bert"], load_golden(BY_NAME["bert"]), tmp_path_factory.mktemp("encoder") / "bert")
