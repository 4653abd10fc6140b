"""The command and its documents, on a model of a few kilobytes."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.bench import history, report, scenarios
from pellucid.bench.limits import Limits, Prober
from pellucid.bench.scenarios import Once, Phase, Run
from pellucid.bench.work import Work
from pellucid.cli import main, output
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
    assert document["schema"] == history.SCHEMA
    assert document["machine"]["threads"] == 2 and document["model"]["path"] == str(model_path)
    assert {"read_4k", "int8", "f32", "clock"} <= set(document["limits"])
    assert all(("per_cycle" in limit) == (limit["unit"] == "Gop/s") for limit in document["limits"].values())
    for limit in document["limits"].values():
        assert limit["unit"] in ("GB/s", "Gop/s", "GHz") and 0 < limit["min"] <= limit["median"] <= limit["max"]
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
    assert [p for p, _ in groupby(o["phase"] for o in ops)] == ["decode", "4 sequences", "16 sequences", "prefill"]
    gate = {o["phase"]: o["operations"]["f32"] for o in ops if o["name"] == "ffn_gate_up"}
    assert [gate["4 sequences"], gate["16 sequences"]] == [4 * gate["decode"], 16 * gate["decode"]]
    products = {o["name"] for o in ops if o["kernel_microseconds"] is not None}
    assert products == {"attn_qkv", "attn_output", "ffn_gate_up", "ffn_down", "head"}
    assert all(o["kernel_microseconds"] > 0 for o in ops if o["name"] in products)
    decode = {o["name"]: o for o in ops if o["phase"] == "decode"}
    assert decode["attn_qkv"]["count"] == 3 and decode["head"]["count"] == 1
    assert decode["ffn_down"]["bytes"] == 3 * 64 * 96 * 4
    assert all(o["microseconds"] > 0 for o in ops if o["kind"] != "embed")
    for o in ops:  # the bandwidth of the pass's own moment
        reading = o["bytes"] / o["read_gb_per_second"] / 1e3
        assert o["limit_microseconds"] >= 0.999 * reading and (reading > 0) == (o["bytes"] > 0)
    assert len({o["read_gb_per_second"] for o in ops}) <= 4


def test_table(document: dict[str, Any]) -> None:
    text = [row for row in report.rows(document) if len(row) > 1]
    assert {len(row) for row in text} == {report.COLUMNS}
    headings = [row[0] for row in report.rows(document) if len(row) == 1 and row[0].startswith("a pass of ")]
    passes = ("decode", "4 sequences", "16 sequences", "prefill")
    assert [heading.partition(";")[0] for heading in headings] == [
        f"a pass of {p}, each operation separately" for p in passes
    ]
    assert sum(row[0] == "all products" for row in text) == 4


def test_the_table_fits_80_columns(document: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    rows = report.rows(document)
    output.table(rows, right=(1, 2, 3, 4, 5, 6), gap=1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(rows)  # no row is folded or stands on two lines
    assert max(len(line) for line, row in zip(lines, rows, strict=True) if len(row) > 1) <= 80


def test_numbers_are_short() -> None:
    known = {0.04: "0.0", 9.96: "10.0", 99.94: "99.9", 100: "100", 99_999: "99999", 99_999.9: "100k", 149_530: "150k"}
    known |= {999_499: "999k", 999_500: "1.00M", 1_644_916: "1.64M", 9_994_999: "9.99M", 12_000_000: "12M"}
    assert {x: report.number(x) for x in known} == known
    assert all(len(report.number(10 ** (i / 50))) <= 5 for i in range(450))


def test_products_beside_their_kernels() -> None:
    def op(name: str, us: float, kernel: float | None) -> dict[str, Any]:
        work = {"bytes": 1000, "operations": {"int8": 500}, "limit_microseconds": us / 4}
        return {"name": name, "count": 1, "microseconds": us, "kernel_microseconds": kernel, **work}

    found = report.op_rows([op("attn_qkv", 40.0, 30.0), op("attend", 40.0, None), op("head", 20.0, 18.0)])
    assert [(row[0], row[2], row[-1]) for row in found] == [
        ("attn_qkv", "40.0", "75 %"),
        ("attend", "40.0", ""),
        ("head", "20.0", "90 %"),
        ("all products", "60.0", "80 %"),
    ]


def made(model_path: Path, once: list[Once], operations: int = 0) -> dict[str, Any]:
    """The document of a phase that reads 1 GB and computes so many Gop, in runs that these are."""
    phase = Phase("decode at 0", "", 10, [], lambda: 0.0)
    best = Limits(60.0, 60.0, 100.0, None, 50.0, 4.0)
    run = Run(phase, Work(10**9, {"int8": operations * 10**9}), True, once, best)
    model = Model.load(model_path, threads=1)
    return report.document(scenarios.Bench(model), [run], [best, Limits(30.0, 30.0, 40.0, None, 50.0, 4.0)])


def once(seconds: float, around: float, read: float | None) -> Once:
    return Once(seconds, Limits(around, around, 40.0, None, 50.0, 4.0), read)


def test_runs_by_the_bandwidth_of_the_moment(model_path: Path) -> None:
    runs = [once(0.05, 30, 28.0), once(0.05, 30, 27.0), once(0.02, 60, 57.0), once(0.03, 60, None)]
    doc = made(model_path, runs)
    phase = doc["phases"][0]
    slow, fast = phase["by_bandwidth"]
    assert (slow["repeats"], fast["repeats"], phase["bandwidth_changed"]) == (2, 1, 1)
    assert slow["gb_per_second"] == {"median": 27.5, "min": 27.0, "max": 28.0}
    assert slow["fraction"]["min"] == pytest.approx(1 / 28 / 0.05)
    assert fast["tokens_per_second"]["median"] == 500
    table = report.rows(doc)
    at = table.index(next(row for row in table if row[0] == "by bandwidth"))
    assert table[at + 1] == ["decode at 0", "200", "71..74 %", "", "73 %", "27.5", "2", ""]
    assert table[at + 2] == ["", "500", "88..88 %", "", "88 %", "57.0", "1", ""]
    assert table[at + 3] == ["left out: 1 run in which the bandwidth changed"]


def test_computing_counts_against_the_best_peak(model_path: Path) -> None:
    """Whatever the peak was around the run: 40 then, 100 at best."""
    phase = made(model_path, [once(0.5, 60, 60.0)], operations=20)["phases"][0]
    assert phase["limit"]["bound"] == "compute" and "by_bandwidth" not in phase
    assert phase["limit"]["fraction"]["median"] == pytest.approx(20 / 100 / 0.5)


def test_a_peak_that_varies_per_cycle_is_named(model_path: Path) -> None:
    doc = made(model_path, [once(0.5, 60, 60.0)])
    assert doc["limits"]["int8"]["per_cycle"] == {"median": 17.5, "min": 10.0, "max": 25.0}
    text = [row[0] for row in report.rows(doc) if len(row) == 1]
    assert [row for row in text if "varied" in row] == [row for row in text if row.startswith("int8 products: ")] != []


def test_unknown_phase(model_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "-m", str(model_path), "--phase", "dance"]) == 2
    assert "--phase dance: this model's phases are decode at 0, " in capsys.readouterr().err


def test_limits_around_each_phase(model_path: Path) -> None:
    bench = scenarios.Bench(Model.load(model_path, threads=1))
    order: list[str] = []
    chosen = scenarios.phases(bench)[:2]
    runs, limits = bench.measure(chosen, Prober(bench.info.isa, 1, 8 << 20), 2, order.append)
    assert order == [f"{i}/2 {p.name}" for i in (1, 2) for p in chosen]  # rounds, not blocks: the machine drifts
    assert len(limits) == 1 + 4 and all(len(run.once) == 2 for run in runs)
    assert all(run.best is not None and run.best.int8 == max(m.int8 for m in limits) for run in runs)


def test_a_new_process_that_fails_is_an_error(
    model_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where memory has no room for the model twice."""
    monkeypatch.setattr(scenarios, "_COLD", "raise SystemExit(3)")
    assert main(["bench", "-m", str(model_path), "--phase", "cold", "--repeat", "1", "--threads", "1"]) == 1
    assert "cold start: a new process could not generate from" in " ".join(capsys.readouterr().err.split())


def test_a_phase_that_cannot_run_is_left_out(
    model_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scenarios, "_COLD", "raise SystemExit(3)")
    asked = ["--phase", "cold", "--phase", "decode", "--repeat", "2", "--threads", "1", "--json"]
    assert main(["bench", "-m", str(model_path), *asked]) == 0
    printed = capsys.readouterr()
    assert [phase["name"] for phase in json.loads(printed.out)["phases"]] == ["decode at 0"]
    assert printed.err.count("cold start is left out: cold start: a new process could not generate") == 1


def test_prompts_differ(model_path: Path) -> None:
    bench = scenarios.Bench(Model.load(model_path, threads=1))
    assert bench.ids(50) != bench.ids(50)
    assert scenarios.Bench(bench.model).ids(50) == scenarios.Bench(bench.model).ids(50)


def test_a_context_with_room_for_no_phase(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_gguf(TINY[0], tmp_path / "short.gguf", context=4)
    assert main(["bench", "-m", str(path)]) == 2
    assert "a context of 4 tokens is too short for every phase" in " ".join(capsys.readouterr().err.split())
