"""The comparison of bound answers with free ones: a run of it, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import structured


def test_a_run(smollm2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    sizes = ["--callers", "1", "3", "--tokens", "6", "--repeat", "2", "--threads", "2"]
    structured.main([str(smollm2), *sizes, "--json", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [(row["callers"], row["structure"]) for row in rows] == [
        (n, kind) for n in (1, 3) for kind in structured.KINDS
    ]
    for row in rows:
        assert len(row["free"]) == len(row["bound"]) == 2 and min(*row["free"], *row["bound"]) > 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:12].strip() for line in lines] == ["structure", *structured.KINDS, *structured.KINDS]


def test_answers_that_end_are_no_result(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structured, "KINDS", {"short": {"regex": "[a-z]{3}"}})
    with pytest.raises(SystemExit, match="an answer ended before"):
        structured.main([str(smollm2), "--callers", "1", "--tokens", "6", "--threads", "1"])
