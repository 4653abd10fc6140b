"""The tier of tile registers on processors without them: the tests of all tiers, on kernels whose tile registers are
memory (tiles.h), between pages that nothing may touch.

Needs AVX-512 with bf16. Runs with --qemu alone, as what else is emulated.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from pellucid._kernels import weights
from tests.kernels import cases, remote, test_attend, test_matmul
from tests.kernels.remote import Machine

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.usefixtures("machine"),
    pytest.mark.skipif("avx512bf16" not in weights.isas(), reason="what is not emulated needs AVX-512 with bf16"),
]
TESTS = remote.tests_of({test_matmul: ["amx"], test_attend: ["amx"]})
globals().update(TESTS)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    target = remote.with_tiles()
    tiers = [remote.tier(name) for name in ("avx2", "avx512", "avx512bf16", "amx")]
    running = Machine(remote.build(tmp_path_factory.mktemp("tiles"), tiers, target), "amx", target)
    with remote.diverted([running]):
        yield running
    running.close()


def test_tests_are_found() -> None:
    assert len(TESTS) >= 20


def test_the_machine_has_the_kernels(machine: Machine) -> None:
    name = np.zeros(16, np.uint8)
    machine.call("isa", [], [], [name], [0])
    assert name.tobytes().rstrip(b"\0").decode() == "amx"


@pytest.mark.parametrize("terms", [1, 2])
@pytest.mark.parametrize("name", cases.INTEGER)
def test_integers_have_the_bits_of_other_tiers(name: str, terms: int) -> None:
    """From the number of rows on that tiles multiply: whole groups of sixteen and others, one part of k and more."""
    for n, k in ((28, 512), (32, 256), (33, 768), (48, 1280), (300, 2304)):
        case, acts = test_matmul.Case(name, 19, n, k), cases.acts(name, n, k, terms=terms)
        found = [test_matmul.product(isa, case, acts.forms).tobytes() for isa in ("scalar", "amx")]
        assert found[0] == found[1], (n, k)
