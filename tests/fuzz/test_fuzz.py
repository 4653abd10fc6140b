"""The harness finds every kind of defect, and defects that were found before are fixed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.worker import ROOT, Worker, module

RUN = ROOT / "tests" / "fuzz" / "run"
AREAS = ("gguf", "folder", "template", "options", "tokenizer_json", "http_response", "dialects")


def harness(*arguments: str | float | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, RUN, *map(str, arguments)], capture_output=True, text=True, timeout=300)


def test_every_kind_of_defect_is_found_saved_and_run_again(tmp_path: Path) -> None:
    done = harness(0, "planted", "--inputs", 40, "--limit", 1, "--patience", 3, "--shrink", 3, "--keep", tmp_path)
    assert done.returncode == 1, done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("planted"))
    _, inputs, known, _, *counts, peak = row.split()
    assert int(inputs) >= 41 and known == "1" and int(peak) > 400
    assert all(int(count) > 0 for count in counts), row
    found = {path.read_text().splitlines()[0]: path.with_suffix("").read_bytes() for path in tmp_path.glob("*.txt")}
    assert found["foreign: KeyError in planted.py:run"] == b"key"
    assert found["crash: SIGABRT"] == b"abort" and found["crash: exit code 0"] == b"exit"
    assert found["foreign: Panic in planted.py:run"] == b"panic"
    assert b"loop" in found["hang: more than 1 s of processor time"]
    assert b"unprintable" in found["foreign: Unprintable: not one printable line of 500 characters"]
    assert len(found) == 8, found.keys()
    saved = next(path for path in tmp_path.glob("planted-crash-*") if path.read_bytes() == b"abort")
    assert "thread panicked" in saved.with_name(saved.name + ".txt").read_text()
    again = harness(0, "planted", "--input", saved)
    assert again.returncode == 1 and again.stdout.startswith("crash: SIGABRT")


def test_inputs_depend_on_seed_and_number_alone() -> None:
    import random

    for area in AREAS:
        mutate = module(area).mutate
        one, other = ([mutate(random.Random(f"x {i}")) for i in range(200)] for _ in range(2))
        assert one == other and len(set(one)) > 10, area


@pytest.mark.parametrize("area", AREAS)
def test_known_inputs(area: str) -> None:
    worker = Worker(area, seconds=60, megabytes=2048)
    found = {name: worker.judge(data) for name, data in module(area).known().items()}
    worker.close()
    assert len(found) > 5
    assert {name: finding for name, finding in found.items() if finding is not None} == {}
