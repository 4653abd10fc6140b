"""The data that the plots are drawn from."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import plots


def test_measure(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "DEPTHS", (0, 64))
    monkeypatch.setattr(plots, "SEQUENCES", (1, 2))
    monkeypatch.setattr(plots, "STEPS", 4)
    found = plots.measure(smollm2, 2, {"pellucid": sys.executable}, 1)["plots"]
    assert found["depth"]["x"] == [0, 64] and found["sequences"]["x"] == [1, 2]
    for plot in found.values():
        assert len(plot["limit"]) == 2 and min(plot["limit"]) > 0
        assert len(plot["runtimes"]["pellucid"]) == 2 and min(plot["runtimes"]["pellucid"]) > 0


@pytest.mark.parametrize("wrong", [[], ["model", "--from", "speed.json"], ["model", "--serve", "serve.json"]])
def test_wrong_arguments(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        plots.main(wrong)
    assert ended.value.code == 2
    assert "either a model or --from" in capsys.readouterr().err
