"""Tokens that a model's files forbid: of a folder, of a GGUF file, and of one that was converted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model
from pellucid.errors import ModelFileError
from pellucid.making.convert import convert_folder
from pellucid.weights.writer import Value, write_gguf
from tests.reference import tiny

TINY = tiny.TINY[0]
PROMPT = [5, 7, 11, 13]


def folder_with(path: Path, value: Any) -> Path:
    tiny.write_folder(TINY, path)
    (path / "generation_config.json").write_text(json.dumps({"suppress_tokens": value}))
    return path


def likeliest(model: Model, n: int) -> list[int]:
    order = np.argsort(-model.logits(PROMPT)[-1], kind="stable")
    return [int(i) for i in order[:n]]


def first(model: Model, **options: Any) -> int:
    return model.generate(PROMPT, max_tokens=1, ignore_eos=True, **{"temperature": 0, **options}).ids[0]


def test_the_configuration_where_nothing_else_says(tmp_path: Path) -> None:
    folder = tiny.write_folder(TINY, tmp_path / "folder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "suppress_tokens": [3, 2]}))
    for expected in (2, 3), ():
        with Model.load(folder, threads=1) as model:
            assert model.info().suppressed == expected
        (folder / "generation_config.json").write_text("{}")
    (folder / "generation_config.json").unlink()
    (folder / "config.json").write_text(json.dumps({**config, "suppress_tokens": 3}))
    with pytest.raises(ModelFileError) as caught:
        Model.load(folder, threads=1)
    assert (caught.value.field, caught.value.file) == ("suppress_tokens", str(folder / "config.json"))


def test_folder_and_file(tmp_path: Path) -> None:
    with Model.load(tiny.write_folder(TINY, tmp_path / "plain"), threads=1) as model:
        best = likeliest(model, 4)
        assert first(model) == best[0] and model.info().suppressed == ()
    folder = folder_with(tmp_path / "folder", [best[0], best[2], best[0]])
    convert_folder(folder, tmp_path / "out.gguf", "F32")
    for path in (folder, tmp_path / "out.gguf"):
        with Model.load(path, threads=1) as model:
            assert model.info().suppressed == tuple(sorted((best[0], best[2])))
            assert first(model) == best[1]
            assert first(model, logit_bias={best[1]: -100.0}) == best[3]
            assert first(model, logit_bias={best[0]: 0.0}) == best[0]  # named, and so allowed
            assert first(model, temperature=5.0, seed=3) not in (best[0], best[2])
            context = model.context()
            assert context.generate(PROMPT, max_tokens=1, temperature=0, ignore_eos=True).ids[0] == best[1]
            assert np.isfinite(model.logits(PROMPT)).all()  # logits are the model's own
            others = {i: float("-inf") for i in range(TINY.vocab) if i not in (best[0], best[2])}
            with pytest.raises(ValueError, match="forbids every token"):
                first(model, logit_bias=others)


@pytest.mark.parametrize("value", ["none", {"a": 1}, [1.5], [True], [-1], [10**6], [10**30], ["1"]])
def test_wrong_values(tmp_path: Path, value: Any) -> None:
    folder = folder_with(tmp_path / "folder", value)
    with pytest.raises(ModelFileError, match="suppress_tokens"):
        Model.load(folder, threads=1)


def test_all_of_them(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "folder", list(range(TINY.vocab)))
    with pytest.raises(ModelFileError, match="forbids every token"):
        Model.load(folder, threads=1)


def test_a_wrong_key_of_a_file(tmp_path: Path) -> None:
    from pellucid.weights import open_model
    from pellucid.weights.suppressed import suppressed

    for kind, value in (("array of float32", [1.0]), ("array of string", ["1"]), ("uint32", 1)):
        made = {"general.architecture": Value("string", "llama"), "tokenizer.ggml.suppress_tokens": Value(kind, value)}
        write_gguf(tmp_path / "wrong.gguf", made, [])
        with open_model(tmp_path / "wrong.gguf") as file:
            with pytest.raises(ModelFileError, match="suppress_tokens"):
                suppressed(file, 100)


@pytest.mark.parametrize("value", [None, []])
def test_none(tmp_path: Path, value: Any) -> None:
    with Model.load(folder_with(tmp_path / "folder", value), threads=1) as model:
        assert model.info().suppressed == ()
