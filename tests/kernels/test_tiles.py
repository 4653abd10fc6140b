"""The tier of tile registers on processors without them: the tests of all tiers, on kernels whose tile registers are
memory (tiles.h), between pages that nothing may touch.

Needs AVX-512 with bf16. Runs with --qemu alone, like everything that is emulated.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from pellucid._kernels import machine as cpu
from tests.kernels import cases, remote, test_attend, test_matmul
from tests.kernels.remote import Machine

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.usefixtures("machine"),
    pytest.mark.skipif(  # of the processor, whatever tiers this build has: serve.c is built with its own
        not any(tier["runs"] for tier in cpu.isas() if tier["name"] == "avx512bf16"),
        reason="this processor has no AVX-512 with bf16, in which what is not emulated is compiled",
    ),
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
def test_integers_have_the_bits_of_scalar(terms: int) -> None:
    """From the number of rows on that tiles multiply: whole groups of sixteen and others, one part of k and more."""
    for name in cases.INTEGER:
        for n, k in ((28, 512), (32, 256), (33, 768), (48, 1280), (300, 2304)):
            case, acts = test_matmul.Case(name, 19, n, k), cases.acts(name, n, k, terms=terms)
            found = [test_matmul.product(isa, case, acts.forms).tobytes() for isa in ("scalar", "amx")]
            assert found[0] == found[1], (name, n, k)


@pytest.mark.parametrize(("rows", "n", "k"), [(1, 1, 2), (19, 3, 83), (70, 33, 512), (41, 290, 2117)])
def test_bf16_is_within_its_bound(rows: int, n: int, k: int) -> None:
    case, acts = test_matmul.Case("BF16", rows, n, k), cases.acts("BF16", n, k)
    exact, bound = test_matmul.reference(case, acts)
    found = test_matmul.product("amx", case, acts.forms)
    assert (np.abs(found - exact) <= 2 * bound + test_matmul.flushed(case, acts)).all()
