"""What fails during a benchmark, or is taken away from it, loses nothing of what was measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.bench import kernels, scenarios
from pellucid.bench.limits import Prober
from pellucid.bench.scenarios import Phase
from pellucid.cli import main
from pellucid.errors import OutOfMemoryError
from tests.reference.tiny import TINY, write_gguf


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(TINY[0], tmp_path_factory.mktemp("bench") / "tiny.gguf")


def test_passes_without_room_are_left_out(model_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Model.load(model_path, threads=1) as model:
        token = model.info().cache_bytes_per_token
    room = ["--cache-bytes", str(256 * token)]  # for a few sequences, but not for 16
    asked = ["--phase", "100 tokens", "--repeat", "1", "--threads", "1", "--ops", "--json"]
    assert main(["bench", "-m", str(model_path), *room, *asked]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert [phase["name"] for phase in found["phases"]] == ["100 tokens", "100 tokens, no cache"]
    passes = {op["phase"] for op in found["operations"]}
    assert "decode" in passes and "16 sequences" not in passes
    assert "operations: 16 sequences is left out: " in printed.err


def test_no_memory_for_kernels_alone(
    model_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OutOfMemoryError("no memory for weights")

    monkeypatch.setattr(kernels, "Kernels", refuse)
    asked = ["--phase", "decode", "--repeat", "1", "--threads", "1", "--ops", "--json"]
    assert main(["bench", "-m", str(model_path), *asked]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["phases"] and "operations are left out: no memory for weights" in printed.err


def test_a_context_of_another_phase_makes_room(model_path: Path) -> None:
    """What decoding at a depth keeps is freed where another phase has no room beside it."""
    with Model.load(model_path, threads=1) as model:
        token = model.info().cache_bytes_per_token
    with Model.load(model_path, threads=1, cache_bytes=200 * token) as model:
        bench = scenarios.Bench(model)
        deep = Phase("deep", "", 4, None, lambda: bench.decode(128, 4))
        long = Phase("long", "", 160, None, lambda: bench.prefill(160))
        said: list[str] = []
        runs, _ = bench.measure([long, deep], Prober(bench.info.isa, 1, 8 << 20), 3, said.append)
        assert [(run.phase.name, len(run.once)) for run in runs] == [("long", 3), ("deep", 3)]
        assert not any("left out" in text for text in said)
        bench.prefill(160)  # nothing is held after the phases


def test_a_phase_that_fails_later_keeps_its_runs(model_path: Path) -> None:
    with Model.load(model_path, threads=1) as model:
        bench = scenarios.Bench(model)
        turn: Iterator[float | Exception] = iter([1.0, OutOfMemoryError("no room"), 2.0])

        def once() -> float:
            result = next(turn)
            if isinstance(result, Exception):
                raise result
            return result

        said: list[str] = []
        phase = Phase("phase", "", 1, None, once)
        (run,), _ = bench.measure([phase], Prober(bench.info.isa, 1, 8 << 20), 3, said.append)
    assert run.seconds == [1.0, 2.0] and said[2] == "phase is left out of round 2: no room"


def test_a_cold_start_imports_nothing_of_the_current_folder(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    with Model.load(model_path, threads=1) as model:
        assert scenarios.Bench(model).cold_start() > 0


def test_ctrl_c_during_a_cold_start(model_path: Path, tmp_path: Path) -> None:
    """A terminal interrupts all of its process group; the new process says nothing about it, and ends."""
    pid = tmp_path / "pid"
    cold = f"import os, time; open({str(pid)!r} + '+', 'w').write(str(os.getpid()))\n"
    cold += f"os.rename({str(pid)!r} + '+', {str(pid)!r}); time.sleep(100)"
    program = f"import sys; from pellucid.bench import scenarios; scenarios._COLD = {cold!r}\n"
    program += "from pellucid.cli import main; sys.exit(main())"
    asked = ["bench", "-m", str(model_path), "--phase", "cold", "--repeat", "1", "--threads", "1"]
    running = subprocess.Popen(
        [sys.executable, "-c", program, *asked], stderr=subprocess.PIPE, text=True, process_group=0
    )
    assert running.stderr is not None
    try:
        for line in running.stderr:
            if line == "1/1 cold start\n":
                break
        while not pid.exists():
            assert running.poll() is None
        os.killpg(running.pid, signal.SIGINT)
        said = running.communicate(timeout=60)[1]
    finally:
        running.kill()
    assert running.returncode == 130 and "Traceback" not in said
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_folder_that_is_gone_when_all_is_measured(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()

    def gone(self: scenarios.Bench) -> float:
        if folder.exists():
            folder.rmdir()
        return 0.1

    monkeypatch.setattr(scenarios.Bench, "cold_start", gone)
    asked = ["--phase", "cold", "--repeat", "1", "--threads", "1"]
    assert main(["bench", "-m", str(model_path), *asked, "--save", f"{folder}/"]) == 1
    printed = capsys.readouterr()
    assert "cold start" in printed.out and f"--save={folder}/: {folder} is not a folder" in printed.err


def test_an_empty_path_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--save", ""]) == 2  # before any model is loaded
    assert "pellucid: --save: expected a file or folder" in capsys.readouterr().err
