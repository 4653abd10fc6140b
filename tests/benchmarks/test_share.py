"""benchmarks/share.py: runs, and finds that shared weights take less."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.engine import models

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/share.py"


def test_share(tmp_path: Path) -> None:
    path = models.write(tmp_path, "wide", vocab=20000)  # 20 MB in F32
    done = subprocess.run(
        [sys.executable, SCRIPT, path, "--repeat", "1", "--processes", "2"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^\| (.+?) \| \d+\.\d\d ", done.stdout, re.M) == [
        "weights of its own",
        "the first that shares",
        "one more",
    ]
    ((_, own, shared),) = re.findall(r"^\| (2) processes \| (\d+) \| (\d+) \|$", done.stdout, re.M)
    assert 10 < int(own) - int(shared) < 40
