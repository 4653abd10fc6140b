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


def run(command: list[str], isa: str, model: Path, **env: str) -> str:
    result = subprocess.run(
        [*command, "-c", PROGRAM, str(model), isa],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
    )
    assert result.returncode == 0, (result.returncode, result.stderr[-2000:])
    return result.stdout


@pytest.mark.parametrize("processor", PROCESSORS)
def test_a_processor_that_lacks_the_later_tiers(processor: str, smollm2: Path) -> None:
    isa = PROCESSORS[processor]
    emulated = run([need("qemu-x86_64"), "-cpu", processor, sys.executable], isa, smollm2)
    assert emulated == run([sys.executable], isa, smollm2, PELLUCID_ISA=isa)


@pytest.mark.parametrize("processor", PROCESSORS)
def test_what_a_load_measures(processor: str) -> None:
    """With weights that no cache holds; other tests load without a measurement."""
    program = "from pellucid import _engine; isa = _engine.find_isa(None); p = _engine.Probe(isa=isa, threads=1, "
    program += (
        "size=1 << 16, small=False); one = {'format': 'Q4_0', 'k': 256, 'rows': 1, 'size': 1 << 15, 'cold': True}"
    )
    program += "; print(p.products([one])[0] > 0)"
    command = [need("qemu-x86_64"), "-cpu", processor, sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (0, "True\n"), result.stderr[-2000:]


@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_kernels_alone(processor: str) -> None:
    """The modules of single kernels find the same tiers."""
    program = "from pellucid._kernels import weights; print(weights.isas()[-1])"
    command = [need("qemu-x86_64"), "-cpu", processor, sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, (result.returncode, result.stderr[-2000:])
    assert result.stdout.strip() == PROCESSORS[processor]
