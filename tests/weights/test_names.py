"""Models by name: what loads them knows the catalogue, and suggests names where one is unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pellucid import Model, Tokenizer
from pellucid.errors import FetchError, ModelFileError, TokenizerError


@pytest.mark.parametrize("load", [Model.load, Tokenizer.load])
@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("smollm2", "smollm2-135m"),
        ("smol", "smollm2-135m"),
        ("SmolLM2-135M", "smollm2-135m"),
        ("smollm2-1.7B", "smollm2-135m"),
        ("gemma", "gemma3-270m"),
        ("gemma-3-270m", "gemma3-270m"),
        ("llama3.2", None),
        ("x" * 1000, None),
    ],
)
def test_unknown_names(load: Any, name: str, near: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FetchError, match="neither a file nor the name of a model") as caught:
        load(name)
    said = str(caught.value)
    assert "atalogue has smollm2-135m, gemma3-270m" in said and caught.value.name == name
    assert (f": did you mean {near!r}?" in said) if near else ("did you mean" not in said)


def test_paths_are_no_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("absent.gguf", "./smollm2", "a/b/c", Path("smollm2"), Path("smollm2-135m")):
        with pytest.raises(ModelFileError, match="not found"):
            Model.load(path)
        with pytest.raises(TokenizerError, match="No such file"):
            Tokenizer.load(path)
    (tmp_path / "smollm2").write_text("{}")
    with pytest.raises(ModelFileError, match="no model: the file starts with"):
        Model.load("smollm2")


def test_a_tokenizer_by_name(smollm2: Path) -> None:
    by_name, by_path = Tokenizer.load("smollm2-135m"), Tokenizer.load(smollm2)
    assert by_name.encode("A text.") == by_path.encode("A text.")
    for bad, error, words in (
        (5, TypeError, "path must be a path or a catalogue name"),
        ("", ValueError, "path is empty"),
    ):
        with pytest.raises(error, match=words):
            Tokenizer.load(bad)  # type: ignore[arg-type]
