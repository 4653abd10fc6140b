"""The dicts of our `Llama` have the keys of llama-cpp-python's, which is installed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from pellucid.compat.llama_cpp import Llama
from tests.adapters.llama_dicts import answers, keys

pytestmark = pytest.mark.live


def test_keys(smollm2: Path) -> None:
    settings: Any = {"n_ctx": 256, "verbose": False, "logits_all": True, "n_threads": 1}
    theirs: Any = importlib.import_module("llama_cpp").Llama
    found = []
    for kind in (Llama, theirs):
        # llama.cpp decodes either tokens or embeddings.
        made = answers(kind(str(smollm2), **settings), kind(str(smollm2), embedding=True, pooling_type=1, **settings))
        found.append({name: keys(value) for name, value in made.items()})
    assert found[0] == found[1]
