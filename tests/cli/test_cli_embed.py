"""`pellucid embed` gives the library's embeddings, as JSON lines, a document or a NumPy file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pellucid import Model
from tests.cli.conftest import Run
from tests.making.test_convert import bpe
from tests.reference import tiny


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Iterator[Model]:
    with Model.load(smollm2) as loaded:
        yield loaded


def test_embed(run: Run, model: Model, tmp_path: Path) -> None:
    texts = ["An owl.", "A bird at night."]
    expected = model.embed(texts, pooling="mean")
    file = tmp_path / "texts.txt"
    file.write_text("An owl.\n\nA bird at night.\n")
    done = run("embed", "--file", str(file), "--lines", "--pooling", "mean")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["text"] for line in lines] == texts
    assert (np.array([line["embedding"] for line in lines], np.float32) == expected).all()
    whole = json.loads(run("embed", texts[0], "--pooling", "mean", "--json").stdout)
    assert whole["width"] == expected.shape[1] and [one["text"] for one in whole["embeddings"]] == texts[:1]
    out = tmp_path / "found.npy"
    done = run("embed", "--file", str(file), "--lines", "--pooling", "mean", "--dimensions", "9", "-o", str(out))
    assert done.stdout == b"" and b"2 embeddings of 9 columns" in done.stderr
    assert (np.load(out) == model.embed(texts, pooling="mean", dimensions=9)).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found.npy", "texts.txt"]
    raw = run("embed", texts[0], "--pooling", "last", "--no-normalize", "--instruction", "x: ")
    found = model.embed(texts[:1], pooling="last", normalize=False, instruction="x: ")
    assert (np.array(json.loads(raw.stdout)["embedding"], np.float32) == found[0]).all()


def test_what_is_read_is_not_written(run: Run, tmp_path: Path) -> None:
    texts = tmp_path / "texts.npy"
    texts.write_text("An owl.\n")
    done = run("embed", "--file", str(texts), "--pooling", "mean", "-o", str(texts))
    assert done.returncode == 2 and b"this is a file that is read" in done.stderr
    assert texts.read_text() == "An owl.\n"


def test_embed_quantised(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "y.npy"
    folder = bpe(None, tiny.write_folder(tiny.Tiny(name="x", seed=4, vocab=700), tmp_path / "folder"))
    given = "--pooling", "mean", "-m", str(folder), "-o", str(out)
    assert run("embed", "An owl.", *given, "--quantize", "q4_0").returncode == 0
    with Model.load(folder, quantize="q4_0") as model:
        assert (np.load(out) == model.embed(["An owl."], pooling="mean")).all()


def test_embed_into_the_folder_of_the_model(run: Run, tmp_path: Path) -> None:
    """A file of an earlier run there is no part of the model."""
    folder = bpe(None, tiny.write_folder(tiny.Tiny(name="x", seed=4, vocab=700), tmp_path / "folder"))
    given = "embed", "An owl.", "--pooling", "mean", "-m", str(folder), "--dimensions", "1", "-o"
    for _ in range(2):
        done = run(*given, str(folder / "y.npy"))
        assert done.returncode == 0 and b"1 embedding of 1 column:" in done.stderr, done.stderr


def test_lines_of_another_system(run: Run, tmp_path: Path) -> None:
    """A line ends before CR LF: the CR is no part of the text."""
    for command in (("embed", "--pooling", "mean"), ("score",)):
        found = []
        for end in (b"\n", b"\r\n"):
            file = tmp_path / "texts.txt"
            file.write_bytes(end.join([b"An owl.", b"", b"A bird at night.", b""]))
            found.append(json.loads(run(*command, "--file", str(file), "--lines", "--json").stdout))
        assert found[0] == found[1] and len(found[0].get("embeddings") or found[0]["texts"]) == 2, command


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("a",), 2, "--pooling"),
        (("a", "--pooling", "max"), 2, "--pooling"),
        (("a", "--pooling", "last", "--dimensions", "9999999"), 2, "--dimensions"),
        (("a", "--pooling", "last", "-o", "x.txt"), 2, ".npy"),
        (("a", "--pooling", "last", "-o", "x.npy", "--json"), 2, "--json"),
        (("", "--pooling", "last"), 1, "contains no text"),
        (("a", "--pooling", "last", "-o", "/no/such/folder/x.npy"), 1, "/no/such/folder"),
    ],
)
def test_mistakes(call: Run, arguments: tuple[str, ...], code: int, words: str) -> None:
    done = call("embed", *arguments)
    assert done.returncode == code and words in done.stderr.decode(), done.stderr
