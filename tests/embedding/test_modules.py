"""modules.json of sentence-transformers: what it may name, and where."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model
from pellucid.errors import ModelFileError, UnsupportedModelError
from pellucid.making.convert import convert_folder
from tests.embedding.cases import BY_NAME
from tests.embedding.files import TEXTS, load_golden, write_folder

PACKAGE = "sentence_transformers.models"


def folder(path: Path, name: str = "qwen3_dense") -> tuple[Path, list[dict[str, Any]]]:
    """A folder, and its modules.json."""
    write_folder(BY_NAME[name], load_golden(BY_NAME[name]), path)
    return path, json.loads((path / "modules.json").read_text())


def write(path: Path, modules: list[dict[str, Any]]) -> None:
    (path / "modules.json").write_text(json.dumps(modules))


def check(path: Path, name: str = "qwen3_dense") -> None:
    with Model.load(path, threads=1) as model:
        cosines = np.sum(model.embed(TEXTS) * load_golden(BY_NAME[name]).results, axis=1)
    assert cosines.min() > 0.9999


def move_model(path: Path, inner: str) -> None:
    """All but the other modules' folders and what is said of the whole."""
    (path / inner).mkdir()
    for file in [one for one in path.iterdir() if one.is_file()]:
        if file.name not in ("modules.json", "config_sentence_transformers.json"):
            shutil.move(file, path / inner / file.name)


def test_a_slash_at_the_end_of_a_path(tmp_path: Path) -> None:
    path, modules = folder(tmp_path)
    write(path, [{**module, "path": module["path"] and module["path"] + "/"} for module in modules])
    check(path)
    for wrong in ("/", "1_Pooling//", "../1_Pooling/", "./", "a/b"):
        write(path, [modules[0], {**modules[1], "path": wrong}])
        with pytest.raises(ModelFileError, match=r"\[1\]: .* a module with its type and path"):
            Model.load(path, threads=1)


@pytest.mark.parametrize("place", [2, 3, 4, 5])
def test_dropout(tmp_path: Path, place: int) -> None:
    """It is of training alone; before pooling, there is no embedding that it could take."""
    path, modules = folder(tmp_path)
    dropout = {"idx": place, "name": "d", "path": f"{place}_Dropout", "type": f"{PACKAGE}.Dropout"}
    write(path, [*modules[:place], dropout, *modules[place:]])
    check(path)
    write(path, [modules[0], dropout, *modules[1:]])
    with pytest.raises(UnsupportedModelError, match="Dropout"):
        Model.load(path, threads=1)


@pytest.mark.parametrize("inner", ["0_Transformer", "0_Transformer/"])
def test_a_transformer_in_a_folder_of_its_own(tmp_path: Path, inner: str) -> None:
    path, modules = folder(tmp_path / "m", "bert")
    move_model(path, inner)
    write(path, [{**modules[0], "path": inner}, *modules[1:]])
    own = path / "config_sentence_transformers.json"
    own.write_text(json.dumps({**json.loads(own.read_text()), "truncate_dim": 16}))
    with Model.load(path, threads=1) as model:
        found = model.embed(TEXTS)
    expected = load_golden(BY_NAME["bert"]).results[:, :16]
    assert found.shape == expected.shape
    assert np.sum(found * expected / np.linalg.norm(expected, axis=1, keepdims=True), axis=1).min() > 0.9999
    convert_folder(path, tmp_path / "m.gguf", "F32")
    with Model.load(tmp_path / "m.gguf", threads=1) as model:
        np.testing.assert_array_equal(model.embed(TEXTS, dimensions=16), found)
    (path / inner / "sentence_bert_config.json").write_text(json.dumps({"other": 1}))
    with pytest.raises(UnsupportedModelError, match="other = 1 .*0_Transformer"):
        Model.load(path, threads=1)
    shutil.rmtree(path / inner)
    with pytest.raises(ModelFileError, match="0_Transformer.*no model"):
        Model.load(path, threads=1)


def test_a_folder_below_one_of_another_model(tmp_path: Path) -> None:
    """Its modules.json says nothing of this one."""
    path, modules = folder(tmp_path / "m", "bert")
    (path / "modules.json").unlink()
    others: list[Any] = [modules, [{**modules[0], "path": "0_Transformer"}, *modules[1:]], [], {}]
    for above in others:
        (tmp_path / "modules.json").write_text(json.dumps(above))
        with Model.load(path, threads=1) as model, pytest.raises(ValueError, match="pooling: the model's files"):
            model.embed("a")


def test_another_first_module(tmp_path: Path) -> None:
    kind = "sentence_transformers.sentence_transformer.modules.static_embedding.StaticEmbedding"
    for place in ("", "0_StaticEmbedding"):
        write(tmp_path, [{"idx": 0, "name": "0", "path": place, "type": kind}])
        with pytest.raises(UnsupportedModelError) as caught:
            Model.load(tmp_path)
        assert f"the first module = {kind} ({tmp_path / 'modules.json'})" in str(caught.value)


def test_dense_layers_that_are_not_in_safetensors(tmp_path: Path) -> None:
    path, _ = folder(tmp_path)
    shutil.move(path / "2_Dense" / "model.safetensors", path / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(ModelFileError) as caught:
        Model.load(path, threads=1)
    assert str(caught.value) == (
        f"{path / '2_Dense'}: the weights of this dense layer are in pytorch_model.bin; expected model.safetensors"
    )
