"""The table of families in docs/models.md and of `pellucid info --archs` has every architecture and every model_type
that loads, and nothing else; each has a tiny model."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from pellucid import Model, arch
from pellucid.errors import UnsupportedModelError
from pellucid.families import REFUSED, checked
from pellucid.folder import Wrapper
from tests.embedding import cases as embedders
from tests.embedding import files as embedding
from tests.families.case import load_golden, text_config
from tests.families.cases import CASES

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = {"gemma3", "llama", "qwen3"}  # checked against transformers in tests/reference
MAKE = "the table of families is out of date: run python docs/families.py"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("families", ROOT / "docs" / "families.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_that_of_the_tests(generator: ModuleType) -> None:
    rows = generator.rows()
    assert generator.PAGE.read_text(encoding="utf-8") == generator.page(rows), MAKE
    assert generator.DATA.read_text(encoding="utf-8") == generator.data(rows), MAKE
    checked.cache_clear()
    assert [family.name for family in checked()] == [row["name"] for row in rows]


def test_architectures_and_folders() -> None:
    assert {family.architecture for family in checked()} == {*arch.names()}
    named = {kind for family in checked() for kind in (*family.model_types, *family.wrappers)}
    assert named == {*arch.folders()}
    for family in checked():
        assert family.files <= family.folders and family.folders


def test_refused(tmp_path: Path) -> None:
    """Each is refused by name, as a file and as a folder, and the page names it."""
    page = " ".join((ROOT / "docs" / "models.md").read_text(encoding="utf-8").split())
    for family, kinds in REFUSED.items():
        assert all(name in page for name in family.replace(", ", " ").split()), family
        for kind in kinds:
            assert kind not in arch.names() and kind not in arch.folders()
            (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
            save_file({"a": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
            writer = gguf.GGUFWriter(tmp_path / "model.gguf", kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            for path in (tmp_path, tmp_path / "model.gguf"):
                with pytest.raises(UnsupportedModelError, match=f"architecture '{kind}'"):
                    Model.load(path)
            (tmp_path / "model.gguf").unlink()


def test_each_has_a_tiny_model() -> None:
    goldens = [*map(load_golden, CASES), *(embedding.load_golden(case).model for case in embedders.CASES)]
    kinds = {text_config(golden.config)["model_type"] for golden in goldens}
    folders = {kind for kind, (name, table) in arch.folders().items()
               if name not in ELSEWHERE and not isinstance(table, Wrapper)}  # fmt: skip
    assert folders <= kinds, f"no case for {folders - kinds}"
