"""The comparison of guesses with none: a run of it, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import speculate


def test_a_run(smollm2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, plot = tmp_path / "out.json", tmp_path / "out.svg"
    sizes = ["--tokens", "12", "--repeat", "2", "--threads", "2"]
    speculate.main([str(smollm2), *sizes, "--json", str(out), "--plot", str(plot)])
    rows = json.loads(out.read_text())["rows"]
    assert [row["text"] for row in rows] == list(speculate.TEXTS)
    for row in rows:
        assert len(row["with"]) == len(row["without"]) == 2 and min(*row["with"], *row["without"]) > 0
        assert 0 < min(row["per_pass"]) and max(row["per_pass"]) < 12
    assert "<svg" in plot.read_text()
    lines = capsys.readouterr().out.splitlines()
    assert [line[:16].strip() for line in lines] == ["text", *speculate.TEXTS]


def test_other_ids_are_no_result(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speculate, "run", lambda model, text, tokens, on, *more: ([1] if on else [2], 1.0, 1.0))
    model: Any = None
    with pytest.raises(SystemExit, match="different ids"):
        speculate.measure(model, 4, 1)
