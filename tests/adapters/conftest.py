"""Environments that have this one's packages and others beside them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
EXAMPLES = ROOT / "examples"
Run = Callable[..., str]


def readme(imported: str) -> str:
    """The README's lines that import this module, or from it."""
    blocks = re.findall(r"^```py\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    (code,) = [block for block in blocks if f"from {imported} import" in block or f"import {imported}\n" in block]
    return code


def lowest(extra: str, package: str) -> str:
    """The oldest release of a package that an extra allows, as pip takes it. `PELLUCID_NEWEST` leaves it as it is."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (bound,) = [found for one in extras[extra] if (found := re.match(rf"{re.escape(package)}>=([\d.]+)", one))]
    return f"{package}<={bound[1]}"


def releases(packages: Sequence[str]) -> list[str]:
    """The packages as they are pinned; with PELLUCID_NEWEST=1 the newest that there are."""
    newest = os.environ.get("PELLUCID_NEWEST") == "1"
    return [package.partition("==")[0] if newest else package for package in packages]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Callable[..., Run]:
    """environment(packages, alone) -> run(*arguments of python) -> what it printed. The packages, pinned, are installed
    into an environment of their own, which also has those of this one; they win. alone: those that are installed
    without what they depend on."""

    def make(packages: list[str], alone: Sequence[str] = ()) -> Run:
        folder = tmp_path_factory.mktemp("adapter")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = folder / "bin" / "python"
        site = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        own = sysconfig.get_paths()["purelib"]
        source = f"import site; site.addsitedir({own!r})\n"  # its .pth files too: an editable install
        (folder / "lib" / site / "site-packages" / "zzz_beside.pth").write_text(source)
        pip: list[str | Path] = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, *releases(packages)], check=True)
        if alone:
            subprocess.run([*pip, "--no-deps", *releases(alone)], check=True)

        def run(*arguments: str | Path, **more: str) -> str:
            env = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"} | more
            done = subprocess.run(
                [python, *arguments], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                timeout=900,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout
            return done.stdout

        return run

    return make
