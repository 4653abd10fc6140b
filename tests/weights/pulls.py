"""Pulls from the hub of `server.py`, and the files that they leave in the cache."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pellucid.errors import FetchError
from pellucid.weights import catalog, hub

DATA = b"GGUF" + random.Random(5).randbytes(300_000)
REF = "owner/toy:toy-Q4_0.gguf"
FILE = f"/owner/toy/resolve/{'0123456789abcdef' * 2}01234567/toy-Q4_0.gguf"


def pull(reference: str = REF, **options: str) -> Path:
    return hub.fetch(hub.ask(reference, insecure=True, **options))  # type: ignore[arg-type]


def kept() -> list[str]:
    """Files in the cache, except locks and records."""
    top = catalog.cache_folder()
    aside = (".lock", ".verified")
    return sorted(p.relative_to(top).as_posix() for p in top.rglob("*") if p.is_file() and p.suffix not in aside)


def fails(*words: str, reference: str = REF, whole: bool = True, **options: str) -> str:
    with pytest.raises(FetchError) as caught:
        pull(reference, **options)
    text = str(caught.value)
    assert "\n" not in text and hub.find(reference) is None
    for word in words:
        assert word in text, text
    assert all(".parts/" in name for name in kept()) and (not whole or kept() == [])
    return text
