"""The tiers of aarch64 on any Linux machine: the tests of all tiers, on kernels that are cross-compiled, under qemu.

Runs with --qemu alone; needs gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user (Debian, Ubuntu).
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import setup
from pellucid._kernels import weights
from tests.kernels import (
    cases,
    guard,
    remote,
    test_attend,
    test_formats,
    test_matmul,
    test_recurrent,
    test_rows,
    test_vocab,
)
from tests.kernels.remote import Machine

pytestmark = [pytest.mark.qemu, pytest.mark.usefixtures("diverted")]
TIERS = [remote.tier("neon"), remote.tier("i8mm")]
MODULES = {module: ["neon"] for module in (test_formats, test_rows, test_recurrent, test_vocab, test_attend)}
TESTS = remote.tests_of({**MODULES, test_matmul: ["neon", "i8mm"]})  # i8mm has products of its own alone
globals().update(TESTS)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return remote.build(tmp_path_factory.mktemp("aarch64"), TIERS, remote.aarch64())


@pytest.fixture(scope="module")
def machines(program: Path) -> Iterator[dict[str, Machine]]:
    running = {tier.name: Machine(program, tier.name, remote.aarch64()) for tier in TIERS}
    yield running
    for one in running.values():
        one.close()


@pytest.fixture(params=[tier.name for tier in TIERS])
def machine(request: pytest.FixtureRequest, machines: dict[str, Machine]) -> Machine:
    return machines[request.param]


@pytest.fixture(scope="module")
def diverted(machines: dict[str, Machine]) -> Iterator[None]:
    with remote.diverted(list(machines.values())):
        yield


def test_tests_are_found() -> None:
    assert len(TESTS) >= 35


def test_the_machine_has_the_kernels(machine: Machine) -> None:
    name = np.zeros(16, np.uint8)
    machine.call("isa", [], [], [name], [0])
    assert name.tobytes().rstrip(b"\0").decode() == machine.isa


def test_a_processor_without_i8mm(program: Path) -> None:
    """The program ends at once where it is asked for a tier that the processor lacks."""
    for isa, runs in (("neon", True), ("i8mm", False)):
        command = [remote.need(remote.EMULATOR), "-cpu", "neoverse-n1", str(program), isa]
        assert (subprocess.run(command, input=b"", capture_output=True).returncode == 0) == runs


@pytest.mark.parametrize("terms", [1, 2])
def test_integers_have_the_bits_of_scalar(terms: int) -> None:
    """Pairs of rows, and a row that is left over, in one and in two panels."""
    for name in cases.INTEGER:
        for n in range(1, 19):
            case, acts = test_matmul.Case(name, 19, n, 512), cases.acts(name, n, 512, terms=terms)
            found = [test_matmul.product(isa, case, acts.forms).tobytes() for isa in ("scalar", "neon", "i8mm")]
            assert found[0] == found[1] == found[2], (name, n)


def test_a_kernel_that_leaves_its_arrays_is_caught(machine: Machine) -> None:
    x = np.ones(64, np.float32)
    with pytest.raises(RuntimeError, match=f"add on {machine.isa} ended the program"):
        machine.call("add", [64], [], [x, x[:32], x.copy()], [2])
    packed, out = guard.at_start(np.ones(2048, np.uint8)), np.ones((1, 64), np.float32)
    machine._matmul("F32", packed, 32, 16, x=x[None, :16], tile0=0, tile1=1, out=out[:, 16:48])
    with pytest.raises(RuntimeError, match=f"matmul on {machine.isa} ended the program"):
        machine._matmul("F32", packed, 32, 16, x=x[None, :16], tile0=-1, tile1=0, out=out[:, 16:48])
    assert machine._add(x, x)[63] == 2


def test_a_changed_input_is_seen(machine: Machine) -> None:
    with pytest.raises(AssertionError, match="softmax changed its input 0"):
        machine.call("softmax", [8], [], [np.ones(8, np.float32)], [])


def test_packed_weights_cross_machines(machine: Machine) -> None:
    """The host's packed weights and products, in its best tier, equal those of the emulated machine bit for bit."""
    raw = np.random.default_rng(0).standard_normal((40, 96)).astype(np.float32)
    x = np.random.default_rng(1).standard_normal((3, 96)).astype(np.float32)
    packed = weights.pack("scalar", "F32", raw.view(np.uint8), 96)
    best = weights.isas()[-1]
    expected = weights.matmul(best, "F32", packed, 40, 96, x=x)
    assert machine._matmul("F32", packed, 40, 96, x=x).tobytes() == expected.tobytes()


def test_peaks_read_all_and_count_their_operations(machine: Machine) -> None:
    data, found = np.random.default_rng(0).integers(0, 2**63, 640, np.uint64), np.zeros(1, np.uint64)
    machine.call("peak_read", [data.nbytes], [], [data, found], [1])
    assert found[0] == np.bitwise_xor.reduce(data)
    products = {"neon": 16, "i8mm": 32}[machine.isa]
    for op, lanes in (("peak_i8", 2 * products), ("peak_f32", 2 * 4)):  # a product is two operations; 16 chains
        assert round(machine.call(op, [1000], [], [], [])) == 1000 * 16 * lanes


def test_all_of_csrc_compiles_for_aarch64_without_a_warning(tmp_path: Path) -> None:
    parts = (*setup.BASELINE, *(f"kernels/{tier.name}" for tier in TIERS))
    sources = [p for part in parts for p in (remote.ROOT / "csrc" / part).glob("*.c")]
    assert len(remote.compile_all(sources, tmp_path, TIERS, remote.aarch64())) == len(sources) > 30
