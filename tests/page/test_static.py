"""The page's program with npm's tools: types, and the vendored files from their pinned versions."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.page

VENDOR = Path(__file__).resolve().parents[2] / "src/pellucid/page/static/vendor"


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """node_modules of package-lock.json."""
    if shutil.which("npm") is None:
        pytest.fail("npm is missing: apt install nodejs npm")
    folder = tmp_path_factory.mktemp("npm")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(VENDOR / name, folder)
    subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"], cwd=folder, check=True)
    return folder / "node_modules"


def test_types(modules: Path) -> None:
    done = subprocess.run([modules / ".bin/tsc", "-p", VENDOR / "tsconfig.json"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_types_are_checked(modules: Path, tmp_path: Path) -> None:
    """Also the names of texts, and of their places."""
    planted = {
        "/** @param {number} x */\nfunction planted(x) { return x; }\nplanted('a');": "'string' is not assignable",
        'say("noSuchText", { n: 1 });': "'\"noSuchText\"' is not assignable",
        'say("stripBits");': "Expected 2 arguments",
        'say("stripBits", { bit: 1 });': "'bit' does not exist",
        'say("pageReading", { bits: 1 });': "Expected 1 arguments",
        'say("passMore", { n: 1 });': "Property 'bar' is missing",
    }
    shutil.copytree(VENDOR.parent, tmp_path / "static")
    with (tmp_path / "static/page.js").open("a") as file:
        file.write("\n".join(planted))
    done = subprocess.run(
        [modules / ".bin/tsc", "-p", tmp_path / "static/vendor/tsconfig.json"], capture_output=True, text=True
    )
    assert done.returncode != 0
    for code, message in planted.items():
        assert message in done.stdout, (code, done.stdout)


def test_vendored_files_are_built_again(tmp_path: Path) -> None:
    subprocess.run([VENDOR / "build.sh", tmp_path], check=True)
    for name in ("lit.js", "markdown.js", "NOTICE"):
        assert (tmp_path / name).read_bytes() == (VENDOR / name).read_bytes(), name
