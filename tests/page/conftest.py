"""Models and pages of the tests, made once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt
import pytest

from pellucid import Model
from pellucid.page import blocks
from tests.look.conftest import load

__all__ = ["Parsed", "load", "parse"]


class Parsed(NamedTuple):
    """What a page holds."""

    text: str
    meta: dict[str, Any]

    def block(self, name: str) -> npt.NDArray[Any]:
        found = re.search(rf'<script type="text/plain" id="block-{name}">([^<]*)</script>', self.text)
        assert found, name
        return blocks.decode(self.meta["blocks"][name], found[1])

    def pieces(self) -> dict[str, Any]:
        ids = map(str, self.block("piece-ids").tolist())
        return dict(zip(ids, json.loads(self.block("pieces").tobytes()), strict=True))


def parse(text: str) -> Parsed:
    found = re.search(r'<script type="application/json" id="meta">(.*?)</script>', text, re.S)
    assert found
    return Parsed(text, json.loads(found[1]))


@pytest.fixture(scope="session")
def smol(smollm2: Path) -> Iterator[Model]:
    with Model.load(smollm2, threads=2) as model:
        yield model
