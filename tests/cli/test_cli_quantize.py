"""`pellucid quantize` as a user runs it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.making.test_convert import bpe
from tests.quantize.models import write
from tests.reference import tiny

from .conftest import Run


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("source") / "f32.gguf", layers=1, ff=256)


def test_quantize(call: Run, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    done = call("quantize", str(source), str(out), "--type", "q4_k_s", "--threads", "1", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["type"] == "Q4_K_S"
    assert found["bytes"] == out.stat().st_size
    assert found["formats"] == {"Q4_K": 7, "F32": 3, "Q5_K": 1, "Q6_K": 1}
    again = call("quantize", str(source), str(out), "-t", "Q8_0", "--force")
    assert again.returncode == 0
    assert b"Q8_0" in again.stdout


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--type", "Q9"], 2, b"--type is 'Q9'"),
        (["--imatrix", "missing.gguf"], 1, b"missing.gguf: not found"),
        (["--threads", "0"], 2, b"--threads"),
    ],
)
def test_wrong_options(call: Run, source: Path, tmp_path: Path, options: list[str], code: int, message: bytes) -> None:
    done = call("quantize", str(source), str(tmp_path / "out.gguf"), *options)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert not [*tmp_path.iterdir()]


def test_targets_that_must_stay(call: Run, source: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.gguf"
    there.write_bytes(b"mine")
    for target, message in ((there, b"--force"), (source, b"a file that is read"), (tmp_path, b"a folder")):
        done = call("quantize", str(source), str(target), "--type", "Q8_0")
        assert done.returncode == 2
        assert message in done.stderr
    assert there.read_bytes() == b"mine"


def test_a_folder_that_takes_no_file_is_found_at_once(call: Run, source: Path, tmp_path: Path) -> None:
    """Before a model is loaded or anything is computed: the model here is none."""
    none = tmp_path / "none.gguf"
    none.write_bytes(b"no model")
    for command in (
        ["imatrix", none, source],
        ["quantize", none],
        ["convert", tmp_path],
        ["embed", "text", "-m", none, "-o"],
    ):
        done = call(*map(str, command), str(tmp_path / "missing" / "out.npy"))
        assert (done.returncode, b"there is no folder" in done.stderr) == (1, True), done.stderr


def test_what_is_read_is_not_replaced(call: Run, tmp_path: Path) -> None:
    """With --force: importances, the text, a folder's weights and its configuration."""
    folder = bpe(None, tiny.write_folder(tiny.Tiny(name="x", seed=4, vocab=700), tmp_path / "folder"))
    (text := tmp_path / "text.txt").write_text("Some words to run. " * 20)
    out = tmp_path / "im.gguf"
    assert call("imatrix", str(folder), str(text), str(out), "--chunk", "16").returncode == 0
    weights = folder / "model.safetensors"
    for command, target in (
        (["imatrix", folder, text, text], text),
        (["convert", folder, out, "--imatrix", out], out),
        (["convert", folder, weights], weights),
        (["convert", folder, folder / "config.json"], folder / "config.json"),
    ):
        before = target.read_bytes()
        done = call(*map(str, command), "--force")
        assert done.returncode != 0 and b"that is read" in done.stderr, done.stderr
        assert target.read_bytes() == before
    assert call("convert", str(folder), str(folder / "x.gguf")).returncode == 0
    assert call("convert", str(folder), str(folder / "x.gguf"), "--force").returncode == 0


def test_no_part_of_a_split_file_is_replaced(call: Run, source: Path, tmp_path: Path) -> None:
    parts = [tmp_path / f"m-0000{i}-of-00002.gguf" for i in (1, 2)]
    for part in parts:
        part.write_bytes(source.read_bytes())
    done = call("quantize", str(parts[0]), str(parts[1]), "--force")
    assert (done.returncode, b"that is read" in done.stderr) == (2, True)


def test_no_pipe_is_replaced(call: Run, source: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.npy")
    for command in (["quantize", source, tmp_path / "x.npy", "--force"], ["embed", "a", "-o", tmp_path / "x.npy"]):
        done = call(*map(str, command))
        assert (done.returncode, b"a device or a pipe" in done.stderr) == (2, True)
    assert (tmp_path / "x.npy").is_fifo()


def test_imatrix_names_its_own_options(call: Run, source: Path, tmp_path: Path) -> None:
    (text := tmp_path / "text.txt").write_text("Some words to run. " * 20)
    done = call("imatrix", str(source), str(text), str(tmp_path / "im.gguf"), "--chunk", "1000000")
    assert done.returncode == 2 and b"--chunk=1000000: the model was made for" in done.stderr
