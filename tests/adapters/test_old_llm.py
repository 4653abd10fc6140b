"""The plugin for `llm` beside a version of `llm` that is older than it needs."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_llm_goes_on_without_the_plugin(tmp_path: Path) -> None:
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm/__init__.py").write_text("hookimpl = lambda function: function\n")  # and no llm.parts
    name = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["llm"]["pellucid"]
    code = f"import importlib; print([one for one in dir(importlib.import_module({name!r})) if 'register' in one])"
    path = os.pathsep.join([str(tmp_path), str(ROOT / "src")])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    assert "Pellucid's plugin for llm is left out: pellucid.adapters.llm needs the extra llm" in done.stderr
