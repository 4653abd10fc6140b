"""Options and fixtures for all tests."""

from __future__ import annotations

import gc
import os
import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")
Some = Callable[[Sequence[T], str], Sequence[T]]  # the fixture `some`
OPTIONS = {
    "clients": "also run released clients of OpenAI's interface against the server, each in an environment of its own "
    "(needs a package index, node and npm); without this option they are deselected",
    "gemma": "also run the tests that need the Gemma 3 file of the catalogue (253 MB, fetched when absent); "
    "without this option they are deselected",
    "live": "also run the tests that compare with another runtime (extras `reference` and `llama`: torch, "
    "transformers, llama-cpp-python), of long ones a quarter (--nightly: all); without this option they are deselected",
    "nightly": "also run the long tests, such as 100,000 hostile requests to the server, and all cases of those marked "
    "`long`, of which else a quarter runs; "
    "without this option they are deselected",
    "packages": "also build the recipes for Debian, conda and Homebrew (Debian: debhelper dh-python dpkg-dev lintian "
    "pybuild-plugin-pyproject ruby; extras `wheel` and `packages`; needs a package index); "
    "without this option they are deselected",
    "page": "also open pages in Chromium and Firefox (Debian: chromium firefox-esr; extra `page-test`); "
    "without this option they are deselected",
    "qemu": "also run the kernels for aarch64, cross-compiled, and this build on older x86-64 processors, under qemu "
    "(Debian, Ubuntu: gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user), and the kernels of AMX with tile "
    "registers in memory, of long ones a quarter (--nightly: all); "
    "without this option they are deselected",
    "wheel": "also build the wheel and install it where there is no compiler (extra `wheel`; needs a package index); "
    "without this option they are deselected",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pellucid")
    for name, text in OPTIONS.items():
        group.addoption(f"--{name}", action="store_true", default=False, help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Restores Ctrl-C, which a shell ignores in background processes: every process of a test would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("PELLUCID_TUNE", "off")  # tests of the tuning itself set it; others need not wait for it
    if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):  # side by side: each has its share of the cores
        os.environ.setdefault("PELLUCID_THREADS", str(max(1, len(os.sched_getaffinity(0)) // workers)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects tests whose option was not given. They are counted as deselected and never reported as skipped."""
    off = [name for name in OPTIONS if not config.getoption(name)]
    left_out = {item for item in items if any(item.get_closest_marker(name) for name in off)}
    if not config.getoption("nightly"):
        left_out |= most_of_the_long(items)
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


def pytest_collection_finish() -> None:
    """Thousands of tests and what they import stay: a search for cycles among them took 0.4 s of one test's time."""
    gc.collect()
    gc.freeze()


def most_of_the_long(items: Sequence[pytest.Item]) -> set[pytest.Item]:
    """Three of four cases of each long test: one that says so, or needs another runtime or an emulated processor."""
    tests: dict[str, list[pytest.Item]] = {}
    for item in items:
        if any(item.get_closest_marker(name) for name in ("long", "live", "qemu")):
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    return {item for test, cases in tests.items() if len(cases) > 12
            for i, item in enumerate(cases) if (i + len(test)) % 4}  # fmt: skip


def model_file(name: str) -> Path:
    """The file of a catalogue model, downloaded if it is not in the cache."""
    from pellucid.weights.catalog import fetch

    return Path(fetch(name, accept_terms=True))


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M Q4_1 (GGUF, 98 MB), the catalogue's default."""
    return model_file("smollm2-135m")


@pytest.fixture(scope="session")
def gemma3() -> Path:
    """Gemma 3 270M Q4_K_M (GGUF, 253 MB): for tests marked `gemma`."""
    return model_file("gemma3-270m")


def all_isas() -> list[str]:
    """The tiers that are built and that this processor supports, "scalar" first."""
    from pellucid._engine import isas

    return [name for name, built, runs in isas() if built and runs]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `isa` runs once per tier, unless it or its module says otherwise.

    To run everything on one tier, set PELLUCID_ISA: the library itself then uses that tier alone.
    """
    if "isa" not in metafunc.fixturenames or hasattr(metafunc.module, "isa"):
        return
    if not any("isa" in str(mark.args[0]) for mark in metafunc.definition.iter_markers("parametrize")):
        metafunc.parametrize("isa", all_isas())


@pytest.fixture(scope="session")
def some(request: pytest.FixtureRequest) -> Some[T]:
    """some(cases, seed): an eighth of a long list, another one for each seed; with --nightly all of it."""

    def choose(cases: Sequence[T], seed: str) -> Sequence[T]:
        if request.config.getoption("nightly"):
            return cases
        chosen = random.Random(seed)
        return [case for case in cases if chosen.random() < 0.125]

    return choose
