"""Tokenizers with more tokens than the model's embedding has rows, and tokenizer.json of early versions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.errors import TokenizerError
from pellucid.making.convert import convert_folder
from pellucid.making.vocabulary import tokenizer_metadata
from pellucid.tokenizer import Tokenizer as Own
from tests.reference import tiny

from .test_convert import MAKE, TINY
from .test_vocabulary import MADE, both

TEXT = "an <image> and </s>"


def add(folder: Path, piece: bool = False) -> int:
    """Adds a token to a folder's tokenizer -> its id. piece: the model has it, too."""
    rows = Own.load(folder).vocab_size
    token = {"content": "<image>", "special": True, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False}  # fmt: skip
    json_, config = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if json_.exists():
        table = json.loads(json_.read_text())
        table["added_tokens"].append({"id": rows, **token})
        if piece:
            table["model"]["vocab"]["<image>"] = rows
        json_.write_text(json.dumps(table))
    else:
        config.write_text(json.dumps({**json.loads(config.read_text()), "added_tokens_decoder": {str(rows): token}}))
    assert Own.load(folder).vocab_size == rows + 1
    assert rows in Own.load(folder).encode(TEXT, parse_special=True)
    return rows


@pytest.mark.parametrize(("name", "piece"), [*((name, False) for name in MAKE), ("merged", True)])
def test_a_token_beyond_the_embedding(name: str, piece: bool, tmp_path: Path) -> None:
    """Folders of Gemma 3's text models have one of images: the model runs, and what spells it stays text."""
    folder = MAKE[name](tmp_path / "folder")
    plain = Own.load(folder)
    rows = add(folder, piece)
    tiny.write_folder(replace(TINY["llama_gqa"], vocab=rows), folder)
    convert_folder(folder, tmp_path / "out.gguf", "F32")
    for path in (folder, tmp_path / "out.gguf"):
        with Model.load(path, threads=1) as model:
            assert model.tokenizer is not None and model.tokenizer.vocab_size == rows
            for parse in (False, True):
                assert model.tokenize(TEXT, parse_special=parse) == plain.encode(TEXT, parse_special=parse)


def test_what_needs_such_a_token(tmp_path: Path) -> None:
    folder = MAKE["merged"](tmp_path / "folder")
    rows = add(folder)
    tiny.write_folder(replace(TINY["llama_gqa"], vocab=rows), folder)
    config, ends = folder / "tokenizer_config.json", folder / "generation_config.json"
    config.write_text(json.dumps({"eos_token": "<image>"}))
    with Model.load(folder, threads=1) as model, pytest.raises(TokenizerError, match="eos_token: '<image>'"):
        model.tokenize("a")
    config.write_text("{}")
    ends.write_text(json.dumps({"eos_token_id": [1, rows]}))
    with (
        Model.load(folder, threads=1) as model,
        pytest.raises(TokenizerError, match=f"generation_config.json: eos_token_id: it has {rows}; expected ids of"),
    ):
        model.tokenize("a")


@pytest.mark.parametrize("name", MAKE)
def test_pieces_beyond_the_embedding(name: str, tmp_path: Path) -> None:
    """Pieces that text may become, and not added tokens alone."""
    folder = MAKE[name](tmp_path / "folder")
    tiny.write_folder(replace(TINY["llama_gqa"], vocab=400), folder)
    with Model.load(folder, threads=1) as model, pytest.raises(TokenizerError, match="the model's embedding 400"):
        model.tokenize("a")


EARLY: dict[str, Callable[[], Any]] = {name: MADE[name] for name in ("uncased", "unigram")}


@pytest.mark.parametrize("name", EARLY)
def test_a_description_that_does_not_name_its_model(name: str, tmp_path: Path) -> None:
    """As the package wrote it until version 0.9."""
    made = EARLY[name]()
    own, _, metadata = both(made, tmp_path / "named")
    path = tmp_path / "named" / "tokenizer.json"
    table = json.loads(path.read_text())
    del table["model"]["type"]
    folder = tmp_path / "early"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(table))
    assert Own.load(folder).encode(TEXT) == own.encode(TEXT)
    found = tokenizer_metadata(str(folder), 700)
    assert {key: str(value) for key, value in found.items()} == {key: str(value) for key, value in metadata.items()}
