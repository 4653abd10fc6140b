"""Small stacks: the stack size set by the system or the user changes no result and crashes no process."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pellucid.options import Kv, Precision
from tests.engine import models
from tests.reference.hashes import hashes

ROOT = Path(__file__).resolve().parents[2]
PROMPT = 300  # tokens: a row's chunk of activations is as large as a tier lays out at once
STACKS = [("64K", 256), ("", 320), ("", 128)]  # OMP_STACKSIZE, ulimit -s in KB


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> list[Path]:
    folder = tmp_path_factory.mktemp("stacks")
    return [*(models.write(folder, "wide", mix) for mix in ("K", "all", "F32", "BF16")), smollm2]


def runs(files: list[Path], isa: str) -> list[tuple[Path, int, str, Kv, Precision]]:
    """(file, tokens, isa, kv, precision) for every kernel with scratch memory, with products in one and two terms."""
    kinds: tuple[Kv, ...] = ("f16", "int8", "f32", "bf16")
    return [
        *((file, PROMPT, isa, kv, "default") for file, kv in zip(files, kinds, strict=False)),
        (files[-1], PROMPT if isa != "scalar" else 20, isa, "bf16", "high"),
    ]


@pytest.fixture(scope="module")
def expected() -> dict[str, list[str]]:
    """Results per tier, with the stacks of this process."""
    return {}


@pytest.mark.long
@pytest.mark.parametrize(("omp", "limit"), STACKS)
def test_small_stacks_give_the_same_bits(
    files: list[Path], expected: dict[str, list[str]], isa: str, omp: str, limit: int
) -> None:
    asked = runs(files, isa)
    if isa not in expected:
        expected[isa] = [hashes(*run) for run in asked]
    lines = [f"print(hashes(Path({str(file)!r}), *{rest!r}), flush=True)" for file, *rest in asked]
    code = "\n".join(["from pathlib import Path", "from tests.reference.hashes import hashes", *lines])
    environment = {key: value for key, value in os.environ.items() if key != "OMP_STACKSIZE"}
    environment |= {"OMP_STACKSIZE": omp} if omp else {}
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_STACK, (limit << 10, hard)),
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert done.stdout.splitlines() == expected[isa]
