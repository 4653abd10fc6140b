"""Environments that have this one's packages and others beside them."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent.parent / "examples"
Run = Callable[..., str]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Callable[[list[str]], Run]:
    """environment(packages) -> run(*arguments of python) -> what it printed. The packages, pinned, are installed into
    an environment of their own, which also has those of this one; they win."""

    def make(packages: list[str]) -> Run:
        folder = tmp_path_factory.mktemp("adapter")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = folder / "bin" / "python"
        site = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        own = sysconfig.get_paths()["purelib"]
        source = f"import site; site.addsitedir({own!r})\n"  # its .pth files too: an editable install
        (folder / "lib" / site / "site-packages" / "zzz_beside.pth").write_text(source)
        subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages], check=True)

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
