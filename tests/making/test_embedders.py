"""Embedders and rerankers as GGUF files: the folder's embeddings and scores, without prompts."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from pellucid import Model
from pellucid.errors import UnsupportedModelError
from pellucid.making.convert import convert_folder
from tests.embedding.cases import BY_NAME
from tests.embedding.files import DOCUMENTS, QUERY, TEXTS, Embedding, load_golden, write_folder
from tests.families.case import write_gguf

from .test_convert import contents
from .unigram import unigram


def folder_of(case: Embedding, path: Path) -> Path:
    folder = write_folder(case, load_golden(case), path)
    if case.tokenizer == "unigram":  # that of the case has a way of cutting text that no file names
        unigram(110, split=True).save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("name", [name for name in BY_NAME if name != "qwen3_dense"])
def test_results(name: str, tmp_path: Path) -> None:
    case = BY_NAME[name]
    folder, out = folder_of(case, tmp_path / "folder"), tmp_path / "out.gguf"
    convert_folder(folder, out, "F32")
    with Model.load(folder, threads=1) as a, Model.load(out, threads=1) as b:
        if case.pooling:
            # A GGUF file of Llama and Mistral has the columns of queries and keys in another order.
            atol = 1e-5 if case.name in ("llama_embedding", "mistral_embedding") else 0
            np.testing.assert_allclose(b.embed(TEXTS), a.embed(TEXTS, instruction=""), rtol=0, atol=atol)
        else:
            assert b.rerank(QUERY, DOCUMENTS) == a.rerank(QUERY, DOCUMENTS)


def test_the_padding_token_in_a_text(tmp_path: Path) -> None:
    """It has no position of its own, as in the folder; the file says so by its kind of tokenizer."""
    convert_folder(folder_of(BY_NAME["xlm_roberta"], tmp_path / "folder"), tmp_path / "out.gguf", "F32")
    with Model.load(tmp_path / "out.gguf", threads=1) as model:
        pad = load_golden(BY_NAME["xlm_roberta"]).model.config["pad_token_id"]
        with pytest.raises(ValueError, match=rf"texts: token 2 is the padding token \({pad}\)"):
            model.embed([5, 6, pad])
        assert model.embed([5, 6]).shape == (1, 64)


@pytest.mark.parametrize("name", [name for name, case in BY_NAME.items() if case.model.gguf])
def test_files_are_those_that_converters_write(name: str, tmp_path: Path) -> None:
    case = BY_NAME[name]
    golden = load_golden(case)
    convert_folder(folder_of(case, tmp_path / "folder"), tmp_path / "out.gguf", "F32")
    arch, keys, tensors = contents(tmp_path / "out.gguf")
    want_arch, want_keys, want = contents(write_gguf(case.model, golden.model, tmp_path / "want.gguf"))
    assert arch == want_arch
    assert {key: value.shape for key, value in tensors.items()} == {key: value.shape for key, value in want.items()}
    for key in want:
        np.testing.assert_allclose(tensors[key], want[key], rtol=1e-6, err_msg=key)
    for key, value in want_keys.items():
        if key == "attention.sliding_window_pattern":  # for each layer, whether it has a window
            assert keys[key] == [i % value != 0 for i in range(len(keys[key]))]
        elif (key, value) != ("rope.scaling.type", "none"):
            assert keys[key] == (pytest.approx(value) if isinstance(value, float) else value), key


def test_prompts_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "pellucid"):
        convert_folder(folder_of(BY_NAME["nomic_bert"], tmp_path / "folder"), tmp_path / "out.gguf", "F32")
    assert "no key for prompts (query)" in caplog.text


def test_what_has_no_key(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    with pytest.raises(UnsupportedModelError, match="dense layers after pooling"):
        convert_folder(folder_of(BY_NAME["qwen3_dense"], tmp_path / "dense"), out, "F32")
    folder = folder_of(BY_NAME["qwen3_embedding"], tmp_path / "folder")
    (folder / "modules.json").unlink()
    with pytest.raises(UnsupportedModelError, match="a model without a head"):
        convert_folder(folder, out, "F32")
    assert not out.exists()
