"""`pellucid convert` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.making.test_convert import bpe
from tests.reference import tiny

from .conftest import Run


def folder_at(path: Path) -> Path:
    folder = tiny.write_folder(tiny.Tiny(name="x", seed=3, vocab=700), path)
    return bpe(None, folder)


def test_convert(call: Run, tmp_path: Path) -> None:
    folder, out = folder_at(tmp_path / "folder"), tmp_path / "out.gguf"
    (folder / "consolidated.safetensors").symlink_to(tmp_path / "gone")  # no part of the model
    done = call("convert", str(folder), str(out), "--type", "q8_0", "--threads", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["formats"] == {"Q8_0": 22, "F32": 7}
    shown = call("tokenize", "-m", str(out), "Hello")
    assert shown.returncode == 0, shown.stderr


def test_wrong_sources(call: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    done = call("convert", str(tmp_path / "x.gguf"), str(out))
    assert (done.returncode, b"not a folder" in done.stderr) == (2, True)
    done = call("quantize", str(folder_at(tmp_path / "folder")), str(out))
    assert (done.returncode, b"pellucid convert" in done.stderr) == (2, True)
    config = tmp_path / "folder" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "new_key": 7}))
    done = call("convert", str(tmp_path / "folder"), str(out))
    assert (done.returncode, b"config.new_key = 7" in done.stderr) == (1, True)
    assert not out.exists()
