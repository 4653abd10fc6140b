"""This build on older x86-64 processors, emulated by qemu: each uses what it has, and computes what that tier computes.

Runs with --qemu alone; needs qemu-user (Debian, Ubuntu). A processor that has every tier cannot show that a lesser one
runs no instruction which it lacks.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.remote import need

pytestmark = pytest.mark.qemu

# qemu's name of a processor -> the best tier it has: SSE4.2 alone; AVX2; AVX2 on AMD's.
PROCESSORS = {"Nehalem": "scalar", "Haswell": "avx2", "EPYC-Rome": "avx2"}
PROGRAM = """
import sys
import pellucid
with pellucid.Model.load(sys.argv[1], threads=1) as model:
    assert model.info().isa == sys.argv[2], model.info().isa
    ids = model.generate("Water is", max_tokens=4, temperature=0).ids
    print(ids, model.logits(model.tokenize("Water")).tobytes().hex())
"""


def environment(**env: str) -> dict[str, str]:
    """This process's environment, without what tells NumPy's OpenBLAS to take the kernels of one processor."""
    return {key: value for key, value in os.environ.items() if not key.startswith("OPENBLAS_")} | env


def run(command: list[str], *arguments: str, **env: str) -> str:
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=300, env=environment(**env))
    assert result.returncode == 0, (result.returncode, result.stderr[-2000:])
    return result.stdout


def emulated(processor: str) -> list[str]:
    return [need("qemu-x86_64"), "-cpu", processor, sys.executable, "-c"]


@pytest.mark.parametrize("processor", PROCESSORS)
def test_a_processor_that_lacks_the_later_tiers(processor: str, smollm2: Path) -> None:
    isa = PROCESSORS[processor]
    arguments = PROGRAM, str(smollm2), isa
    expected = run([sys.executable, "-c"], *arguments, OMP_NUM_THREADS="1", PELLUCID_ISA=isa)
    assert run(emulated(processor), *arguments, OMP_NUM_THREADS="1") == expected


@pytest.mark.parametrize("processor", PROCESSORS)
def test_what_a_load_measures(processor: str) -> None:
    """With weights that no cache holds; other tests load without a measurement."""
    program = "from pellucid import _engine; isa = _engine.find_isa(None); p = _engine.Probe(isa=isa, threads=1, "
    program += (
        "size=1 << 16, small=False); one = {'format': 'Q4_0', 'k': 256, 'rows': 1, 'size': 1 << 15, 'cold': True}"
    )
    program += "; print(p.products([one])[0] > 0)"
    assert run(emulated(processor), program) == "True\n"


@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_kernels_alone(processor: str) -> None:
    """The modules of single kernels find the same tiers."""
    program = "from pellucid._kernels import weights; print(weights.isas()[-1])"
    assert run(emulated(processor), program).strip() == PROCESSORS[processor]
