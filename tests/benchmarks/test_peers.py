"""The comparison with other runtimes, with Pellucid as the only one: workers, turns, tables."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import peers
from tests.reference import corpus
from tests.reference.tiny import TINY, write_gguf

PYTHON = sys.executable


def test_pellucid_alone(smollm2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    arguments = [str(smollm2), "--repeat", "2", "--phase", "decode at 0", "--phase", "cold", "--threads", "2"]
    peers.main([*arguments, "--peer", f"openvino={PYTHON}", "--json", str(out), "--markdown"])
    doc = json.loads(out.read_text())
    decode, cold = doc["phases"]
    assert (decode["phase"], decode["tokens"], cold["phase"]) == ("decode at 0", 64, "cold start")
    for phase in (decode, cold):
        assert len(phase["seconds"]["pellucid"]) == 2 and min(phase["seconds"]["pellucid"]) > 0
    assert len(decode["limit"]) == 2 and 0 < min(decode["limit"]) and cold["limit"] == []
    assert doc["file_bytes"] == smollm2.stat().st_size and doc["threads"] == 2
    assert 98 < doc["memory_mb"]["pellucid"] < 2000
    assert 0 < doc["kl"]["pellucid"]["mean"] < 0.0028
    assert doc["kl"]["pellucid"]["positions"] == corpus.WINDOW
    # No such runtime in this environment: left out, and said so.
    assert "exit code" in doc["errors"]["openvino"]["load"] and "openvino" not in doc["runtimes"]
    table = capsys.readouterr().out
    assert "| decode at 0 |" in table and "| cold start (s) |" in table and "OpenVINO GenAI, load:" in table


def test_a_worker_tells_errors() -> None:
    with peers.worker("pellucid", PYTHON) as w:
        with pytest.raises(RuntimeError, match="ModelFileError.*nowhere.gguf"):
            w.ask("load", path="nowhere.gguf", threads=1, context=64)
        with pytest.raises(RuntimeError, match="AttributeError"):  # nothing is loaded; the worker lives on
            w.ask("prefill", ids=[1])
    assert w.process.returncode is not None


def test_a_model_that_pellucid_cannot_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_gguf(TINY[0], tmp_path / "tiny.gguf")  # whose context is shorter than the phases need
    with pytest.raises(SystemExit, match=r"tiny.gguf: Pellucid cannot load it"):
        peers.main([str(path), "--repeat", "1"])
    assert f"context={peers.CONTEXT}: the model was made for at most 256 tokens" in capsys.readouterr().err


def test_replaced() -> None:
    once = peers.replaced("# Text\n", "a.gguf", "first")
    assert once == "# Text\n\n<!-- measured: a.gguf -->\nfirst\n<!-- end -->\n"
    both = peers.replaced(once, "b.gguf", "other")
    again = peers.replaced(both, "a.gguf", "second")
    assert again == both.replace("first", "second") and again.count("measured") == 2
    with pytest.raises(ValueError, match="without"):
        peers.replaced("<!-- measured: a.gguf -->\n", "a.gguf", "x")


@pytest.mark.parametrize(
    "wrong",
    [["--peer", "llama_cpp"], ["--peer", f"dance={PYTHON}"], ["--peer", f"pellucid={PYTHON}"], ["--repeat", "0"]],
)
def test_wrong_arguments(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        peers.parse(["smollm2-135m", *wrong])
    assert ended.value.code == 2
    assert wrong[0] in capsys.readouterr().err
