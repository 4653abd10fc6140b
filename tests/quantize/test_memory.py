"""Quantising and converting take memory for the largest tensor, not for the model."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.reference import tiny

# Matrices of 1 to 4 MB in F32, 150 MB in all.
LARGE = tiny.Tiny("large", 4, hidden=512, ff=2048, layers=9, heads=8, kv_heads=8, head_dim=64)
SMALL = replace(LARGE, name="small", hidden=64, ff=96, layers=1, heads=4, kv_heads=4, head_dim=16)
LARGEST = 4 * LARGE.hidden * LARGE.ff

PROGRAM = """
import sys, threading
from pellucid.cli import main

command, small, large, out, mixture = sys.argv[1:]
options = ["--type", mixture, "--threads", "2", "--force"]
assert main([command, small, out, *options]) == 0  # whatever the command imports is there

def anonymous():
    with open("/proc/self/status") as status:
        return int(status.read().partition("RssAnon:")[2].split()[0])

ended, seen = threading.Event(), [anonymous()]

def watch():
    while not ended.wait(0.001):
        seen.append(anonymous())

watching = threading.Thread(target=watch)
watching.start()
try:
    assert main([command, large, out, *options]) == 0
finally:
    ended.set()
    watching.join()
    print(len(seen), max(seen) - seen[0])
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """The models in both forms, which `quantize` and `convert` read."""
    path = tmp_path_factory.mktemp("models")
    return {
        "quantize": [tiny.write_gguf(model, path / f"{model.name}.gguf") for model in (SMALL, LARGE)],
        "convert": [tiny.write_folder(model, path / model.name) for model in (SMALL, LARGE)],
    }


@pytest.mark.parametrize(("command", "mixture"), [("quantize", "Q8_0"), ("convert", "Q8_0"), ("convert", "F32")])
def test_memory(files: dict[str, list[Path]], tmp_path: Path, command: str, mixture: str) -> None:
    """Anonymous memory, which the mapped pages of the file that is read are no part of. `convert` reorders rows of
    queries and keys in memory."""
    small, large = files[command]
    arguments = [command, str(small), str(large), str(tmp_path / "out.gguf"), mixture]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    samples, growth = map(int, done.stdout.split()[-2:])
    assert files["quantize"][1].stat().st_size > 30 * LARGEST
    assert samples > 20 and growth << 10 < 4 * LARGEST, done.stdout
