"""What a folder's configuration ends a generation with: eos_token_id of generation_config.json, else of config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pellucid.errors import TokenizerError
from pellucid.making.vocabulary import tokenizer_metadata
from pellucid.tokenizer import Tokenizer
from pellucid.weights.writer import write_gguf
from tests.making.test_convert import MAKE

KINDS = {"tokenizer.json": MAKE["gpt-2"], "tokenizer.model": MAKE["spm"]}


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Without a generation_config.json."""
    made = KINDS[request.param](tmp_path / "folder")
    (made / "generation_config.json").unlink(missing_ok=True)
    return made


def write(folder: Path, name: str, **table: Any) -> None:
    (folder / name).write_text(json.dumps(table))


def ends(folder: Path) -> set[int]:
    """Those of the folder, which are those of the GGUF file that is made of it."""
    found = Tokenizer.load(folder).eog
    write_gguf(folder / "made.gguf", tokenizer_metadata(str(folder), 700), [])
    assert Tokenizer.load(folder / "made.gguf").eog == found
    return {*found}


def test_config_json_stands_in_for_generation_config_json(folder: Path) -> None:
    """As in transformers, GenerationConfig.from_model_config."""
    known = ends(folder)
    write(folder, "config.json", eos_token_id=40)
    assert ends(folder) == known | {40}
    write(folder, "config.json", eos_token_id=[40, 45, 50, 55, 700, -1])
    assert ends(folder) == known | {40, 45, 50, 55}
    write(folder, "config.json", eos_token_id=None, text_config={"eos_token_id": [41]})
    assert ends(folder) == known | {41}
    write(folder, "config.json", eos_token_id=42, text_config={"eos_token_id": 41})
    assert ends(folder) == known | {42}
    write(folder, "generation_config.json", eos_token_id=43)
    assert ends(folder) == known | {43}
    write(folder, "generation_config.json")
    assert ends(folder) == known


@pytest.mark.parametrize("value", ["10", ["10"], 10.0, [10, None], True, {"a": 1}, [10, 999], -1, 2**70], ids=str)
def test_what_is_no_id_is_refused(folder: Path, value: Any) -> None:
    write(folder, "generation_config.json", eos_token_id=value)
    wrong = {"[10, 999]": "it has 999", "-1": "it has -1", str(2**70): "it has 1180591620717411303424"}
    with pytest.raises(TokenizerError) as error:
        Tokenizer.load(folder)
    start = f"{folder / 'generation_config.json'}: eos_token_id: {wrong.get(str(value), 'it is ')}"
    assert str(error.value).startswith(start), error.value
    with pytest.raises(TokenizerError, match="eos_token_id"):
        tokenizer_metadata(str(folder), 700)


def test_what_is_no_id_in_config_json(folder: Path) -> None:
    write(folder, "config.json", text_config={"eos_token_id": "</s>"})
    with pytest.raises(TokenizerError, match=r"config.json: text_config.eos_token_id: it is .*expected a token id"):
        Tokenizer.load(folder)
    write(folder, "config.json", text_config=[1])
    Tokenizer.load(folder)
