"""The NEON tier on any Linux machine: the tests of all tiers, on kernels cross-compiled for aarch64 under qemu.

Runs with --qemu alone; needs gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user (Debian, Ubuntu).
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import setup
from pellucid._kernels import weights
from tests.kernels import guard, remote, test_attend, test_formats, test_matmul, test_recurrent, test_rows, test_vocab
from tests.kernels.remote import Machine

pytestmark = [pytest.mark.qemu, pytest.mark.usefixtures("diverted")]
NEON = remote.tier("neon")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    running = Machine(remote.build(tmp_path_factory.mktemp("neon"), NEON), NEON.name)
    yield running
    running.close()


@pytest.fixture(scope="module")
def diverted(machine: Machine) -> Iterator[None]:
    """During the tests of this module, isa "neon" is run by the emulated machine."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, function in machine.patches():
            patch.setattr(module, name, function)
        yield


def on_neon(test: Callable[..., Any]) -> Callable[..., Any]:
    """The test with "neon" as its only `isa`."""
    copy = types.FunctionType(test.__code__, test.__globals__, test.__name__, test.__defaults__, test.__closure__)
    marks = [
        pytest.mark.parametrize("isa", ["neon"]).mark if mark.name == "parametrize" and mark.args[0] == "isa" else mark
        for mark in getattr(test, "pytestmark", [])
    ]
    copy.pytestmark = marks  # type: ignore[attr-defined]
    return copy


def tier_tests() -> dict[str, Callable[..., Any]]:
    """Unique name -> test, for every kernel test that takes an `isa`."""
    found = {}
    for module in (test_formats, test_matmul, test_rows, test_recurrent, test_vocab, test_attend):
        area = module.__name__.rpartition("test_")[2]
        for name, test in vars(module).items():
            if name.startswith("test_") and "isa" in test.__code__.co_varnames[: test.__code__.co_argcount]:
                found[f"test_{area}_{name.removeprefix('test_')}"] = on_neon(test)
    return found


globals().update(tier_tests())


def test_tests_are_found() -> None:
    assert len(tier_tests()) >= 35


def test_the_machine_has_the_neon_kernels(machine: Machine) -> None:
    name = np.zeros(16, np.uint8)
    machine.call("isa", [], [], [name], [0])
    assert name.tobytes().rstrip(b"\0") == b"neon"


def test_a_kernel_that_leaves_its_arrays_is_caught(machine: Machine) -> None:
    x = np.ones(64, np.float32)
    with pytest.raises(RuntimeError, match="add on neon ended the program"):
        machine.call("add", [64], [], [x, x[:32], x.copy()], [2])
    packed, out = guard.at_start(np.ones(2048, np.uint8)), np.ones((1, 64), np.float32)
    machine._matmul("F32", packed, 32, 16, x=x[None, :16], tile0=0, tile1=1, out=out[:, 16:48])
    with pytest.raises(RuntimeError, match="matmul on neon ended the program"):
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
    for op, lanes in (("peak_i8", 2 * 16), ("peak_f32", 2 * 4)):  # a product is two operations; 16 chains
        assert round(machine.call(op, [1000], [], [], [])) == 1000 * 16 * lanes


def test_all_of_csrc_compiles_for_aarch64_without_a_warning(tmp_path: Path) -> None:
    sources = [p for part in (*setup.BASELINE, "kernels/neon") for p in (remote.ROOT / "csrc" / part).glob("*.c")]
    assert len(remote.compile_all(sources, tmp_path, NEON)) == len(sources) > 30
