"""`pellucid quantize` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.quantize.models import write

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
    for target, message in ((there, b"--force"), (source, b"the model that is read"), (tmp_path, b"a folder")):
        done = call("quantize", str(source), str(target), "--type", "Q8_0")
        assert done.returncode == 2
        assert message in done.stderr
    assert there.read_bytes() == b"mine"
