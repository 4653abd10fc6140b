"""Shares of the rows, each of them once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pellucid.cli import main
from tests.batch.rows import by_id, ids_rows, write

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("task", ["generate", "score"])
def test_shards_are_the_whole(task: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, whole = write(tmp_path / "in.jsonl", ids_rows(60)), tmp_path / "whole.jsonl"
    common = ["-m", str(tiny), "--task", task, "--seed", "9"]
    assert main(["batch", str(source), str(whole), *common]) == 0
    parts = []
    for k in range(4):
        for name, number in (("ID", k + 5), ("MIN", 5), ("MAX", 8), ("COUNT", 4)):
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(number))
        shard = f"{k}/4" if k % 2 else "/4"
        assert main(["batch", str(source), str(tmp_path / "{shard}.jsonl"), *common, "--shard", shard]) == 0
        parts += (tmp_path / f"{k}.jsonl").read_bytes().splitlines()
        assert len(parts) >= k
    assert sorted(parts) == sorted(whole.read_bytes().splitlines())


@pytest.mark.parametrize("shard", ["4/4", "-1/4", "1", "/4", "a/b", "0/0"])
def test_wrong_shards(shard: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "in.jsonl", [])
    assert main(["batch", str(source), str(tmp_path / "out"), "--shard", shard]) == 2
    assert "--shard" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("array", "count", "share"),
    [
        ([0, 1, 2, 3], 4, [0, 1, 2, 3]),
        ([1, 2, 3, 4], 4, [0, 1, 2, 3]),
        ([0, 3], 4, [0, 3]),  # some of them again
        ([0, 1, 2, 3, 4], 4, [0, 1, 2, 3, None]),
        ([3, 5], 8, [None, None]),  # of 0 to 7, or of 1 to 8
        ([1, 2, 3], 4, [None] * 3),
        ([1, 3, 5, 7], 4, [None] * 4),
    ],
)
def test_shares_of_an_array(
    array: list[int],
    count: int,
    share: list[int | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A share that may be another task's is refused: it would be done twice, and one not at all."""
    source = write(tmp_path / "in.jsonl", [])
    for name, number in (("MIN", array[0]), ("MAX", array[-1]), ("COUNT", len(array))):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(number))
    for task, expected in zip(array, share, strict=True):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
        given = ["batch", str(source), str(tmp_path / f"{task} {{shard}}"), "--shard", f"/{count}", "-m", "none.gguf"]
        assert main(given) == (1 if expected is not None else 2)  # there is no such model
        told = " ".join(capsys.readouterr().err.split())
        assert ("none.gguf" if expected is not None else "expected K/") in told
        made = [path.name for path in tmp_path.glob(f"{task} *")]
        assert made == ([] if expected is None else [f"{task} {expected}"])
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")  # of Kubernetes
    assert main(["batch", str(source), str(tmp_path / "{shard}"), "--shard", "/4", "-m", "none.gguf"]) == 1
    assert (tmp_path / "2").exists()


def test_the_script_for_slurm_runs(tiny: Path, tmp_path: Path) -> None:
    """As docs/batch.md has it, as two tasks of the array that it names."""
    (script,) = re.findall(r"^```sh\n(#!/bin/bash\n.*?)^```$", (DOCS / "batch.md").read_text("utf-8"), re.M | re.S)
    (last,) = re.findall(r"^#SBATCH --array=0-(\d+)$", script, re.M)
    count = int(last) + 1
    assert f"--shard $SLURM_ARRAY_TASK_ID/{count} " in script
    rows = ids_rows(60)
    write(tmp_path / "prompts.jsonl", rows)
    (tmp_path / "model.gguf").symlink_to(tiny)
    (tmp_path / "script").write_text(script)
    program = tmp_path / "bin" / "pellucid"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pellucid "$@"\n')
    program.chmod(0o755)
    env = {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    env |= {"SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": last, "SLURM_ARRAY_TASK_COUNT": str(count)}
    done: list[set[str]] = []
    for task in (0, 1):
        run = subprocess.run(
            ["bash", "script"], cwd=tmp_path, env=env | {"SLURM_ARRAY_TASK_ID": str(task)}, capture_output=True
        )
        assert run.returncode == 0, run.stderr
        done.append(set(by_id(tmp_path / f"answers-{task}.jsonl")))
    assert done[0] and done[1] and not done[0] & done[1]
    assert done[0] | done[1] < {row["id"] for row in rows}
