"""The recipes for Debian, conda and Homebrew build from the sdist and give a program that runs.

Runs with `pytest --packages tests/packages` (Debian: apt install debhelper dh-python dpkg-dev pybuild-plugin-pyproject
lintian ruby; extras `wheel` and `packages`); it needs a package index. Conda-forge and Homebrew are not asked:
a channel of stand-ins takes the place of the one (channel.py), and a file of Ruby that of the other (homebrew.rb).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest

import pellucid
from tests import sdist as sdists

HERE = Path(__file__).resolve().parent
ROOT = sdists.ROOT
PACKAGING = ROOT / "packaging"
VERSION = pellucid.__version__
DEPENDENCIES = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
pytestmark = pytest.mark.packages


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    return sdists.run(*command, cwd=cwd, without=("PYTHON", "PELLUCID_"), **environment)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sdists.make_sdist(tmp_path_factory.mktemp("sdist"))


def unpack(sdist: Path, folder: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (tree,) = (path for path in folder.iterdir() if path.is_dir())
    return tree


# ---- Debian ----------------------------------------------------------------------------------------------------------

SYSTEM = Path("/usr/bin/python3")


@pytest.fixture(scope="module")
def deb(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from source and binary as Debian's own machines do it; where Debian's Cython is too old, with PyPI's."""
    folder = tmp_path_factory.mktemp("debian")
    shutil.copy(sdist, folder / f"pellucid_{VERSION}.orig.tar.gz")
    tree = unpack(sdist, folder)
    shutil.copytree(PACKAGING / "debian", tree / "debian")
    missing = subprocess.run(["dpkg-checkbuilddeps"], cwd=tree, capture_output=True, text=True).stderr.strip()
    assert re.fullmatch(r"(.*unmet build dependencies: cython3 \(>= \S+\))?", missing), missing
    environment: dict[str, str] = {}
    if missing:
        run(sys.executable, "-m", "pip", "install", "-q", "--target", folder / "tools", "cython>=3.1")
        environment = {"PYTHONPATH": str(folder / "tools")}
    run("dpkg-buildpackage", "-us", "-uc", *["-d"] * bool(missing), cwd=tree, **environment)
    assert {path.suffix for path in folder.glob("pellucid_*")} >= {".dsc", ".changes", ".buildinfo"}
    (path,) = folder.glob("python3-pellucid_*.deb")
    return path


def test_debian_says_what_the_package_needs(deb: Path) -> None:
    needs = " ".join(run("dpkg-deb", "-f", deb, "Depends", "Recommends").split())
    for need in DEPENDENCIES:
        name, _, least = need.partition(">=")
        assert re.search(rf"python3-{name} \(>= (\d+:)?{re.escape(least)}\)", needs), need
    assert "libgomp1" in needs and "libc6" in needs and "python3:any (>= 3.11~)" in needs
    assert not re.search(r"python3 \(<<", needs)  # the stable interface runs in every later one


def test_debian_has_the_wheels_files(deb: Path, tmp_path: Path) -> None:
    run("dpkg-deb", "-x", deb, tmp_path)
    installed = tmp_path / "usr/lib/python3/dist-packages/pellucid"
    stubs = {path.name.removesuffix(".pyi") for path in installed.glob("*.pyi")}
    assert stubs == {path.name.removesuffix(".abi3.so") for path in installed.glob("*.so")} != set()
    assert (installed / "py.typed").is_file() and (installed / "page/static").is_dir()
    assert not (installed / "_kernels").exists() and not list(installed.rglob("*.pyx"))
    assert os.access(tmp_path / "usr/bin/pellucid", os.X_OK)


def test_debian_complains_of_nothing_but_what_an_upload_needs(deb: Path) -> None:
    (path,) = deb.parent.glob("pellucid_*.changes")
    said = subprocess.run(["lintian", "--allow-root", path], capture_output=True, text=True).stdout
    tags = set(re.findall(r"^[EW]: [^:]*: (\S+)", said, re.M))
    assert tags <= {
        "bogus-mail-host",
        "bogus-mail-host-in-debian-changelog",
        "initial-upload-closes-no-bugs",
        "no-manual-page",
    }, said


def test_debians_files_run_in_its_python(deb: Path, tmp_path: Path) -> None:
    run("dpkg-deb", "-x", deb, tmp_path)
    run(SYSTEM, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    run(python, "-m", "pip", "install", "-q", "--only-binary", ":all:", *DEPENDENCIES)
    path = str(tmp_path / "usr/lib/python3/dist-packages")
    assert VERSION in run(python, tmp_path / "usr/bin/pellucid", "--version", PYTHONPATH=path, cwd=tmp_path)
    where = "import pellucid._engine; print(pellucid._engine.__file__)"
    assert run(python, "-c", where, PYTHONPATH=path, cwd=tmp_path).startswith(path)


# ---- conda -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def conda(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    """The package that rattler-build makes of the recipe, and the address of the channel it was made with."""
    import rattler_build

    from tests.packages.channel import PYTHON, Channel

    folder = tmp_path_factory.mktemp("conda")
    text = (PACKAGING / "conda/recipe.yaml").read_text()
    digest = hashlib.sha256(sdist.read_bytes()).hexdigest()
    given = {
        "url: URL": f"url: {sdist.as_uri()}",
        "sha256: SHA256": f"sha256: {digest}",
        'python_min: "3.11"': f'python_min: "{PYTHON}"',
    }
    for old, new in given.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    (folder / "recipe.yaml").write_text(text)
    channel = Channel(folder)
    channel.add_python()
    channel.add_from_pypi("pip", ["pip", "setuptools>=77", "cython>=3.1"])
    channel.add_from_pypi("numpy", DEPENDENCIES)
    others = {need.partition(">=")[0] for need in DEPENDENCIES} - {"numpy"}
    architecture = "64" if os.uname().machine == "x86_64" else "aarch64"
    compilers = {f"{name}_linux-{architecture}" for name in ("gcc", "sysroot")}
    for name in sorted({"setuptools", "cython", "libgomp"} | compilers | others):
        channel.add(name)
    variants = rattler_build.VariantConfig({"c_compiler": ["gcc"], "c_stdlib": ["sysroot"]})
    (variant,) = rattler_build.Stage0Recipe.from_file(folder / "recipe.yaml").render(variants)
    address = channel.write()
    built = variant.run_build(output_dir=folder / "built", channels=[address])
    return rattler_build.Package.from_file(built.packages[0]), address


def test_conda_says_what_the_package_needs(conda: tuple[Any, str]) -> None:
    package, _ = conda
    needs = {need.replace(" ", "") for need in package.depends}
    python = {need for need in needs if re.fullmatch(r"python>=3\.\d+", need)}
    assert len(python) == 1 and needs - python == set(DEPENDENCIES)
    assert (package.name, package.version, package.license) == ("pellucid", VERSION, "Apache-2.0")
    assert package.noarch == "python" and package.subdir.startswith("linux-")  # one for every Python


def test_conda_has_the_wheels_files(conda: tuple[Any, str]) -> None:
    names = [str(name) for name in conda[0].files]
    modules = {name for name in names if name.endswith(".so")}
    assert modules == {f"site-packages/pellucid/{name}.abi3.so" for name in ("_engine", "_parsers")}
    assert not [name for name in names if re.search(r"_kernels|\.(pyx|pxd|c|h|pyc)$", name)]


def test_the_recipes_tests_pass(conda: tuple[Any, str]) -> None:
    package, channel = conda
    found = package.run_tests(channel=[channel])
    assert len(found) == package.test_count == 2
    assert all(one.success for one in found), "\n".join(line for one in found for line in one.output)


# ---- Homebrew --------------------------------------------------------------------------------------------------------


def homebrew(*arguments: str | Path) -> str:
    return run("ruby", "-w", HERE / "homebrew.rb", PACKAGING / "homebrew/pellucid.rb", *arguments)


def test_the_formulas_fields() -> None:
    fields: dict[str, Any] = json.loads(homebrew())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert fields["license"] == project["license"]
    assert fields["desc"].lower().removeprefix("a ") in project["description"].lower()
    assert len(fields["desc"]) < 80 and not re.match(r"(A|An|The|Pellucid)\b", fields["desc"])
    assert fields["url"] == "URL" and fields["sha256"] == "SHA256"  # until there is a release
    (python,) = (need for need in fields["depends_on"] if need.startswith("python@"))
    assert f"Programming Language :: Python :: {python.removeprefix('python@')}" in project["classifiers"]


def test_the_formula_installs_and_passes_its_test(sdist: Path, tmp_path: Path) -> None:
    tree = unpack(sdist, tmp_path)
    homebrew(tree, tmp_path / "prefix", VERSION)
    assert VERSION in run(tmp_path / "prefix/bin/pellucid", "--version")
