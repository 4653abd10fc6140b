"""The command and its documents, on a model of a few kilobytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.bench import report, scenarios
from pellucid.bench.limits import Prober
from pellucid.cli import main
from tests.reference.tiny import TINY, write_gguf

SPREAD = {"median", "min", "max"}


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(TINY[0], tmp_path_factory.mktemp("bench") / "tiny.gguf")


@pytest.fixture(scope="module")
def document(model_path: Path) -> dict[str, Any]:
    """The document that the command prints."""
    command = [sys.executable, "-m", "pellucid", "bench", "-m", str(model_path), "--repeat", "2", "--threads", "2"]
    done = subprocess.run([*command, "--ops", "--json"], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert b"2/2 cold start" in done.stderr  # progress
    return json.loads(done.stdout)


def test_schema(document: dict[str, Any], model_path: Path) -> None:
    assert document["schema"] == report.SCHEMA
    assert document["machine"]["threads"] == 2 and document["model"]["path"] == str(model_path)
    assert {"read_4k", "int8", "f32"} <= set(document["limits"])
    for limit in document["limits"].values():
        assert limit["unit"] in ("GB/s", "Gop/s") and 0 < limit["min"] <= limit["median"] <= limit["max"]
    # A context of 256 tokens has room for these alone.
    names = [p["name"] for p in document["phases"]]
    assert names == ["decode at 0", "4 sequences", "16 sequences", "100 tokens", "100 tokens, no cache", "cold start"]
    for phase in document["phases"]:
        assert phase["repeats"] == 2
        for key in ("seconds", "tokens_per_second"):
            assert set(phase[key]) == SPREAD and 0 < phase[key]["min"] <= phase[key]["median"] <= phase[key]["max"]
        if phase["name"] == "cold start":
            assert phase["limit"] is None and phase["seconds"]["min"] < 60
            continue
        limit = phase["limit"]
        assert limit["bytes"] > 0 and limit["bound"] in ("memory", "compute")
        assert 0 < limit["fraction"]["median"] < 1  # nothing this small comes near
        # A rate's extremes belong to those of the time.
        assert phase["gb_per_second"]["max"] == pytest.approx(limit["bytes"] / phase["seconds"]["min"] / 1e9)
        assert phase["tokens_per_second"]["min"] == pytest.approx(phase["tokens"] / phase["seconds"]["max"])


def test_operations(document: dict[str, Any]) -> None:
    ops = document["operations"]
    assert {o["phase"] for o in ops} == {"decode", "prefill"}
    decode = {o["name"]: o for o in ops if o["phase"] == "decode"}
    assert decode["attn_qkv"]["count"] == 3 and decode["head"]["count"] == 1
    assert decode["ffn_down"]["bytes"] == 3 * 64 * 96 * 4
    assert all(o["microseconds"] > 0 for o in ops if o["kind"] != "embed")


def test_table(document: dict[str, Any]) -> None:
    text = [row for row in report.rows(document) if len(row) > 1]
    assert {len(row) for row in text} == {8}
    assert [row[0] for row in text if row[0].startswith("decode")] == ["decode at 0"]


def test_compare(document: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "earlier.json"
    path.write_text(json.dumps(document))
    faster = json.loads(path.read_text())
    for p in faster["phases"]:
        p["tokens_per_second"]["median"] *= 2
    faster["phases"].append({**faster["phases"][0], "name": "new"})
    found = report.compare(faster, report.read(path))
    assert "new" not in found["phases"]
    assert set(found["phases"].values()) == {2.0} and set(found["limits"].values()) == {1.0}
    rows = report.rows(faster, report.read(path))
    assert next(row for row in rows if row[0] == "decode at 0")[-1] == "2.000"
    assert next(row for row in rows if row[0] == "new")[-1] == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "not a JSON document"),
        ("[]", 'expected "schema": 1'),
        ('{"schema": 2, "phases": []}', 'expected "schema": 1'),
        ('{"schema": 1}', "phases"),
        ('{"schema": 1, "phases": [7]}', "phases"),
        ('{"schema": 1, "phases": [{"name": "a", "tokens_per_second": {"median": 0}}]}', "tokens_per_second.median"),
        ('{"schema": 1, "phases": [], "limits": {"int8": 5}}', "limits"),
    ],
)
def test_wrong_earlier_documents(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "earlier.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        report.read(path)
    assert main(["bench", "--compare", str(path)]) == 2  # before any model is loaded
    assert "--compare" in capsys.readouterr().err


def test_unknown_phase(model_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "-m", str(model_path), "--phase", "dance"]) == 2
    assert "--phase dance: this model's phases are decode at 0, " in capsys.readouterr().err


def test_missing_earlier_document(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["bench", "--compare", str(tmp_path / "none.json")]) == 1
    assert "none.json" in capsys.readouterr().err


def test_limits_around_each_phase(model_path: Path) -> None:
    bench = scenarios.Bench(Model.load(model_path, threads=1))
    order: list[str] = []
    chosen = scenarios.phases(bench)[:2]
    runs, limits = bench.measure(chosen, Prober(bench.info.isa, 1, 8 << 20), 2, order.append)
    assert order == [f"{i}/2 {p.name}" for i in (1, 2) for p in chosen]  # rounds, not blocks: the machine drifts
    assert len(limits) == 1 + 4 and all(len(run.seconds) == len(run.limit_seconds) == 2 for run in runs)


def test_prompts_differ(model_path: Path) -> None:
    bench = scenarios.Bench(Model.load(model_path, threads=1))
    assert bench.ids(50) != bench.ids(50)
    assert scenarios.Bench(bench.model).ids(50) == scenarios.Bench(bench.model).ids(50)
